# SPDX-License-Identifier: GPL-2.0-or-later
"""Scans a fleet: plays until each host is done or has its reason, merges results as they come, judges at the end."""

from __future__ import annotations

import contextlib
import platform
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from drakmet.errors import DrakmetError, ExitCode
from drakmet.fleet.bundle import Bundle, Extras, make_bundle
from drakmet.fleet.foreign import BrokenResultError, Result, read_result
from drakmet.fleet.merge import Merger
from drakmet.fleet.play import Event, Request, playing
from drakmet.fleet.records import FleetHost
from drakmet.fleet.words import meaning
from drakmet.lab.places import write_private
from drakmet.records import CORE_RECORDS, Session
from drakmet.store import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from drakmet.fleet.runs import Run
    from drakmet.records import Finding, Record
    from drakmet.rules import RuleSet

_AGAIN = frozenset(("down", "not reached", "broken result", "broken bundle"))
_GOOD = frozenset(("done", "gaps", "partly"))
_OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"
_BUNDLES = 4
# Of a fleet many guests have the same fault: a rule may find it in as many rows as are judged together.
_TOGETHER = 1_000
_FOR_A_RULE = 10.0
_KEY = re.compile(r"3\.\d{1,2}-[a-z0-9_]{1,20}")


@dataclass
class Scanned:
    """How a run of a fleet stands."""

    hosts: list[dict[str, Any]]
    findings: list[Finding] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)
    """Why rules could not be used, or not everywhere, by their ids."""

    @property
    def exit_code(self) -> ExitCode:
        """Hosts and guests that could not be read come first, then findings, then what is not whole."""
        if self.hosts and not any(row["outcome"] in _GOOD for row in self.hosts):
            return ExitCode.FAILED
        if any(row["outcome"] not in ("done", "gaps") for row in self.hosts):
            return ExitCode.PARTLY
        if self.findings:
            return ExitCode.FINDINGS
        gaps = any(row["outcome"] == "gaps" for row in self.hosts)
        return ExitCode.PARTLY if self.faults or gaps else ExitCode.CLEAN


