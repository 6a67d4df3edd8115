# SPDX-License-Identifier: GPL-2.0-or-later
"""The real engine with execute traps over the simulated machine: whatever runs in the view was hashed as it runs.

Two frames are of interest: that of the trapped function, which has a copy with a breakpoint, and one of data that
programs write code to and execute. Other vCPUs may run before each call that is made to grant a frame, and around the
reading of what is hashed.
"""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Any

import pytest
from monitor.scene import Way

from drakmet import ExecuteTrap
from drakmet.monitor import executing
from drakmet.monitor.executing import Executing
from drakmet.monitor.pageevents import ArmedExecute, PageEvents
from drakmet.pages import page_hash
from drakmet.pyxen import Access, AccessFlag, Reason
from simulator.machine import CALL, NOP, Machine, Op, Vcpu, Violation, schedules
from simulator.test_interleavings import TRAP, Case

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet import Execution

CALLS, READS, PATCHES = Op("call"), Op("read"), Op("write", CALL)
MAKES, OTHER, JUMPS = Op("make", b"\xb8\x01"), Op("make", b"\xb8\x02"), Op("jump")
PROGRAMS = {
    "both call": ([CALLS, CALLS], [CALLS]),
    "one patches what the other calls": ([CALLS, PATCHES], [CALLS]),
    "one makes what the other runs": ([JUMPS, JUMPS], [MAKES]),
    "both make and run": ([MAKES, JUMPS], [OTHER, JUMPS]),
}
MOST = 800
"""Orders that are tried of those there are: some programs have many thousands."""
POINTS = ("pause", "set_access")
_EXECUTES = {Access.X, Access.RX, Access.RWX, Access.RX2RW}
_WRITES = {Access.RW, Access.RWX}


class Paged(Machine):
    """A machine that knows rights to execute, and what was hashed."""

    data = 0
    executing: Executing | None = None

    def right(self, cpu: Vcpu, gfn: int) -> Access:
        return Access(self.rights.get((cpu.view, gfn), Access.RWX)) if cpu.view else Access.RWX

    def hashed(self, cpu: Vcpu, gfn: int, page: bytes) -> None:
        """See that a page that runs in the view was hashed as it is."""
        if not cpu.view or self.right(cpu, gfn) is Access.RWX:
            return
        assert self.executing is not None
        frame = self.executing.frames.get(gfn)
        if frame is None or frame.hash != page_hash(page):
            raise Violation(f"vCPU {cpu.number} runs frame {gfn:#x}, which was not hashed like that")

    def run_one(self, cpu: Vcpu) -> None:
        op = cpu.op
        assert op is not None
        if op.what not in ("make", "jump"):
            super().run_one(cpu)
        elif op.what == "jump":
            if self.right(cpu, self.data) not in _EXECUTES:
                self.fault(cpu, self.data, AccessFlag.X)
                return
            self.hashed(cpu, self.data, self.memory.pages[self.data])
            self._executed(cpu)
        else:
            right = self.right(cpu, self.data)
            if right is Access.RX2RW:
                self.rights[cpu.view, self.data] = int(Access.RW)  # Xen's own doing, with no event
            elif right not in _WRITES:
                self.fault(cpu, self.data, AccessFlag.W)
                return
            self.memory.pages[self.data] = op.data.ljust(4096, b"\0")
            self._executed(cpu)

    def fault(self, cpu: Vcpu, gfn: int, flag: AccessFlag) -> None:
        self._event(cpu, Reason.MEM_ACCESS, f"access {flag.name}", gfn=gfn, part3=int(flag))

    def _call(self, cpu: Vcpu, rip: int | None) -> None:
        if cpu.view and not cpu.trapped:
            if self.right(cpu, self.gfn) not in _EXECUTES:
                cpu.rip = rip
                self.fault(cpu, self.gfn, AccessFlag.X)
                return
            self.hashed(cpu, self.gfn, self.unarmed())
        super()._call(cpu, rip)

    def unarmed(self) -> bytes:
        """Return the copy without its breakpoint: from the guest's own page as it was when the copy was made."""
        copy = self.frames_given.index(self.views[1][self.gfn]) * 4096
        page = bytearray(self.window[copy : copy + 4096])
        assert self.executing is not None
        page[self.offset] = self.executing._shadows.page(self.gfn)[self.offset]
        return bytes(page)


