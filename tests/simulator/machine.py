# SPDX-License-Identifier: GPL-2.0-or-later
"""Xen and a guest's vCPUs as far as breakpoints go, in steps: wherever they can run, a schedule says who does.

What Xen does with an answer is that of xen/arch/x86/vm_event.c and hvm/monitor.c of 4.17; that the real one does the
same is checked against a recorded session (`test_like_the_real_one`). A vCPU does what its program says, one `Op`
after the other, through the view it is in. What a guest must never meet is a `Violation`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from lab.guest_probe import answer_name
from monitor.fake import FakeDomain

from drakmet.pyxen import AccessFlag, Flag, Reason, Ring
from drakmet.pyxen.layout import PAGE_SIZE, RING_HEADER, SLOT_SIZE, SLOTS
from drakmet.pyxen.ring import FAST_H, FLAGS_I, RIP_Q, RSP_PROD, VIEW_H

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

INT3, NOP, CALL = 0xCC, bytes.fromhex("0f1f440000"), bytes.fromhex("e8aabbccdd")
_LONGEST_RUN = 200


class Violation(AssertionError):  # noqa: N818  # it is what a test fails with
    """The guest met something that it would not have met without us."""


@dataclass(frozen=True)
class Op:
    """One thing a program does: ``call`` the trapped function, ``read`` its first bytes, or ``write`` them."""

    what: str
    data: bytes = b""


@dataclass
class Vcpu:
    """One vCPU, and what Xen knows of it."""

    number: int
    program: list[Op]
    at: int = 0
    view: int = 0
    waiting: bool = False
    stepping: bool = False
    back: int | None = None
    """The view after a fast step."""
    rip: int | None = None
    """Where an answer put it."""
    met: list[bytes] = field(default_factory=list)
    """What the guest has had at the function since its breakpoint was hit last."""
    trapped: bool = False
    """A #BP was injected."""
    done: list[str] = field(default_factory=list)
    """How each of its calls went."""

    @property
    def op(self) -> Op | None:
        """What it does next."""
        return self.program[self.at] if self.at < len(self.program) else None


