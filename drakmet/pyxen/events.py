# SPDX-License-Identifier: GPL-2.0-or-later
"""Events as objects, for callers that prefer comfort to speed; each is a copy that outlives its slot."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, ClassVar

from drakmet.pyxen import registers
from drakmet.pyxen.layout import PART_LAYOUTS, AccessFlag, ControlRegister, Flag, Reason

if TYPE_CHECKING:
    from drakmet.pyxen.ring import Ring

_HEAD = struct.Struct("@4xIIIH")


class Event:
    """Something a vCPU reports. ``raw`` is the request (``vm_event_st``); ``view`` the altp2m view the vCPU was in."""

    __slots__ = ("_registers", "flags", "raw", "reason", "slot", "vcpu", "view")
    part: ClassVar[str | None] = None

    def __init__(self, raw: bytes, slot: int) -> None:
        flags, reason, self.vcpu, self.view = _HEAD.unpack_from(raw)
        self.flags = Flag(flags)
        self.reason = Reason(reason) if reason in Reason._value2member_map_ else Reason.UNKNOWN
        self.raw = raw
        self.slot = slot
        self._registers: registers.Registers | None = None

    @property
    def registers(self) -> registers.Registers:
        """The vCPU's registers at the event."""
        if self._registers is None:
            self._registers = registers.from_event(self.raw)
        return self._registers

    @property
    def paused(self) -> bool:
        """Whether the vCPU waits for the answer."""
        return bool(self.flags & Flag.VCPU_PAUSED)

    def _field(self, name: str) -> int:
        layout = PART_LAYOUTS[self.part or ""]
        value: int = struct.unpack_from(f"={layout.formats[name]}", self.raw, layout.offsets[name])[0]
        return value

    def __repr__(self) -> str:
        return f"<{type(self).__name__} vcpu={self.vcpu} view={self.view} rip={self.registers.rip:#x}>"


class MemAccess(Event):
    """A frame was accessed in a way that the view's rights forbid."""

    __slots__ = ()
    part = "mem_access"

    @property
    def gfn(self) -> int:
        """The guest frame."""
        return self._field("gfn")

    @property
    def offset(self) -> int:
        """The byte in the frame."""
        return self._field("offset")

    @property
    def gla(self) -> int | None:
        """The linear address, if the CPU gave one."""
        return self._field("gla") if self.access & AccessFlag.GLA_VALID else None

    @property
    def access(self) -> AccessFlag:
        """What was tried, and how the address is known."""
        return AccessFlag(self._field("flags"))


class SoftwareBreakpoint(Event):
    """An int3 was met; rip is at it."""

    __slots__ = ()
    part = "software_breakpoint"

    @property
    def gfn(self) -> int:
        """The guest frame rip is in."""
        return self._field("gfn")

    @property
    def insn_length(self) -> int:
        """The instruction's length in bytes: 1, or more with prefixes."""
        return self._field("insn_length")

    @property
    def type(self) -> int:
        """What `Control.inject_trap` takes as ``kind`` to give the int3 to the guest."""
        return self._field("type")


class SingleStep(Event):
    """One instruction was executed."""

    __slots__ = ()
    part = "singlestep"

    @property
    def gfn(self) -> int:
        """The guest frame rip is in."""
        return self._field("gfn")


class WriteControlRegister(Event):
    """A control register is to be written; DENY in the answer prevents it."""

    __slots__ = ()
    part = "write_ctrlreg"

    @property
    def register(self) -> ControlRegister:
        """Which one."""
        return ControlRegister(self._field("index"))

    @property
    def new_value(self) -> int:
        """What is to be written."""
        return self._field("new_value")

    @property
    def old_value(self) -> int:
        """What it holds."""
        return self._field("old_value")


class MovToMsr(Event):
    """A model-specific register is to be written; DENY in the answer prevents it."""

    __slots__ = ()
    part = "mov_to_msr"

    @property
    def msr(self) -> int:
        """Its number."""
        return self._field("msr")

    @property
    def new_value(self) -> int:
        """What is to be written."""
        return self._field("new_value")


class DebugException(Event):
    """A #DB was met."""

    __slots__ = ()
    part = "debug_exception"

    @property
    def insn_length(self) -> int:
        """The instruction's length, 0 where none caused it."""
        return self._field("insn_length")

    @property
    def type(self) -> int:
        """What `Control.inject_trap` takes as ``kind``."""
        return self._field("type")


class Cpuid(Event):
    """CPUID was executed; the answer sets registers and goes on behind it."""

    __slots__ = ()
    part = "cpuid"

    @property
    def insn_length(self) -> int:
        """The instruction's length in bytes."""
        return self._field("insn_length")

    @property
    def leaf(self) -> int:
        """What rax asked for."""
        return self._field("leaf")


class Interrupt(Event):
    """The next interrupt, which an answer with GET_NEXT_INTERRUPT asked for."""

    __slots__ = ()
    part = "interrupt"

    @property
    def vector(self) -> int:
        """Its vector."""
        return self._field("vector")


class GuestRequest(Event):
    """The guest asked for an event by hypercall."""

    __slots__ = ()


_KINDS: dict[int, type[Event]] = {
    Reason.MEM_ACCESS: MemAccess,
    Reason.SOFTWARE_BREAKPOINT: SoftwareBreakpoint,
    Reason.SINGLESTEP: SingleStep,
    Reason.WRITE_CTRLREG: WriteControlRegister,
    Reason.MOV_TO_MSR: MovToMsr,
    Reason.DEBUG_EXCEPTION: DebugException,
    Reason.CPUID: Cpuid,
    Reason.INTERRUPT: Interrupt,
    Reason.GUEST_REQUEST: GuestRequest,
}


def event_at(ring: Ring, slot: int) -> Event:
    """Return a taken slot's request as an object of the class that fits its reason."""
    raw = ring.copy(slot)
    reason = _HEAD.unpack_from(raw)[1]
    return _KINDS.get(reason, Event)(raw, slot)
