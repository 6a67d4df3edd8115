# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet watch --engine drakvuf``: DRAKVUF in the place of our own loop, its lines into the same file and rules."""

from __future__ import annotations

import signal
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from drakmet.cli.output import printable
from drakmet.errors import ExitCode, UsageError
from drakmet.records import Coverage, CoverageKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from drakmet.drakvuf.importer import Imported
    from drakmet.drakvuf.runner import Running
    from drakmet.guest.kernel import Kernel
    from drakmet.records import Finding, Record
    from drakmet.rules import RuleSet
    from drakmet.sources.base import About
    from drakmet.store import Writer


@dataclass
class Target:
    """The guest that is to be watched, and what is known of it before."""

    about: About
    uri: str
    kernel: Kernel | None
    """None if a profile was given: then nobody looks into the guest but DRAKVUF."""


def watch(
    uri: str,
    database: Path,
    options: Sequence[str],
    *,
    program: Path | None,
    records: list[type[Record]],
    rules: RuleSet | None,
    seconds: float | None,
) -> ExitCode:
    """Watch a guest with DRAKVUF until it ends, it is time, or Ctrl-C; say how that was."""
    from drakmet.drakvuf import runner

    runner.check_options(options)
    found = runner.find_program(program)
    target = _target(uri, given=runner.value_of(options, "-r") is not None)
    with ExitStack() as stack:
        command = [str(found), *stack.enter_context(_profile(target)), "-d", target.about.guest, "-o", "json", *options]
        return Session(target, database, records, rules).run(command, seconds)


class Session:
    """One run of DRAKVUF over one guest, stored and judged."""

    def __init__(self, target: Target, database: Path, records: list[type[Record]], rules: RuleSet | None) -> None:
        self.target = target
        self.findings = 0
        self._database = database
        self._records = records
        self._rules = rules
        self._gaps = 0

    def run(self, command: Sequence[str], seconds: float | None) -> ExitCode:
        """Run it and return what the command ends with."""
        from drakmet.drakvuf.importer import Importer, covered
        from drakmet.drakvuf.runner import Running, explain
        from drakmet.sources.drakvuf import LogFile
        from drakmet.store import Writer

        about, kernel = self.target.about, self.target.kernel
        with ExitStack() as stack:
            writer = stack.enter_context(Writer(self._database, self._records))
            session = writer.begin_session(
                host=about.host,
                guest=about.guest,
                source=f"{self.target.uri} (drakvuf)",
                xen=about.xen,
                uuid=about.uuid,
                os="linux" if kernel else None,
                kernel=kernel.banner if kernel else None,
                build_id=kernel.build_id if kernel else None,
            )
            judge = self._judge(writer, session.session, stack)
            begun = time.time_ns()
            self._tell_gaps(writer, session.session, begun, command)
            importer = Importer(
                writer, session.session, session.next_process, self._records, system="linux" if kernel else None
            )
            running = stack.enter_context(Running(command))
            stack.enter_context(_stopping(running.ask))
            click.echo(f"drakmet: drakvuf runs as process {running.pid}; Ctrl-C ends it in order", err=True)
            deadline = None if seconds is None else time.monotonic() + seconds
            for block in LogFile(None, running.output).blocks():
                importer.feed(block)
                if deadline is not None and time.monotonic() >= deadline:
                    running.ask()
            imported = importer.finish()
            ended = time.time_ns()
            code = running.end()
            outcome = explain(code, running.said)
            for coverage in covered(imported, session.session, until=ended):
                writer.put(coverage)
            silent = self._silent(writer, session.session, begun, imported, running)
            writer.end_session(session.session, outcome)
            outcomes = judge.finish() if judge else []
            writer.flush()
        self._say(outcome, imported, running, outcomes)
        if self.findings:
            return ExitCode.FINDINGS
        if code not in (0, 11):
            return ExitCode.FAILED
        return ExitCode.PARTLY if self._gaps or silent or imported.tally.quarantined else ExitCode.CLEAN

    def _judge(self, writer: Writer, session: int, stack: ExitStack) -> Any:
        if self._rules is None:
            return None
        from drakmet.cli.judging import Judge

        def tell(finding: Finding) -> None:
            self.findings += 1
            writer.put(finding)
            click.echo(f"{finding.level:<13} {finding.rule}: {printable(finding.message)}")

        judge = Judge(self._database, self._rules, tell, session=session)
        stack.callback(judge.finish)
        return judge

    def _tell_gaps(self, writer: Writer, session: int, begun: int, command: Sequence[str]) -> None:
        """Say which hooks will be missing: DRAKVUF does not."""
        from drakmet.drakvuf.hooks import LINUX, gaps
        from drakmet.drakvuf.runner import values_of

        if self.target.kernel is None:
            return
        plugins = values_of(command, "-a") or sorted({hook.plugin for hook in LINUX} - set(values_of(command, "-x")))
        for gap in gaps(plugins, self.target.kernel.find):
            self._gaps += 1
            click.echo(f"drakmet: not watched: {gap.trap}: {gap.reason}", err=True)
            writer.put(_gap(session, gap.trap, gap.tables, begun, gap.reason))

    def _silent(self, writer: Writer, session: int, begun: int, imported: Imported, running: Running) -> bool:
        """Write down what DRAKVUF complained of, and that it printed nothing at all if so it is."""
        for line in running.said:
            if "fail" in line.lower() or "error" in line.lower():
                self._gaps += 1
                writer.put(_gap(session, "drakvuf", (), begun, line))
        if imported.tally.records:
            return False
        writer.put(_gap(session, "drakvuf", (), begun, "it printed nothing: perhaps it has set no hook at all"))
        return True

    def _say(self, outcome: str, imported: Imported, running: Running, outcomes: list[Any]) -> None:
        for line in list(running.said)[-5:]:
            click.echo(f"drakvuf: {printable(line)}", err=True)
        tally = imported.tally
        plugins = ", ".join(f"{plugin or 'others'} {count}" for plugin, count in tally.by_plugin.most_common())
        sums = (
            f"{tally.records} records + {tally.quarantined} quarantined + {tally.blank} blank + {tally.joined} joined"
        )
        click.echo(f"\n{printable(outcome)}; {tally.lines} lines = {sums}" + (f": {plugins}" if plugins else ""))
        if not tally.records:
            click.echo("DRAKVUF printed nothing: perhaps it has set no hook at all")
        unknown = sorted({one.rule for one in outcomes if one.state.value in ("not known", "not evaluated")})
        if unknown:
            click.echo(f"{len(unknown)} rules are not known or not evaluated: {', '.join(unknown)}")
        click.echo(f"{self.findings} findings, stored in {self._database}")


