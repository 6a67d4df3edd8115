# SPDX-License-Identifier: GPL-2.0-or-later
"""The real engine over the simulated machine: every interleaving of two vCPUs with a detach at each of its steps."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

import pytest
from monitor.scene import FUNCTION, Opened, Way

from drakmet.monitor.answers import Answers
from drakmet.monitor.engine import Engine
from drakmet.monitor.shadow import Shadows
from drakmet.traps import Trap
from simulator.machine import CALL, INT3, NOP, Machine, Op, schedules

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet.monitor.armed import Place

TRAP = Trap(function=FUNCTION, fetch={"requested": "pathname->name"}, record=Opened)
CALLS, READS = Op("call"), Op("read")
PROGRAMS = {
    "calls": ([CALLS, CALLS], [CALLS]),
    "calls and reads": ([CALLS, READS], [READS, CALLS]),
    "ftrace patches the entry under a caller": ([Op("write", CALL), CALLS], [CALLS]),
    "a kprobe comes and goes": ([Op("write", bytes([INT3])), Op("write", NOP[:1])], [CALLS]),
}
MOST = 60_000
EVERY = (
    "monitor",
    "channel",
    "altp2m",
    "turn_on",
    "frames.add",
    "map",
    "create_view",
    "change_gfn",
    "set_access",
    "pause",
)


class Case:
    """One machine with the engine on it; ``way``, which takes long to make, serves many cases."""

    def __init__(self, way: Way, programs: tuple[list[Op], ...]) -> None:
        self.way = way
        self.pages = dict(way.memory.pages)
        self.machine = Machine(way.memory, way.address, way.guest.kernel.gpa(way.address), list(programs))
        self.machine.registers = {k: v for k, v in way.registers.items() if k != "vcpu_id"}
        self.engine = Engine(self.machine, way.guest)  # type: ignore[arg-type]
        way.sink.rows.clear()

    def attach(self) -> None:
        self.engine.attach(self.way.prepared.places, self.way.hits, self.way.prepared.registers | {"rsi", "rdi"})

    def restore(self) -> None:
        self.way.memory.pages.clear()
        self.way.memory.pages.update(self.pages)

    def check(self, *, writes: bool = True) -> None:
        """The guest ran as it would have run alone, nothing is left, and each call that was trapped is told of."""
        machine = self.machine
        machine.finish()
        left = machine.left()
        assert left == {}, left
        told = len(self.way.sink.of(Opened))
        done = list(itertools.chain.from_iterable(cpu.done for cpu in machine.cpus))
        assert "missed" not in done, done
        assert told >= done.count("skipped"), (told, done)
        if not writes:
            return
        expected = self.pages[machine.gfn]
        for op in [op for cpu in machine.cpus for op in cpu.program if op.what == "write"]:
            page = bytearray(expected)
            page[machine.offset : machine.offset + len(op.data)] = op.data
            expected = bytes(page)
        assert self.way.memory.pages[machine.gfn] == expected


def explore(programs: tuple[list[Op], ...], batches: int, *, attaching: bool = False, most: int = MOST) -> int:
    """Run every schedule of some batches and a detach, or of the attach; return how many there were."""
    way = Way(TRAP)

    def run(choose: Callable[[int], int]) -> None:
        case = Case(way, programs)
        try:
            if attaching:
                case.machine.choose, case.machine.points = choose, EVERY
            case.attach()
            case.machine.choose, case.machine.points = choose, ("pause",)
            for _ in range(batches):
                case.machine.turn()
                case.engine.batch()
                assert case.engine.look() == []  # whatever is under way, nothing happened unseen
            assert case.engine.detach() == []
            case.check()
        finally:
            case.restore()

    return sum(1 for _ in schedules(run, most))


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("batches", [0, 1])
def test_every_interleaving_leaves_the_guest_as_it_would_be_without_us(name: str, batches: int) -> None:
    assert explore(PROGRAMS[name], batches) >= 5


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_step_of_an_attach_may_be_met(name: str) -> None:
    first, second = PROGRAMS[name]
    assert explore((first[:1], second[:1]), 1, attaching=True) > 50


@pytest.mark.parametrize("vcpus", [3, 8])
def test_long_programs_of_many_vcpus_in_any_order(vcpus: int) -> None:
    """What is too much for every order, in some that are drawn; eight vCPUs fill the ring."""
    way, ops = Way(TRAP), (CALLS, CALLS, CALLS, READS, Op("write", CALL), Op("write", NOP), Op("write", b"\xcc"))
    for seed in range(150):
        chance = random.Random(seed)  # noqa: S311  # it is to be the same each time
        case = Case(way, tuple([chance.choice(ops) for _ in range(6)] for _ in range(vcpus)))
        try:
            case.attach()
            case.machine.choose = chance.randrange
            for _ in range(chance.randrange(40)):
                case.machine.turn()
                case.engine.batch()
            assert case.engine.detach() == [], seed
            case.check(writes=False)
        finally:
            case.restore()


class Broken:
    """Ways in which an engine could be wrong; each must be found."""

    @staticmethod
    def skip_too_far(monkeypatch: pytest.MonkeyPatch) -> None:
        right = Answers.choose

        def choose(self: Answers, place: Place, gpa: int) -> None:
            right(self, place, gpa)
            place.skip_to += bool(place.skip_to)

        monkeypatch.setattr(Answers, "choose", choose)

    @staticmethod
    def answer_nothing_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Engine, "_drain", lambda self: None)

    @staticmethod
    def leave_steps_on(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Machine, "single_step_off", lambda *_: None)

    @staticmethod
    def forget_writes(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Shadows, "refresh", lambda *_: [])


@pytest.mark.parametrize("how", [name for name in vars(Broken) if name[0] != "_"])
def test_an_engine_that_is_wrong_is_found(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    getattr(Broken, how)(monkeypatch)
    with pytest.raises(AssertionError):
        for programs in PROGRAMS.values():
            explore((programs[0][:2], programs[1][-1:]), 1)
