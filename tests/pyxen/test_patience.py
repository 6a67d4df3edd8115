# SPDX-License-Identifier: GPL-2.0-or-later
"""How long is looked again before the CPU is given away: bounded in time, and less and less where it does not pay."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drakmet.pyxen import patience
from drakmet.pyxen.patience import Patience


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A clock that stands still unless it is set."""
    now = [1_000_000_000]
    monkeypatch.setattr(time, "monotonic_ns", lambda: now[0])
    return now


def look(kept: Patience, clock: list[int], taken: int, *, each: int = 100) -> int:
    """Look for nothing, at ``each`` nanoseconds a look; return for how long."""
    rounds = kept.begin(taken)
    clock[0] += rounds * each
    if rounds:
        kept.missed(taken)
    return rounds * each


def test_it_looks_for_as_long_as_was_asked_once_it_knows_how_fast_it_is(clock: list[int]) -> None:
    kept = Patience(500e-6)
    taken = 0
    for _ in range(3):
        taken += 100
        last = look(kept, clock, taken)
    assert last == 500_000
    taken += 100
    look(kept, clock, taken, each=1000)  # another has this CPU, too
    taken += 100
    assert look(kept, clock, taken, each=1000) == 500_000


def test_it_never_looks_where_it_may_not() -> None:
    kept = Patience(0)
    assert [kept.begin(taken) for taken in range(2000)] == [0] * 2000


def test_where_events_are_rare_it_looks_less_and_less(clock: list[int]) -> None:
    kept = Patience(500e-6)
    looked = [bool(look(kept, clock, taken)) for taken in range(10_000)]
    assert sum(looked[:100]) <= 7
    assert sum(looked[5000:]) <= 5
    assert sum(looked[5000:]) >= 1  # it tries again


def test_once_events_come_one_after_the_other_it_looks_again(clock: list[int]) -> None:
    kept = Patience(500e-6)
    for taken in range(3000):
        look(kept, clock, taken)
    found = 0
    for taken in range(3000, 5000):  # each event comes while it looks, if it looks
        found += bool(kept.begin(taken))
    assert found > 900
    assert look(kept, clock, 5000)
    assert kept.begin(5000)  # that one look for nothing was worth it


@given(st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(0, (1 << 32) - 1)), max_size=60), st.floats(0, 1))
def test_whatever_clock_and_counter_say_the_rounds_stay_within_bounds(
    steps: list[tuple[int, int]], seconds: float
) -> None:
    kept = Patience(seconds)
    now = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic_ns", lambda: now)
        for advance, taken in steps:
            rounds = kept.begin(taken)
            assert 0 <= rounds <= patience._MOST
            now += advance
            if rounds:
                kept.missed(taken)