def _gap(session: int, trap: str, tables: tuple[str, ...], begun: int, reason: str) -> Coverage:
    return Coverage(
        session=session,
        plugin="drakvuf",
        trap=trap,
        tables=list(tables),
        begin=begun,
        end=time.time_ns(),
        kind=CoverageKind.NOT_ARMED.value,
        gap=reason,
    )


@contextmanager
def _stopping(ask: Callable[[], None]) -> Iterator[None]:
    """Have SIGINT and SIGTERM ask DRAKVUF to end, so that its last lines are read."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: ask()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _target(uri: str, *, given: bool) -> Target:
    """Find the guest, and refuse one that a monitor has already; with a profile ``given``, without a look into it."""
    from drakmet.drakvuf.runner import others
    from drakmet.pyxen import owner
    from drakmet.sources.xen import XenSource

    kind, _, name = uri.partition(":")
    if kind != "xen" or not name:
        raise UsageError(f"{uri!r} names no running guest", hint="drakmet watch --engine drakvuf xen:NAME")
    source = XenSource(name)
    try:
        pid = owner(source.control, source.domid)
        who = [f"drakmet (process {pid})"] if pid is not None else others(source.name, source.domid)
        if who:
            raise UsageError(
                f"{' and '.join(who)} watches this guest already, and Xen lets one monitor at a time",
                where=uri,
                hint="end it first (Ctrl-C there)",
            )
        click.echo(f"drakmet: finding the kernel of {source.name}", err=True) if not given else None
        return Target(source.about, source.uri, None if given else source.kernel())
    finally:
        source.close()


@contextmanager
def _profile(target: Target) -> Iterator[list[str]]:
    """Give the options for a profile made of the guest itself, which is removed at the end."""
    from drakmet.drakvuf.profile import save

    if target.kernel is None:
        yield []
        return
    with tempfile.TemporaryDirectory(prefix="drakmet-") as directory:
        path = Path(directory) / "kernel.json"
        save(target.kernel, path)
        yield ["-r", str(path), "-k", hex(target.kernel.cr3)]
