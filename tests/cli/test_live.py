# SPDX-License-Identifier: GPL-2.0-or-later
"""What a terminal shows during a run."""

import io

import pytest
from rich.console import Console

from drakmet.cli import live
from drakmet.cli.live import LiveView
from drakmet.monitor.statistics import Statistics, TrapStatistics
from drakmet.records import EventRecord, Finding


class Opened(EventRecord):
    """A file was opened."""


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> tuple[LiveView, io.StringIO]:
    monkeypatch.setattr(live, "_EVERY", 0.0)
    out = io.StringIO()
    return LiveView(Console(file=out, force_terminal=True, width=120, height=10)), out


def test_counts_of_each_table_are_drawn_and_findings_stand_above(shown: tuple[LiveView, io.StringIO]) -> None:
    view, out = shown
    view.note("watching")
    for number in range(7):
        view.put(Opened(time=number))
    view.flush()
    view.tick(Statistics(traps=[TrapStatistics("file", "open", hits=9)], records=7))
    view.finding(Finding(session=1, time=0, found=0, rule="r", level="high", title="t", message="evil \x1b[2J name"))
    view.tick(Statistics(traps=[TrapStatistics("file", "open", hits=9)], records=7))
    text = out.getvalue()
    assert "drakmet: watching" in text
    assert "opened" in text
    assert "9 hits" in text
    assert "findings: 1 high" in text
    # Nothing that a guest named steers the terminal.
    assert "evil \\x1b[2J name" in text
    assert "evil \x1b" not in text


def test_more_tables_than_lines_are_cut(shown: tuple[LiveView, io.StringIO]) -> None:
    view, out = shown
    view.counts.update({f"table{number}": 100 - number for number in range(50)})
    view.tick(Statistics())
    assert "table5" in out.getvalue()
    assert "table7" not in out.getvalue()