class PagedCase(Case):
    """The same with execute traps."""

    def __init__(self, way: Way, programs: tuple[list[Op], ...]) -> None:
        super().__init__(way, programs)
        machine = Paged(way.memory, way.address, way.guest.kernel.gpa(way.address), list(programs))
        machine.registers = self.machine.registers
        machine.data = next(gfn for gfn in sorted(way.memory.pages) if gfn != machine.gfn)
        self.machine = machine
        self.engine = type(self.engine)(machine, way.guest)  # type: ignore[arg-type]
        self.told: list[Execution] = []
        self._read = way.memory.read
        way.hits.later.clear()

    def attach(self) -> None:
        trap = ArmedExecute("test", ExecuteTrap(handler=self.told.append))
        pages = PageEvents([trap], self.way.hits, None, None, None)
        registers = self.way.prepared.registers | {"rsi", "rdi"}
        self.engine.attach(self.way.prepared.places, self.way.hits, registers, pages=pages)
        answers = self.engine._answers
        assert answers is not None
        assert isinstance(self.machine, Paged)
        self.machine.executing = answers.executing
        read, turn = self._read, self.machine.turn

        def reading(gpa: int, length: int) -> bytes:
            found = read(gpa, length)
            turn()
            return found

        assert answers.executing is not None
        answers.executing.memory = _Reading(self.way.memory, reading)  # type: ignore[assignment]


class _Reading:
    def __init__(self, memory: Any, read: Any) -> None:
        self.size, self.read = memory.size, read


def explore(programs: tuple[list[Op], ...], batches: int, most: int = MOST) -> int:
    way = Way(TRAP)

    def run(choose: Callable[[int], int]) -> None:
        case = PagedCase(way, programs)
        try:
            case.attach()
            case.machine.choose, case.machine.points = choose, POINTS
            for _ in range(batches):
                case.machine.turn()
                case.engine.batch()
            case.machine.points = ("pause",)
            assert case.engine.detach() == []
            case.check(writes=False)
        finally:
            case.restore()

    return sum(1 for _ in itertools.islice(schedules(run, most + 1), most))


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("batches", [0, 1])
def test_what_runs_was_hashed_in_any_order_and_a_detach_leaves_nothing(name: str, batches: int) -> None:
    first, second = PROGRAMS[name]
    assert explore((first[: 1 + (batches == 0)], second[:1]) if batches else (first, second), batches) >= 2


@pytest.mark.parametrize("vcpus", [1, 3, 8])
def test_long_programs_of_many_vcpus(vcpus: int) -> None:
    drawn(vcpus, 60)


def drawn(vcpus: int, cases: int) -> None:
    way = Way(TRAP)
    ops = (CALLS, READS, PATCHES, Op("write", NOP), MAKES, OTHER, JUMPS, JUMPS)
    for seed in range(cases):
        chance = random.Random(seed)  # noqa: S311  # it is to be the same each time
        case = PagedCase(way, tuple([chance.choice(ops) for _ in range(6)] for _ in range(vcpus)))
        try:
            case.attach()
            case.machine.choose, case.machine.points = chance.randrange, POINTS
            for _ in range(chance.randrange(40)):
                case.machine.turn()
                case.engine.batch()
            case.machine.points = ("pause",)
            assert case.engine.detach() == [], seed
            case.check(writes=False)
        finally:
            case.restore()


class Broken:
    """Ways in which execute traps could be wrong; each must be found."""

    @staticmethod
    def hash_while_it_may_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
        right = Executing.__init__

        def init(self: Executing, *args: Any, many: bool) -> None:
            del many
            right(self, *args, many=False)

        monkeypatch.setattr(Executing, "__init__", init)

    @staticmethod
    def grant_before_the_hash(monkeypatch: pytest.MonkeyPatch) -> None:
        right = Executing._grant

        def grant(self: Executing, gfn: int, frame: Any, opened: int) -> bool:
            if gfn not in self._shadows:
                self.rights.set(gfn, executing.GRANTED)
            return right(self, gfn, frame, opened)

        monkeypatch.setattr(Executing, "_grant", grant)

    @staticmethod
    def leave_what_was_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Executing, "_rewritten", lambda *_: None)

    @staticmethod
    def let_copies_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Executing, "_shadow_access", lambda *_: Access.X)


@pytest.mark.parametrize("how", [name for name in vars(Broken) if name[0] != "_"])
def test_execute_traps_that_are_wrong_are_found(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    getattr(Broken, how)(monkeypatch)
    with pytest.raises(AssertionError):
        drawn(3, 60)