class FleetScan:
    """Brings a run to its end. ``note`` gets a line for people at each step of a host; ``cache`` is for bundles."""

    def __init__(
        self,
        run: Run,
        records: Iterable[type[Record]],
        *,
        cache: Path,
        passwords: Mapping[str, str] | None = None,
        note: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._run = run
        self._records = list(dict.fromkeys([*CORE_RECORDS, *records]))
        self._cache = cache
        self._passwords = dict(passwords or {})
        self._note = note
        self._bundles: dict[str, Bundle] = {}
        self._about: dict[str, FleetHost] = {}
        self._codes: dict[str, int] = {}
        self._wanted: set[str] = set()
        self._tried: set[str] = set()

    def scan(self, rules: RuleSet | None) -> Scanned:
        """Scan what is left of the run, merge it and judge it; raise `DrakmetError` if the run itself cannot go on."""
        with Writer(self._run.database, [*self._records, FleetHost]) as writer:
            merger = Merger(writer)
            self._take_up(merger)
            left = self._run.left()
            self._add_bundle(_OWN, platform.machine())
            attempts = 0
            while left and attempts <= self._run.settings.retries:
                self._wanted.clear()
                outcomes = self._play(left, merger, writer)
                for key in sorted(self._wanted):
                    self._add_bundle(*key.split("-", 1))
                attempts += not self._wanted
                again = {host for host in left if outcomes.get(host, "not reached") in _AGAIN | {"no bundle"}}
                left = {host: left[host] for host in left if host in again}
                if left and attempts <= self._run.settings.retries:
                    self._note(f"once more: {', '.join(sorted(left))}")
            scanned = Scanned(self._run.rows())
            if rules is not None:
                self._judge(rules, writer, scanned)
        return scanned

    def _take_up(self, merger: Merger) -> None:
        """Merge what an earlier start of this run fetched and was ended before it could merge."""
        for host in self._run.left():
            if (self._run.incoming / self._run.file_of(host)).exists():
                self._about[host] = FleetHost(name=host, begin=time.time_ns(), end=0, outcome="done")
                if self._merge(host, merger) is None:
                    (self._run.incoming / self._run.file_of(host)).unlink(missing_ok=True)

    def _add_bundle(self, python: str, machine: str) -> None:
        self._tried.add(f"{python}-{machine}")
        settings = self._run.settings
        extras = Extras(tuple(map(Path, settings.plugins)), Path(settings.identity) if settings.identity else None)
        try:
            bundle = make_bundle(self._cache, python, machine, extras)
        except DrakmetError as error:
            if python == _OWN:
                raise
            self._note(f"hosts with Python {python} on {machine} are left out: {error}")
        else:
            self._bundles[f"{python}-{machine}"] = bundle

    def _play(self, left: Mapping[str, list[str]], merger: Merger, writer: Writer) -> dict[str, str]:
        self._about = {
            host: FleetHost(name=host, begin=time.time_ns(), end=0, outcome="not reached", reason=None) for host in left
        }
        outcomes: dict[str, str] = {}
        said = ""
        with playing(self._request(left)) as events:
            for event in events:
                said = event.said or said
                if event.host in self._about and event.host not in outcomes:
                    outcome = self._step(event, merger)
                    if outcome is not None:
                        outcomes[event.host] = outcome
                        if outcome == "no bundle":
                            self._note(f"{event.host}: a bundle for its Python has to be made")
                        else:
                            self._tell(event.host, writer)
        for host in left:
            if host not in outcomes:
                outcomes[host] = "not reached"
                self._fail(host, "not reached", _last_error(said))
                self._tell(host, writer)
        return outcomes

    def _request(self, left: Mapping[str, list[str]]) -> Request:
        run, settings = self._run, self._run.settings
        variables = {
            "dir": settings.remote,
            "deadline": settings.deadline,
            "most": settings.longest,
            "live": settings.live,
            "keep": settings.keep,
            "run": settings.name,
            "results": str(run.incoming.absolute()),
            "files": {host: run.file_of(host) for host in left},
            "targets": {host: uris for host, uris in left.items() if uris},
            "bundles": {name: bundle.as_variable() for name, bundle in self._bundles.items()},
        }
        folder = run.ansible.absolute()
        write_private(folder / "variables.json", msgspec.json.encode({"drakmet_fleet": variables}).decode())
        write_private(folder / "hosts.txt", "".join(f"{host}\n" for host in left))
        extra = ["--limit", f"@{folder / 'hosts.txt'}", "--extra-vars", f"@{folder / 'variables.json'}"]
        playbook = str(Path(__file__).with_name("scan.yml"))
        arguments = [*settings.arguments, *extra]
        return Request(str(folder), playbook, arguments, settings.directory, settings.longest, self._passwords)

    def _step(self, event: Event, merger: Merger) -> str | None:
        """Take a task's end; return the host's outcome once it is known."""
        host, result = event.host, event.result
        about = self._about[host]
        if event.kind == "ok":
            if event.task == "look":
                about.python, about.xen = _text(result.get("python")), _text(result.get("xen"))
                about.own_name = _text(result.get("name"))
                self._codes.pop(host, None)
                machine = _text(result.get("machine")) or "unknown"
                self._note(f"{host}: Python {about.python} on {machine}, Xen {about.xen or 'not seen'}")
                key = f"{about.python}-{machine}"
                about.bundle = self._bundles[key].digest if key in self._bundles else None
                # What a host says of itself is not all to be believed: nothing is made twice, and little for it.
                if key not in self._tried and len(self._tried) < _BUNDLES and _KEY.fullmatch(key):
                    self._wanted.add(key)
            elif event.task == "bring":
                self._note(f"{host}: has what is needed")
            elif event.task == "scan":
                about.seconds, self._codes[host] = _number(result.get("seconds")), int(_number(result.get("code")) or 0)
                self._note(f"{host}: scanned in {about.seconds:.0f} s" if about.seconds else f"{host}: scanned")
            elif event.task == "fetch":
                return self._merge(host, merger)
            return None
        if event.ignored or event.task == "clean":
            return None
        if event.task == "python" and any(key.startswith(f"{about.python}-") for key in self._wanted):
            return "no bundle"
        reason = str(result.get("msg") or "it failed without a word").removeprefix("Task failed: ").strip()
        kind = result.get("kind")
        self._fail(host, _text(kind) or meaning(reason, down=event.kind == "unreachable"), f"{event.task}: {reason}")
        return about.outcome

    def _merge(self, host: str, merger: Merger) -> str | None:
        """Merge the file that came from a host, and return the outcome; None, with its reason kept, if it is broken."""
        run = self._run
        packed = run.incoming / run.file_of(host)
        about = self._about[host]
        try:
            result = read_result(packed, self._records, most=run.settings.longest)
        except BrokenResultError as error:
            # It is kept: a broken result may be all that is left of what was done to a host.
            if packed.is_file() and not packed.is_symlink():
                run.keep_result(host)
            self._fail(host, "broken result", f"fetch: {error}")
            return "broken result"
        about = _complete(about, result, self._codes.get(host, 0))
        run.keep_result(host)
        self._about[host] = merger.add(result, about)
        return about.outcome

    def _fail(self, host: str, outcome: str, reason: str) -> None:
        about = self._about[host]
        about.outcome, about.reason, about.end = outcome, reason[:2000], time.time_ns()

    def _tell(self, host: str, writer: Writer) -> None:
        about = self._about[host]
        if about.rows is None and about.end:
            writer.put(about)
            writer.flush()
        text = f"{about.guests} guests, {about.rows} rows" if about.rows is not None else (about.reason or "")
        self._note(f"{host}: {about.outcome}: {text}")

    def _judge(self, rules: RuleSet, writer: Writer, scanned: Scanned) -> None:
        from drakmet.rules import Evaluator
        from drakmet.store.reader import connect

        try:
            evaluator = Evaluator(
                self._run.database,
                rules.rules,
                rules.lists,
                exceptions=rules.site.exceptions,
                where=rules.where,
                whole=True,
                seconds=_FOR_A_RULE,
                chunk=_TOGETHER,
            )
            with contextlib.closing(evaluator):
                found = evaluator.step()
                scanned.faults = {
                    outcome.rule: outcome.reason or "it failed" for outcome in evaluator.outcomes() if outcome.faulty
                }
        except DrakmetError as error:
            scanned.faults = {"": f"the rules were not evaluated: {error}"}
            return
        with contextlib.closing(connect(self._run.database)) as connection:
            known = set(connection.execute("SELECT session, rule, rests_on FROM finding"))
        for finding in found:
            if (finding.session, finding.rule, finding.rests_on) not in known:
                writer.put(finding)
        writer.flush()
        scanned.findings = found


def _complete(about: FleetHost, result: Result, code: int) -> FleetHost:
    ends = result.columns[Session].get("outcome", [])
    failed = sum(outcome != "done" for outcome in ends)
    outcome = "partly" if failed else "gaps" if code == ExitCode.PARTLY else "done"
    return msgspec.structs.replace(
        about,
        outcome=outcome,
        reason=f"{failed} of {len(ends)} guests could not be read" if failed else None,
        end=time.time_ns(),
        guests=len(ends),
        failed_guests=failed,
        size=result.size,
        sha256=result.sha256,
        head=result.head,
    )


def _last_error(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if "ERROR" in line]
    return f"Ansible did not come to it: {lines[-1]}" if lines else "Ansible did not come to it"


def _text(value: Any) -> str | None:
    return value[:200] if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
