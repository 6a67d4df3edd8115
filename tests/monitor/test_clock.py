# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's clock is set during a watch: intervals end in the old time and begin anew in the new one."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from drakmet.monitor.clock import HostClock
from drakmet.monitor.coverage import CoverageBook
from drakmet.records import Coverage, CoverageKind
from drakmet.store.coverage import rests_on, summarise

if TYPE_CHECKING:
    from drakmet.records import Record

SECOND, HOUR = 10**9, 3600 * 10**9
KEY = ("file", "open")


class Clocks:
    """Two clocks that go on by hand."""

    def __init__(self) -> None:
        self.wall, self.steady = 1_000 * HOUR, 0

    def go(self, seconds: float, by: int = 0) -> None:
        self.wall += int(seconds * SECOND) + by
        self.steady += int(seconds * SECOND)


def book_of(rows: dict[tuple[int, str], Coverage]) -> CoverageBook:
    """Return a book that keeps of each interval what a store would keep."""

    def put(row: Record) -> None:
        assert isinstance(row, Coverage)
        rows[row.begin, row.kind] = row

    return CoverageBook(1, put)


@pytest.mark.parametrize("by", [HOUR, -HOUR, 2 * SECOND])
def test_a_clock_that_was_set_is_noticed_once(by: int) -> None:
    clocks = Clocks()
    clock = HostClock(lambda: clocks.wall, lambda: clocks.steady)
    clocks.go(0.2)
    assert clock.look() is None
    clocks.go(0.2, by)
    expected, now = clock.look() or (0, 0)
    assert (now - expected, now) == (by, clocks.wall)
    clocks.go(600)  # this process was stopped meanwhile
    assert clock.look() is None


def test_what_a_time_server_corrects_is_no_jump() -> None:
    clocks = Clocks()
    clock = HostClock(lambda: clocks.wall, lambda: clocks.steady)
    for _ in range(20_000):
        clocks.go(0.2, 100_000)  # 500 parts in a million
        assert clock.look() is None


def test_being_held_up_between_the_two_clocks_is_no_jump() -> None:
    clocks = Clocks()
    held = iter([3.0, 0.0] * 50)

    def wall() -> int:
        now = clocks.wall
        clocks.go(next(held))
        return now

    clock = HostClock(wall, lambda: clocks.steady)
    assert clock.look() is None
    assert HostClock().look() is None
    assert time.time_ns() > 0


@pytest.mark.parametrize("by", [HOUR, -HOUR])
def test_intervals_never_end_before_they_begin_and_the_jump_is_a_gap(by: int) -> None:
    rows: dict[tuple[int, str], Coverage] = {}
    book, begun = book_of(rows), 1_000 * HOUR
    book.armed(KEY, ["file_open"], begun)
    expected = begun + 10 * SECOND
    book.clock_set(expected, expected + by)
    book.partly(KEY, ["file_open"], (begun, expected + by), CoverageKind.UNREADABLE, "some", 1)
    book.close_all(expected + by + 5 * SECOND)
    kept = list(rows.values())
    assert all(row.end is not None and row.begin <= row.end for row in kept)
    armed = [row for row in kept if row.kind == CoverageKind.ARMED]
    assert sum((row.end or 0) - row.begin for row in armed) == 15 * SECOND
    (gap,) = [row for row in kept if row.kind == CoverageKind.CLOCK_SET]
    assert (gap.begin, gap.end, gap.missed) == (*sorted((expected, expected + by)), 0)
    assert gap.gap is not None
    assert f"{'forward' if by > 0 else 'back'} by 3600.0 s" in gap.gap
    (told,) = summarise(kept)
    assert (told.armed, told.complete) == (15 * SECOND, False)
    assert told.span >= told.armed
    assert rests_on(kept, ["file_open"], 0) == (
        "gaps: how long was not seen is not known, the host's clock was set (clock set, unreadable)"
    )


def test_a_gap_that_lasts_goes_on_behind_the_jump() -> None:
    rows: dict[tuple[int, str], Coverage] = {}
    book = book_of(rows)
    book.gap(KEY, ["file_open"], 5 * SECOND, CoverageKind.THROTTLED, "too often")
    book.clock_set(6 * SECOND, 6 * SECOND + HOUR)
    book.armed(KEY, ["file_open"], 7 * SECOND + HOUR)
    resting = sorted((row.begin, row.end) for row in rows.values() if row.kind == CoverageKind.THROTTLED)
    assert resting == [(5 * SECOND, 6 * SECOND), (6 * SECOND + HOUR, 7 * SECOND + HOUR)]
    assert all(one[1] is not None for one, _ in pairwise(resting))
