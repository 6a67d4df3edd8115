# SPDX-License-Identifier: GPL-2.0-or-later
"""How a run is shown: a live table on a terminal, lines in a pipe, JSON for machines."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import click
import msgspec

from drakmet.cli.output import Format, emit, json_line, printable
from drakmet.records import Coverage
from drakmet.store.coverage import summarise

if TYPE_CHECKING:
    from drakmet.cli.running import Ended
    from drakmet.monitor import Statistics
    from drakmet.records import Finding, Record

_MOST_INTERVALS = 10_000
_MARKS = {"critical": "red", "high": "red", "medium": "yellow", "low": "cyan", "informational": None}


class LinesView:
    """Notes on standard error; findings on standard output, a line each; a summary at the end."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._taken: list[Record] = []
        self._coverage: dict[tuple[str, str, int, str], Coverage] = {}
        # One call into C a record; counting waits for the flush.
        self.put = self._taken.append  # type: ignore[method-assign, assignment]
        self._lock = threading.Lock()

    def note(self, text: str) -> None:
        """Tell of a stage."""
        with self._lock:
            click.echo(f"drakmet: {printable(text)}", err=True)

    def put(self, record: Record) -> None:
        """Take one record."""
        raise NotImplementedError  # every view has list.append under this name

    def flush(self) -> None:
        """Count what was taken."""
        taken = self._taken[:]
        del self._taken[: len(taken)]
        self.counts.update([record.table for record in taken])
        for record in taken:
            if record.__class__ is Coverage and len(self._coverage) < _MOST_INTERVALS:
                self._coverage[record.plugin, record.trap, record.begin, record.kind] = record

    def finding(self, finding: Finding) -> None:
        """Show one finding."""
        with self._lock:
            click.echo(finding_line(finding))

    def tick(self, statistics: Statistics) -> None:
        """Lines need no counts meanwhile."""

    def end(self, ended: Ended) -> None:
        """Show the summary."""
        self.flush()
        statistics = ended.statistics
        click.echo(f"\n{ended.outcome} after {ended.seconds:.1f} s; {_paused(statistics)}", err=True)
        rows = [{"table": table, "records": count} for table, count in sorted(self.counts.items())]
        if rows:
            click.echo("")
            emit(rows, ["table", "records"], Format.TABLE)
        self._show_coverage()
        if ended.quarantined:
            click.echo(
                f"drakmet: {ended.quarantined} records could not be stored as they are: see drakmet_quarantine",
                err=True,
            )
        if ended.rules_fault:
            click.echo(f"drakmet: not all rules were judged to the end: {ended.rules_fault}", err=True)
        unknown = sorted({o.rule for o in ended.rules if o.state.value in ("not known", "not evaluated")})
        if unknown:
            click.echo(f"\n{len(unknown)} rules are not known or not evaluated: {', '.join(unknown)}")
        for outcome in ended.rules:
            if outcome.faulty:
                click.echo(printable(f"rule {outcome.rule}: {outcome.reason}"), err=True)
        click.echo(f"\n{ended.findings} findings" + (f", stored in {ended.database}" if ended.database else ""))

    def _show_coverage(self) -> None:
        from drakmet.cli.coverage import SUMMARY, summary_rows

        traps = summarise(self._coverage.values())
        partly = [trap for trap in traps if not trap.complete]
        if not partly:
            click.echo(f"\nEverything was seen by {len(traps)} traps, as far as they can tell")
        else:
            click.echo(f"\nNot everything was seen: {len(partly)} of {len(traps)} traps have gaps")
            emit(summary_rows(partly), SUMMARY[1:], Format.TABLE)


class JsonView(LinesView):
    """One JSON object a line: every record with its ``table``, findings among them, at last a ``summary``."""

    def flush(self) -> None:
        """Write what was taken."""
        taken = self._taken[:]
        del self._taken[: len(taken)]
        with self._lock:
            for record in taken:
                sys.stdout.write(json_line({"table": record.table, **msgspec.structs.asdict(record)}) + "\n")
            sys.stdout.flush()

    def finding(self, finding: Finding) -> None:
        """Write one finding."""
        self.put(finding)

    def end(self, ended: Ended) -> None:
        """Write the rest and the summary."""
        self.flush()
        summary: dict[str, Any] = {
            "table": "summary",
            "outcome": ended.outcome,
            "seconds": round(ended.seconds, 3),
            "database": str(ended.database) if ended.database else None,
            "findings": ended.findings,
            "stored": ended.stored,
            "quarantined": ended.quarantined,
            "events": ended.statistics.events,
            "paused_attach": ended.statistics.paused_attach,
            "paused_detach": ended.statistics.paused_detach,
            "traps": [msgspec.to_builtins(trap) for trap in ended.statistics.traps],
            "rules": [{"rule": o.rule, "state": o.state.value, "reason": o.reason} for o in ended.rules],
        }
        with self._lock:
            sys.stdout.write(json_line(summary) + "\n")
            sys.stdout.flush()


def choose(*, json: bool) -> LinesView:
    """Return the view that fits where the output goes."""
    if json:
        return JsonView()
    if sys.stderr.isatty() and sys.stdout.isatty():
        from drakmet.cli.live import LiveView

        return LiveView()
    return LinesView()


def finding_line(finding: Finding) -> str:
    """Return a finding as one line, its level coloured by ANSI codes."""
    level = click.style(f"{finding.level:<13}", fg=_MARKS.get(finding.level))
    return f"{_clock(finding.time)}  {level} {finding.rule}: {printable(finding.message)}"


def _clock(nanoseconds: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(nanoseconds // 1_000_000_000))


def _paused(statistics: Statistics) -> str:
    if statistics.paused_attach is None:
        return f"{statistics.hits} hits"
    attach, detach = statistics.paused_attach, statistics.paused_detach or 0
    return (
        f"{statistics.hits} hits; the guest was paused {attach / 1e6:.1f} ms to attach, {detach / 1e6:.1f} ms to detach"
    )
