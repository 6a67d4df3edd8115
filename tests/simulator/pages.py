# SPDX-License-Identifier: GPL-2.0-or-later
"""The simulated machine with execute traps: a vCPU may also run a page of code and write another version of it.

What Xen does with rights is that of xen/arch/x86/mm/mem_access.c of 4.17: an access that they forbid is an event, but a
write to a frame that is ``rx2rw`` makes it ``rw`` and goes on, with no event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from drakmet import ExecuteTrap, Execution
from drakmet.executions import ExecutionKind
from drakmet.monitor.engine import Engine
from drakmet.monitor.pageevents import ArmedExecute, PageEvents
from drakmet.pages import page_hash
from drakmet.pyxen import Access, AccessFlag, Reason
from simulator.machine import Machine, Op, Vcpu, Violation

if TYPE_CHECKING:
    from monitor.scene import Way

RUNS = Op("run")
CODE, USER, TABLES = 0x55D0_0000_1000, 0x33, 0x7000
_EXECUTABLE = (Access.X, Access.RX, Access.RWX, Access.RX2RW)
_WRITABLE = (Access.RW, Access.RWX)


class PageMachine(Machine):
    """Such a machine; ``page`` is the frame of code, ``ran`` the hashes of what was executed of it in the view."""

    def __init__(self, way: Way, programs: list[list[Op]]) -> None:
        super().__init__(way.memory, way.address, way.guest.kernel.gpa(way.address), programs)
        self.page = next(gfn for gfn in sorted(way.memory.pages) if gfn != self.gfn)
        self.ran: set[str] = set()

    def run_one(self, cpu: Vcpu) -> None:
        op = cpu.op
        assert op is not None
        gfn = self.page if op.what in ("run", "fill") else self.gfn
        right = Access(self.rights[cpu.view, gfn]) if (cpu.view, gfn) in self.rights else None
        if op.what in ("run", "call") and right is not None and right not in _EXECUTABLE and cpu.rip is None:
            self._fault(cpu, gfn, AccessFlag.X, "access execute")
        elif op.what == "run":
            if cpu.view or cpu.stepping:
                self.ran.add(page_hash(self.memory.pages[gfn]).hex())
            self._executed(cpu)
        elif op.what == "fill":
            if right is Access.RX2RW:
                self.rights[cpu.view, gfn] = int(Access.RW)
            elif right is not None and right not in _WRITABLE:
                self._fault(cpu, gfn, AccessFlag.W, "access write")
                return
            self.memory.pages[gfn] = op.data.ljust(4096, b"\0")
            self._executed(cpu)
        else:
            super().run_one(cpu)

    def _fault(self, cpu: Vcpu, gfn: int, flag: AccessFlag, name: str) -> None:
        values: dict[str, int] = {
            "gfn": gfn, "part1": 0, "part2": CODE, "part3": int(flag | AccessFlag.GLA_VALID), "rip": CODE,
            "cr3": TABLES, "cs_sel": USER,
        }  # fmt: skip
        self._event(cpu, Reason.MEM_ACCESS, name, **values)


class PageCase:
    """One such machine with the engine on it."""

    def __init__(self, way: Way, programs: tuple[list[Op], ...]) -> None:
        self.way = way
        self.pages = dict(way.memory.pages)
        self.machine = PageMachine(way, list(programs))
        self.machine.registers = {k: v for k, v in way.registers.items() if k != "vcpu_id"}
        self.engine = Engine(self.machine, way.guest)  # type: ignore[arg-type]
        self.told: list[Execution] = []
        way.sink.rows.clear()

    def attach(self) -> None:
        trap = ArmedExecute("test", ExecuteTrap(handler=self.told.append))
        pages: Any = PageEvents([trap], self.way.hits, self.way.processes, self.way.guest, None)
        prepared = self.way.prepared
        self.engine.attach(prepared.places, self.way.hits, prepared.registers | {"rsi", "rdi"}, pages=pages)

    def restore(self) -> None:
        self.way.memory.pages.clear()
        self.way.memory.pages.update(self.pages)

    def check(self) -> None:
        """Nothing ran in the view that was not told of, every vCPU came to its end, and nothing is left."""
        self.machine.finish()
        left = self.machine.left()
        assert left == {}, left
        told = [one for one in self.told if one.gfn == self.machine.page]
        if any(one.kind == ExecutionKind.JIT for one in told):
            return  # it was said that from then on it runs unseen
        if unseen := self.machine.ran - {one.hash for one in told}:
            raise Violation(f"{len(unseen)} versions of the page ran and were not told of; told: {len(told)}")