class Machine(FakeDomain):
    """The domain that the engine gets; ``choose(count)`` picks who runs: 0 the monitor, else one of the vCPUs."""

    def __init__(self, memory: Any, address: int, gpa: int, programs: list[list[Op]]) -> None:
        super().__init__(memory, vcpus=len(programs))
        self.address, self.gfn, self.offset = address, gpa >> 12, gpa & 4095
        self.cpus = [Vcpu(number, list(program)) for number, program in enumerate(programs)]
        self.choose: Callable[[int], int] = lambda _: 0
        self.points: Container[str] = ("pause",)
        """Before which of the monitor's steps vCPUs may run, besides before it takes or answers events."""
        self.registers: dict[str, int] = {}
        self.seen: list[tuple[int, str, str]] = []
        """(vCPU, event, answer) in the order of the answers."""
        self._asked: dict[int, str] = {}
        self._taken_by_xen = 0
        self.ring = _PointedRing(bytearray(PAGE_SIZE), self.turn)
        self.ring.initialise()

    # who runs

    def step(self, name: str) -> None:
        super().step(name)
        if name in self.points:
            self.turn()

    def turn(self) -> None:
        """Let vCPUs run as often as the schedule wants, between two steps of the monitor."""
        while not self.pauses and (ready := self.runnable()):
            chosen = self.choose(len(ready) + 1)
            if chosen == 0:
                return
            self.run_one(ready[chosen - 1])

    def runnable(self) -> list[Vcpu]:
        """Return the vCPUs that would do something if they had the CPU."""
        return [cpu for cpu in self.cpus if not cpu.waiting and cpu.op is not None]

    def finish(self) -> None:
        """Let every vCPU come to the end of its program, with the monitor gone."""
        for _ in range(_LONGEST_RUN):
            ready = self.runnable()
            if not ready:
                break
            self.run_one(ready[0])
        for cpu in self.cpus:
            if cpu.waiting or cpu.op is not None:
                raise Violation(f"vCPU {cpu.number} hangs at {cpu.op} after {cpu.done}")
            if cpu.stepping or cpu.view or cpu.trapped:
                raise Violation(f"vCPU {cpu.number} is left stepping, in a view or with a trap: {cpu}")

    # what a vCPU does

    def run_one(self, cpu: Vcpu) -> None:
        """Have one vCPU execute one instruction, or run into an event."""
        op = cpu.op
        assert op is not None
        rip, cpu.rip = cpu.rip, None
        if op.what == "call":
            self._call(cpu, rip)
        elif cpu.view and (cpu.view, self.gfn) in self.rights:
            kind = AccessFlag.R if op.what == "read" else AccessFlag.W
            self._event(cpu, Reason.MEM_ACCESS, f"access {op.what}", part1=self.offset, part3=int(kind))
        else:
            self._touch(op)
            self._executed(cpu)

    def _call(self, cpu: Vcpu, rip: int | None) -> None:
        own = self.original()
        if rip is not None and rip != self.address:
            # It may have executed the nop at the instant it came to it, before another vCPU put something else there.
            if rip != self.address + len(NOP) or NOP not in (own[:5], *cpu.met):
                raise Violation(f"vCPU {cpu.number} went on at {rip - self.address:+d} where {own[:5].hex()} is")
            cpu.done.append("skipped")
            self._executed(cpu)
        elif cpu.trapped:
            cpu.trapped = False
            if INT3 not in (own[0], *(code[0] for code in cpu.met)):
                raise Violation(f"vCPU {cpu.number} got a #BP for an int3 that is not the guest's")
            cpu.done.append("own int3")
            self._executed(cpu)
        elif self.fetched(cpu) == INT3:
            if "software_breakpoint" in self.on:
                cpu.met = [own[:5]]
                regs = {**self.registers, "rip": self.address}
                self._event(cpu, Reason.SOFTWARE_BREAKPOINT, "breakpoint", **regs)
            elif own[0] == INT3:
                cpu.done.append("own int3")
                self._executed(cpu)
            else:
                raise Violation(f"vCPU {cpu.number} took our breakpoint for the guest's")
        else:
            cpu.done.append("executed" if not cpu.view else "missed")
            self._executed(cpu)

    def _executed(self, cpu: Vcpu) -> None:
        """An instruction is over: so is a single step, with or without an event."""
        cpu.at += 1
        if cpu.stepping:
            if cpu.back is not None:
                cpu.view = cpu.back if cpu.back in self.views else 0
                cpu.stepping, cpu.back = False, None
            elif "singlestep" in self.on:
                self._event(cpu, Reason.SINGLESTEP, "step", gfn=0)
            else:
                raise Violation(f"vCPU {cpu.number} steps and nobody is told")

    def _touch(self, op: Op) -> None:
        if op.what == "read":
            return  # from the guest's own memory: what it sees is right by that
        page = bytearray(self.memory.pages[self.gfn])
        page[self.offset : self.offset + len(op.data)] = op.data
        self.memory.pages[self.gfn] = bytes(page)
        for cpu in self.cpus:
            cpu.met.append(self.original()[:5])

    def original(self) -> bytes:
        """Return the function's first bytes in the guest's own memory."""
        page: bytes = self.memory.pages[self.gfn]
        return page[self.offset : self.offset + 16]

    def fetched(self, cpu: Vcpu) -> int:
        """Return the byte that a vCPU finds at the function, through its view."""
        new = self.views.get(cpu.view, {}).get(self.gfn)
        if new is None:
            return self.original()[0]
        return self.window[self.frames_given.index(new) * PAGE_SIZE + self.offset]

    # Xen's side of the ring

    def _event(self, cpu: Vcpu, reason: Reason, name: str, **values: int) -> None:
        regs = {key: value for key, value in values.items() if key != "vcpu_id"}
        self.ask(reason, cpu.number, **{"gfn": self.gfn, **regs, "altp2m_idx": cpu.view})
        cpu.waiting = True
        self._asked[cpu.number] = name

    def resume(self) -> None:
        """Take the answers that are in the ring: vm_event_resume()."""
        ring = self.ring
        while self._taken_by_xen != ring.ints[RSP_PROD]:
            slot = RING_HEADER + self._taken_by_xen % SLOTS * SLOT_SIZE
            self._taken_by_xen += 1
            flags = ring.ints[(slot >> 2) + FLAGS_I]
            cpu = self.cpus[self.answer(slot, "vcpu_id")]
            self.seen.append((cpu.number, self._asked.get(cpu.number, "nothing"), answer_name(flags)))
            if not flags & Flag.VCPU_PAUSED or not cpu.waiting:
                continue
            if flags & Flag.ALTERNATE_P2M:
                view = ring.shorts[(slot >> 1) + VIEW_H]
                cpu.view = view if view in self.views else 0
            if flags & Flag.FAST_SINGLESTEP:
                cpu.stepping, cpu.back = True, ring.shorts[(slot >> 1) + FAST_H]
            if flags & Flag.TOGGLE_SINGLESTEP:
                cpu.stepping = not cpu.stepping
            if flags & Flag.SET_REGISTERS:
                cpu.rip = ring.words[(slot >> 3) + RIP_Q]
            cpu.waiting = False

    # what the engine calls

    def single_step_off(self, domid: int, vcpu: int) -> None:
        super().single_step_off(domid, vcpu)
        self.cpus[vcpu].stepping, self.cpus[vcpu].back = False, None

    def inject_trap(self, domid: int, vcpu: int, vector: int, kind: int, *, length: int, cr2: int) -> None:
        super().inject_trap(domid, vcpu, vector, kind, length=length, cr2=cr2)
        self.cpus[vcpu].trapped = True

    def channel(self, port: int) -> Any:
        channel = super().channel(port)

        def hand_over() -> None:
            self.resume()
            self.turn()

        return SimpleNamespace(**{**channel.__dict__, "hand_over": hand_over})

    def altp2m(self) -> Any:
        views = super().altp2m()

        def switch(view: int) -> None:
            views.switch(view)
            for cpu in self.cpus:
                cpu.view = view

        def close() -> None:
            for cpu in self.cpus:
                cpu.view = 0
            views.close()

        return SimpleNamespace(**{**views.__dict__, "switch": switch, "close": close})


