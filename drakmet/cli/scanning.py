# SPDX-License-Identifier: GPL-2.0-or-later
"""Scans of one or many guests into one file: what ``drakmet scan`` and whoever scans fleets have in common."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from drakmet.cli.comparing import compare_with
from drakmet.errors import DrakmetError, ExitCode
from drakmet.holes.compare import Ran
from drakmet.identity import Identities
from drakmet.identity.listed import load as load_hashes
from drakmet.naming.records import Application
from drakmet.records import Coverage, CoverageKind
from drakmet.scan import SCAN_RECORDS, Scanned, scan
from drakmet.scan.applications import Applications
from drakmet.scan.codeviews import CodeViews
from drakmet.scan.kernelfiles import KernelFiles
from drakmet.scan.kerneltext import KernelTexts
from drakmet.sources import give_profiles, isf_profiles
from drakmet.sources.scanning import open_for_scan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from drakmet.guest.memory import PhysicalMemory
    from drakmet.guest.profile import Profile
    from drakmet.identity.listed import Listed
    from drakmet.plugins import PluginSet
    from drakmet.records import Finding, Record
    from drakmet.rules import Outcome, RuleSet
    from drakmet.scan.collectors import Collector
    from drakmet.store import Writer


class GuestResult(msgspec.Struct):
    """How the scan of one guest went; ``paused`` in nanoseconds, None where nothing was paused."""

    uri: str
    session: int | None = None
    kernel: str | None = None
    outcome: str = "done"
    failed: bool = False
    exit_code: int = 0
    seconds: float = 0.0
    paused: int | None = None
    rows: dict[str, int] = {}
    gaps: list[str] = []

    def row(self) -> dict[str, Any]:
        """Return it as a line of the table for people."""
        return {
            "guest": self.uri,
            "kernel": self.kernel,
            "processes": self.rows.get("process"),
            "sockets": self.rows.get("open_socket"),
            "modules": self.rows.get("kernel_module"),
            "paused_ms": None if self.paused is None else f"{self.paused / 1e6:.1f}",
            "seconds": f"{self.seconds:.1f}",
            "outcome": self.outcome,
        }


@dataclass(frozen=True)
class Against:
    """What to name code by, advisories to compare what is named with, and lists of hashes to look for."""

    identity: Path | None = None
    advisories: tuple[Path, ...] = ()
    release: str | None = None
    hashes: tuple[Path, ...] = ()


class _Ran:
    """A sink that keeps what is needed of applications to compare them with advisories."""

    def __init__(self) -> None:
        self.rows: list[Ran] = []

    def put(self, record: Record) -> None:
        """Take a record."""
        if isinstance(record, Application) and record.candidates:
            candidates, sources = tuple(record.candidates), tuple(record.sources or ())
            self.rows.append(Ran(record.process, record.path, record.verdict, candidates, sources))

    def flush(self) -> None:
        """Do nothing: all is kept."""


@dataclass
class Results:
    """All guests of a run, and what the rules found in them."""

    database: Path
    guests: list[GuestResult] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    rules: list[Outcome] = field(default_factory=list)
    rules_fault: DrakmetError | None = None
    stored: int = 0
    quarantined: int = 0
    failed_plugins: int = 0

    @property
    def exit_code(self) -> ExitCode:
        """A guest that could not be read comes first, then findings, then what is not whole."""
        failed = [guest for guest in self.guests if guest.failed]
        if failed and len(failed) == len(self.guests):
            return ExitCode(failed[0].exit_code) if len(failed) == 1 else ExitCode.FAILED
        if failed:
            return ExitCode.PARTLY
        if self.findings:
            return ExitCode.FINDINGS
        partly = self.quarantined or self.rules_fault or self.failed_plugins or any(guest.gaps for guest in self.guests)
        return ExitCode.PARTLY if partly else ExitCode.CLEAN

    def guest_of(self, finding: Finding) -> str:
        """Return the URI of the guest that a finding is about."""
        return next((guest.uri for guest in self.guests if guest.session == finding.session), "")


def run(
    uris: Sequence[str],
    plugins: PluginSet,
    database: Path,
    *,
    rules: RuleSet | None = None,
    live: bool = False,
    host: str | None = None,
    against: Against | None = None,
    kernels: Sequence[Path] = (),
    isf: Iterable[Path] = (),
    note: Callable[[str], object] = lambda _: None,
) -> Results:
    """Scan guests one after the other into ``database``; one that cannot be read is a result like the others.

    ``host`` is the name to store for the machine, if not its own; ``against`` is what to name code by, and advisories;
    ``kernels`` are files of kernels to compare theirs with; ``isf`` are profiles of kernels that carry none.
    """
    from drakmet.rules import Evaluator
    from drakmet.store import Writer

    profiles = isf_profiles(isf)
    results = Results(database, failed_plugins=len(plugins.failed))
    for plugin in plugins.failed:
        note(f"plugin {plugin.name} is left out: {plugin.error} ({plugin.origin})")
    with ExitStack() as stack:
        files = KernelFiles(kernels, note) if kernels else None
        identities = stack.enter_context(Identities.open(against.identity)) if against and against.identity else None
        listed = load_hashes(against.hashes) if against and against.hashes else None
        writer = stack.enter_context(Writer(database, [*plugins.records, *SCAN_RECORDS]))
        evaluator = None
        if rules is not None:
            # It must see the file as it is before the scan: what is in it already was judged then.
            evaluator = Evaluator(database, rules.rules, rules.lists, start="end", seconds=30.0)
            stack.callback(evaluator.close)
        for number, uri in enumerate(uris, 1):
            note(f"{uri} ({number} of {len(uris)})")
            known = identities, files, listed
            result = _one(uri, plugins, writer, known, against, live=live, host=host, profiles=profiles, note=note)
            results.guests.append(result)
        if evaluator is not None:
            try:
                results.findings = evaluator.step()
                for guest in results.guests:
                    if guest.session is not None:
                        results.rules += evaluator.outcomes(guest.session)
            except DrakmetError as error:
                results.rules_fault = error
        for finding in results.findings:
            writer.put(finding)
        writer.flush()
        results.stored, results.quarantined = writer.stored, writer.quarantined
    return results


def _one(
    uri: str,
    plugins: PluginSet,
    writer: Writer,
    known: tuple[Identities | None, KernelFiles | None, Listed | None],
    against: Against | None,
    *,
    live: bool,
    host: str | None,
    profiles: Sequence[Profile],
    note: Callable[[str], object],
) -> GuestResult:
    result = GuestResult(uri)
    begun = time.monotonic()
    kept: dict[str, Any] = {"host": host, "guest": uri.partition(":")[2]}
    try:
        source = open_for_scan(uri)
        try:
            give_profiles(source, profiles)
            about = source.about
            kept = {"host": host or about.host, "guest": about.guest, "xen": about.xen, "uuid": about.uuid}
            kernel = source.kernel()
            result.kernel = kernel.profile.release or kernel.banner
            opened = writer.begin_session(
                source=uri, os="linux", kernel=kernel.banner, build_id=kernel.build_id, **kept
            )
            result.session = opened.session
            memory, moves = source.memory, getattr(source, "moves", False)
            ran = _Ran()
            scanned = scan(
                source,
                plugins.plugins,
                [writer, ran] if against else [writer],
                session=opened.session,
                next_process=opened.next_process,
                live=live,
                kernel=kernel,
                more=_more(known, memory, moves=moves),
                note=note,
            )
            _take(result, scanned, getattr(source, "problems", []))
            if against and against.identity:
                more = compare_with(
                    opened.session, ran.rows, writer.put, against.identity, against.advisories, against.release
                )
                result.gaps += [f"advisories: {text}" for text in more]
            for problem in getattr(source, "problems", []):
                writer.put(_gap(opened.session, "image", problem))
        finally:
            source.close()
    except DrakmetError as error:
        result.failed, result.outcome, result.exit_code = True, error.what, int(error.exit_code)
        note(f"{uri} could not be scanned: {error}")
        if result.session is None:
            kept["host"] = kept["host"] or _hostname()
            opened = writer.begin_session(source=uri, **kept)
            result.session = opened.session
            writer.put(_gap(opened.session, "guest", error.what))
    result.seconds = time.monotonic() - begun
    paused = {} if result.paused is None else {"paused_attach": result.paused}
    writer.end_session(result.session, result.outcome, **paused)
    return result


def _more(
    known: tuple[Identities | None, KernelFiles | None, Listed | None], memory: PhysicalMemory, *, moves: bool
) -> list[Collector]:
    identities, files, listed = known
    more: list[Collector] = [CodeViews(memory, moves=moves)]
    if identities is not None or listed is not None:
        more.append(Applications(identities, memory, moves=moves, listed=listed))
    if files is not None:
        more.append(KernelTexts(files, memory, moves=moves))
    return more


def _take(result: GuestResult, scanned: Scanned, problems: list[str]) -> None:
    result.paused, result.rows = scanned.paused, scanned.rows
    result.gaps = [*problems, *scanned.gaps]


def _gap(session: int, what: str, reason: str) -> Coverage:
    now = time.time_ns()
    tables = [record.table for record in SCAN_RECORDS]
    kind = CoverageKind.UNREADABLE.value
    return Coverage(session=session, plugin="scan", trap=what, tables=tables, begin=now, end=now, kind=kind, gap=reason)


def _hostname() -> str:
    import socket

    return socket.gethostname()
