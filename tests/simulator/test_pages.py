# SPDX-License-Identifier: GPL-2.0-or-later
"""Execute traps over the simulated machine: in no order of two vCPUs and a detach does a page run unhashed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from monitor.scene import FUNCTION, Opened, Way

from drakmet.monitor import executing
from drakmet.monitor.executing import Executing
from drakmet.traps import Trap
from simulator.machine import Op, schedules
from simulator.pages import RUNS, PageCase

if TYPE_CHECKING:
    from collections.abc import Callable

TRAP = Trap(function=FUNCTION, fetch={"requested": "pathname->name"}, record=Opened)
CALLS, FIRST, SECOND = Op("call"), Op("fill", b"first"), Op("fill", b"second")
PROGRAMS = {
    "both run it": ([RUNS, RUNS], [RUNS]),
    "one writes it while the other runs it": ([FIRST], [RUNS, RUNS]),
    "one makes code and runs it while the other does": ([FIRST, RUNS], [RUNS]),
    "breakpoints beside it": ([CALLS, RUNS], [FIRST]),
}
MOST = 60_000
TURNS = 2
"""Of writing and running a page before it is let run unseen: with sixteen there are too many orders."""
STEPS = ("pause", "set_access")


@pytest.fixture(autouse=True)
def few_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executing, "MOST", TURNS)


def explore(programs: tuple[list[Op], ...], batches: int, most: int = MOST) -> int:
    """Run every schedule of some batches and a detach; return how many there were."""
    way = Way(TRAP)

    def run(choose: Callable[[int], int]) -> None:
        case = PageCase(way, programs)
        try:
            case.attach()
            case.machine.choose, case.machine.points = choose, STEPS
            for _ in range(batches):
                case.machine.turn()
                case.engine.batch()
            assert case.engine.detach() == []
            case.check()
        finally:
            case.restore()

    return sum(1 for _ in schedules(run, most))


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("batches", [1, 2])
def test_in_every_interleaving_what_runs_was_hashed_and_the_guest_goes_on(name: str, batches: int) -> None:
    first, second = PROGRAMS[name]
    assert explore((first, second) if batches == 1 else (first[:1], second[:1]), batches) >= 5


@pytest.mark.parametrize("vcpus", [2, 3, 8])
def test_long_programs_of_many_vcpus_in_any_order(vcpus: int) -> None:
    way, ops = Way(TRAP), (RUNS, RUNS, RUNS, CALLS, *[Op("fill", bytes([number])) for number in range(1, 5)])
    versions = 0
    for seed in range(50):
        chance = random.Random(seed)  # noqa: S311  # it is to be the same each time
        case = PageCase(way, tuple([chance.choice(ops) for _ in range(8)] for _ in range(vcpus)))
        try:
            case.attach()
            case.machine.choose, case.machine.points = chance.randrange, STEPS
            for _ in range(chance.randrange(40)):
                case.machine.turn()
                case.engine.batch()
            assert case.engine.detach() == [], seed
            case.check()
            versions += len(case.machine.ran)
        finally:
            case.restore()
    assert versions > 50


class Broken:
    """Ways in which execute traps could be wrong; each must be found."""

    @staticmethod
    def hash_while_it_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
        right = Executing.__init__

        def made(self: Executing, *args: object, **more: object) -> None:
            right(self, *args, **{**more, "many": False})  # type: ignore[arg-type]

        monkeypatch.setattr(Executing, "__init__", made)

    @staticmethod
    def leave_it_executable_when_written(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(executing, "GRANTED", executing.OPEN)


@pytest.mark.parametrize("how", [name for name in vars(Broken) if name[0] != "_"])
def test_execute_traps_that_are_wrong_are_found(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    getattr(Broken, how)(monkeypatch)
    with pytest.raises(AssertionError):
        for programs in PROGRAMS.values():
            explore(programs, 1)
