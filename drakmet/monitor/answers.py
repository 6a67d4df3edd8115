# SPDX-License-Identifier: GPL-2.0-or-later
"""The answers that need more than skipping a nop: steps, reads and writes of shadowed frames, the guest's own int3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from drakmet.errors import GuestError, XenError
from drakmet.monitor.goon import INT3, Way, choose, flags_after_test, moved
from drakmet.pyxen import HOST_VIEW, AccessFlag, MemAccess, SoftwareBreakpoint, event_at
from drakmet.pyxen.layout import EVENT, Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet.guest.memory import PhysicalMemory
    from drakmet.monitor.armed import Place
    from drakmet.monitor.executing import Executing
    from drakmet.monitor.goon import GoOn
    from drakmet.monitor.shadow import Shadows
    from drakmet.pyxen import Control, Ring

_BP: Final = 3
_RFLAGS_Q: Final = EVENT.offsets["rflags"] >> 3
_WIDEST: Final = 64
"""Bytes that one instruction writes, at most (a ZMM register)."""


class Answers:
    """Answers events of one domain's ring. ``changed`` is told which addresses the guest rewrote."""

    def __init__(
        self,
        ring: Ring,
        control: Control,
        domid: int,
        shadows: Shadows,
        memory: PhysicalMemory,
        events: dict[str, int],
        changed: Callable[[list[int]], None],
    ) -> None:
        self._ring = ring
        self._control = control
        self._domid = domid
        self._shadows = shadows
        self._view = shadows.view
        self._memory = memory
        self._events = events
        self._changed = changed
        self._writing: dict[int, tuple[int, bool]] = {}
        self.executing: Executing | None = None
        """Whoever has execute traps, if there are any."""

    @property
    def writing(self) -> bool:
        """Whether the guest is let write to a frame that has a copy, and has not told yet that it has done so."""
        return bool(self._writing)

    def choose(self, place: Place, gpa: int) -> None:
        """Set how a place's hits go on, from what the guest has there now."""
        how = choose(self._shadows.original(gpa))
        place.skip_to = place.address + how.length if how.way is Way.SKIP else 0
        place.go = self._go(place.address, how)

    def _go(self, address: int, how: GoOn) -> Callable[[int], None]:
        ring = self._ring
        if how.way is Way.REINJECT:
            return self._reinject
        if how.way is Way.MOVE:
            source, target = EVENT.offsets[how.source] >> 3, EVENT.offsets[how.target] >> 3
            words, wide, behind = ring.words, how.wide, address + how.length

            def move(slot: int) -> None:
                at = slot >> 3
                words[at + target] = moved(words[at + source], wide=wide)
                ring.skip(slot, behind)

            return move
        if how.way is Way.TEST:
            one, two = EVENT.offsets[how.source] >> 3, EVENT.offsets[how.target] >> 3
            words, wide, behind = ring.words, how.wide, address + how.length

            def test(slot: int) -> None:
                at = slot >> 3
                words[at + _RFLAGS_Q] = flags_after_test(
                    words[at + _RFLAGS_Q], words[at + one], words[at + two], wide=wide
                )
                ring.skip(slot, behind)

            return test
        view = self._view
        return lambda slot: ring.step_fast(slot, view, HOST_VIEW)

    def other(self, slot: int, registers: Any, time: int) -> None:
        """Answer an event that is no hit of a place that is armed."""
        reason = registers.reason
        if reason == Reason.MEM_ACCESS:
            self._access(slot, registers, time)
        elif reason == Reason.SINGLESTEP:
            self._stepped(slot, registers)
        elif reason == Reason.SOFTWARE_BREAKPOINT:
            self._stray(slot, registers)
        else:
            self._count("other")
            self._ring.proceed(slot)

    def _count(self, kind: str) -> None:
        self._events[kind] = self._events.get(kind, 0) + 1

    def _access(self, slot: int, registers: Any, time: int) -> None:
        """The guest executes what it may not yet, or reads or writes code: have it do that in its own memory."""
        event = event_at(self._ring, slot)
        if not isinstance(event, MemAccess):
            self._ring.proceed(slot)
            return
        executing = self.executing
        if executing is not None:
            if event.access & AccessFlag.X:
                executing.executed(slot, event, registers, time)
                return
            if event.gfn not in self._shadows:
                executing.written(event.gfn)
                self._ring.proceed(slot)
                return
        if event.access & AccessFlag.W and event.gfn in self._shadows:
            self._count("write")
            # The step must be told of: only then is there something to carry over.
            self._writing[registers.vcpu_id] = event.gfn, event.offset + _WIDEST > 4096
            self._ring.step_toggle(slot, HOST_VIEW)
        else:
            self._count("read")
            self._ring.step_fast(slot, self._view, HOST_VIEW)

    def _stepped(self, slot: int, registers: Any) -> None:
        """A write was done: carry it over, then go back to the view."""
        self._count("step")
        gfn, wide = self._writing.pop(registers.vcpu_id, (-1, False))
        if gfn >= 0:
            self._changed(self._shadows.refresh_all() if wide else self._shadows.refresh(gfn))
        self._ring.step_toggle(slot, self._view)

    def _stray(self, slot: int, registers: Any) -> None:
        """A breakpoint that is none of ours: the guest's own, or one that was taken out while the vCPU came to it."""
        gpa = (registers.gfn << 12) + (registers.rip & 4095)
        try:
            own = self._memory.read(gpa, 1)[0] == INT3
        except GuestError:
            own = True
        if own:
            self._reinject(slot)
        else:
            self._count("late")
            self._ring.proceed(slot)

    def _reinject(self, slot: int) -> None:
        """Give the int3 to the guest, whose it is."""
        self._count("reinjected")
        event = event_at(self._ring, slot)
        if isinstance(event, SoftwareBreakpoint):
            try:
                self._control.inject_trap(self._domid, event.vcpu, _BP, event.type, length=event.insn_length, cr2=0)
            except XenError:
                self._count("not reinjected")
        self._ring.proceed(slot)
