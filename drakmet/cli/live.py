# SPDX-License-Identifier: GPL-2.0-or-later
"""A run on a terminal: findings scroll by above a table of what comes in, by table of records."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from drakmet.cli.output import printable
from drakmet.cli.views import LinesView, finding_line

if TYPE_CHECKING:
    from drakmet.cli.running import Ended
    from drakmet.monitor import Statistics
    from drakmet.records import Finding

_EVERY = 1.0
"""Seconds between two pictures: drawing one takes time that the guest may wait for."""


class LiveView(LinesView):
    """Notes and findings as lines, and below them the counts, drawn anew once a second."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self._begun = self._drawn = time.monotonic()
        self._before: Counter[str] = Counter()
        self._findings: Counter[str] = Counter()
        self._live = Live(console=console or Console(file=sys.stderr), auto_refresh=False, transient=True)
        self._running = False

    def note(self, text: str) -> None:
        """Tell of a stage."""
        with self._lock:
            self._live.console.print(Text(f"drakmet: {printable(text)}"))

    def finding(self, finding: Finding) -> None:
        """Show one finding above the table."""
        with self._lock:
            self._findings[finding.level] += 1
            self._live.console.print(Text.from_ansi(finding_line(finding)))

    def tick(self, statistics: Statistics) -> None:
        """Draw the table, if it is time."""
        now = time.monotonic()
        if self._running and now - self._drawn < _EVERY:
            return
        with self._lock:
            if not self._running:
                self._live.start()
                self._running = True
            self._live.update(self._picture(statistics, now), refresh=True)
        self._drawn, self._before = now, self.counts.copy()

    def end(self, ended: Ended) -> None:
        """Take the table away and show the summary."""
        with self._lock:
            if self._running:
                self._live.stop()
        super().end(ended)

    def _picture(self, statistics: Statistics, now: float) -> Group:
        since = max(now - self._drawn, 0.001)
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("table")
        table.add_column("records", justify="right")
        table.add_column("a second", justify="right")
        # Only as many as there is room for: a picture taller than the terminal cannot be drawn over.
        room = max(3, self._live.console.height - 4)
        for name, count in self.counts.most_common(room):
            table.add_row(name, str(count), f"{(count - self._before[name]) / since:.0f}")
        levels = ", ".join(f"{count} {level}" for level, count in self._findings.items()) or "none"
        line = (
            f"{now - self._begun:.0f} s   {statistics.hits} hits   {statistics.records} records   findings: {levels}   "
            f"{statistics.gaps} gaps   {statistics.errors} errors   (Ctrl-C ends it in order)"
        )
        return Group(table, Text(line, style="dim", overflow="ellipsis", no_wrap=True))
