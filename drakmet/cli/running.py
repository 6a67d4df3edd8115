# SPDX-License-Identifier: GPL-2.0-or-later
"""A run over a guest from the opened source to the last finding; what watch, record, replay and demo have in common."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from drakmet.errors import DrakmetError, ExitCode
from drakmet.sources import give_profiles, isf_profiles, open_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from drakmet.monitor import Filters, Statistics
    from drakmet.plugins import LoadedPlugin, PluginSet
    from drakmet.records import Finding, Record
    from drakmet.rules import Outcome, RuleSet
    from drakmet.store import Writer
    from drakmet.traps import Sink


class View(Protocol):
    """Who shows a run while it goes on; also a sink of all records."""

    def note(self, text: str) -> None:
        """Tell of a stage, or of something that is wrong but ends nothing."""

    def put(self, record: Record) -> None:
        """Take one record."""

    def flush(self) -> None:
        """Show what was taken."""

    def finding(self, finding: Finding) -> None:
        """Take one finding; called by the thread that judges."""

    def tick(self, statistics: Statistics) -> None:
        """Take the counts, five times a second."""

    def end(self, ended: Ended) -> None:
        """Show how the run ended."""


@dataclass
class Ended:
    """How a run ended; ``database`` is None for a run that stored nothing."""

    outcome: str
    seconds: float
    database: Path | None
    statistics: Statistics
    stored: int = 0
    quarantined: int = 0
    findings: int = 0
    rules: list[Outcome] = field(default_factory=list)
    failed_plugins: list[LoadedPlugin] = field(default_factory=list)
    rules_fault: DrakmetError | None = None

    @property
    def exit_code(self) -> ExitCode:
        """Findings first; else whether all that was asked for was watched."""
        from drakmet.monitor.outcomes import CUT_SHORT

        if self.findings:
            return ExitCode.FINDINGS
        cut_short = self.outcome in CUT_SHORT
        missing = any(trap.state not in ("armed", "resting") or trap.errors for trap in self.statistics.traps)
        partly = cut_short or missing or self.quarantined or self.failed_plugins or self.rules_fault
        return ExitCode.PARTLY if partly else ExitCode.CLEAN


def run(
    uri: str,
    plugins: PluginSet,
    view: View,
    *,
    database: Path | None = None,
    rules: RuleSet | None = None,
    seconds: float | None = None,
    filters: Filters | None = None,
    recording: Path | None = None,
    guarded: bool = True,
    host: str | None = None,
    identity: Path | None = None,
    isf: Iterable[Path] = (),
    poll: float | None = None,
) -> Ended:
    """Watch the guest that ``uri`` names until it is told to end, and return how that was.

    With ``database`` records are stored there, and judged by ``rules`` meanwhile; with ``recording`` what was read of
    the guest is kept there. Unless not ``guarded``, a guardian frees the guest should this process die. ``host`` is the
    name to store for the machine, if not its own; ``identity`` a database to name applications by as their pages run.
    ``isf`` are profiles of kernels that carry none, ``poll`` is for how many microseconds to look for an event before
    sleeping, if not for the usual time.
    """
    from drakmet.cli.judging import Judge
    from drakmet.identity import Identities
    from drakmet.monitor import Monitor
    from drakmet.naming import Application, Namer
    from drakmet.store import Writer

    for plugin in plugins.failed:
        view.note(f"plugin {plugin.name} is left out: {plugin.error} ({plugin.origin})")
    with ExitStack() as stack:
        source = open_source(uri)
        stack.callback(source.close)
        give_profiles(source, isf_profiles(isf))
        if poll is not None and hasattr(source, "poll"):
            source.poll = poll / 1e6
        named = [Application] if identity else []
        writer = stack.enter_context(Writer(database, [*plugins.records, *named])) if database else None
        sinks: list[Sink] = [writer, view] if writer else [view]
        namer = Namer(stack.enter_context(Identities.open(identity)), fan_out(sinks)) if identity else None
        if namer:
            sinks = [namer, *sinks]  # before those that pass on what it gives them
        monitor = Monitor(source, plugins.plugins, sinks, filters=filters, record=recording, guarded=guarded)
        view.note(f"finding the kernel of {source.about.guest}")
        prepared = monitor.prepare()
        if monitor.kernel is None:
            view.note("the guest's kernel is not known: only executed pages are watched, without names of processes")
        for refused in prepared.refused:
            view.note(f"trap {refused.trap.label} of {refused.plugin} cannot be set: {refused.reason}")
        begun = time.monotonic()
        judge: Judge | None = None
        session, next_process = 1, 1
        if writer and database:
            opened = writer.begin_session(
                host=host or source.about.host,
                guest=source.about.guest,
                source=uri,
                xen=source.about.xen,
                uuid=source.about.uuid,
                os="linux" if monitor.kernel else None,
                kernel=monitor.kernel.banner if monitor.kernel else None,
                build_id=monitor.kernel.build_id if monitor.kernel else None,
            )
            session, next_process = opened.session, opened.next_process
            if rules is not None:
                judge = Judge(database, rules, _teller(writer, view), session=session)
                stack.callback(judge.finish)
        outcome = "it could not be attached to"
        try:
            with monitor:
                view.note(f"attaching to {source.about.guest}")
                monitor.attach(session, next_process)
                view.note("watching; Ctrl-C ends it in order")
                outcome = monitor.run(seconds, view.tick)
        except BaseException as error:
            outcome = error.what if isinstance(error, DrakmetError) else type(error).__name__
            raise
        finally:
            statistics = monitor.statistics
            if namer:
                namer.finish()
            if writer:
                paused = {"paused_attach": statistics.paused_attach, "paused_detach": statistics.paused_detach}
                writer.end_session(session, outcome, **paused)
        outcomes = judge.finish() if judge else []
        if writer:
            writer.flush()
        ended = Ended(
            outcome=outcome,
            seconds=time.monotonic() - begun,
            database=database,
            statistics=statistics,
            stored=writer.stored if writer else 0,
            quarantined=writer.quarantined if writer else 0,
            findings=judge.count if judge else 0,
            rules=outcomes,
            failed_plugins=plugins.failed,
            rules_fault=judge.fault if judge else None,
        )
    view.end(ended)
    return ended


def fan_out(sinks: Sequence[Sink]) -> Callable[[Record], object]:
    """Return what puts a record into several sinks."""
    puts = [sink.put for sink in sinks]

    def put(record: Record) -> None:
        for one in puts:
            one(record)

    return put


def _teller(writer: Writer, view: View) -> Callable[[Finding], None]:
    def tell(finding: Finding) -> None:
        writer.put(finding)
        view.finding(finding)

    return tell