class _PointedRing(Ring):
    """A ring where each request that is taken is a point at which vCPUs may run."""

    __slots__ = ("_turn",)

    def __init__(self, page: bytearray, turn: Callable[[], None]) -> None:
        self._turn: Callable[[], None] = lambda: None
        super().__init__(page)
        self._turn = turn

    @property
    def taken(self) -> int:  # type: ignore[override]
        """How many were taken."""
        count: int = _TAKEN.__get__(self)
        return count

    @taken.setter
    def taken(self, count: int) -> None:
        _TAKEN.__set__(self, count)
        self._turn()


_TAKEN: Any = Ring.__dict__["taken"]


def schedules(run: Callable[[Callable[[int], int]], None], most: int) -> Iterator[list[int]]:
    """Call ``run(choose)`` once for each way to choose, up to ``most``; yield what was chosen each time.

    ``run`` must do the same again when it is answered the same.
    """
    prefix: list[int] = []
    for _ in range(most):
        chosen: list[tuple[int, int]] = []

        def choose(count: int, prefix: list[int] = prefix, chosen: list[tuple[int, int]] = chosen) -> int:
            pick = prefix[len(chosen)] if len(chosen) < len(prefix) else 0
            chosen.append((pick, count))
            return pick

        try:
            run(choose)
        except AssertionError as error:
            error.add_note(f"schedule: {[pick for pick, _ in chosen]}")
            raise
        yield [pick for pick, _ in chosen]
        while chosen and chosen[-1][0] + 1 == chosen[-1][1]:
            chosen.pop()
        if not chosen:
            return
        prefix = [pick for pick, _ in chosen[:-1]] + [chosen[-1][0] + 1]
    raise AssertionError(f"there are more than {most} schedules")
