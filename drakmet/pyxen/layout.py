# SPDX-License-Identifier: GPL-2.0-or-later
"""The layout and the numbers of Xen's event interface (``xen/vm_event.h``, interface version 7: Xen 4.17 to 4.20)."""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterable
    from typing import Any

    Buffer = bytes | bytearray | memoryview | mmap.mmap | Any  # Any: cffi's own buffer

INTERFACE_VERSION = 7
PAGE_SIZE = 4096
RING_HEADER = 64
"""Bytes before the first slot (``xen/io/ring.h``: req_prod, req_event, rsp_prod, rsp_event, 48 spare)."""


class Layout:
    """A C structure: fields in order, each at its natural alignment, as the x86-64 ABI lays them out."""

    def __init__(self, name: str, fields: Iterable[tuple[str, str]], start: int = 0, size: int | None = None) -> None:
        self.name = name
        self.formats: dict[str, str] = {}
        self.offsets: dict[str, int] = {}
        at = start
        for field, form in fields:
            width = struct.calcsize(form)
            align = 1 if form.endswith("s") else width
            at = (at + align - 1) // align * align
            self.offsets[field] = at
            self.formats[field] = form
            at += width
        self.size = at if size is None else size

    def reader(self, names: Iterable[str]) -> tuple[struct.Struct, list[str]]:
        """Return one precompiled struct that reads ``names`` and nothing else, and the order its values come in.

        The order is that of the addresses. Native alignment and byte order are the quick ones to unpack; the pads
        are spelt out.
        """
        order = sorted(dict.fromkeys(names), key=self.offsets.__getitem__)
        text, at = "@", 0
        for name in order:
            gap = self.offsets[name] - at
            text += f"{gap}x{self.formats[name]}" if gap else self.formats[name]
            at = self.offsets[name] + struct.calcsize(self.formats[name])
        made = struct.Struct(text)
        if made.size != at:
            raise AssertionError(f"{self.name}: {text} is not what was meant")
        return made, order


class Reason(enum.IntEnum):
    """Why a vCPU reports (``VM_EVENT_REASON_*``)."""

    UNKNOWN = 0
    MEM_ACCESS = 1
    MEM_SHARING = 2
    MEM_PAGING = 3
    WRITE_CTRLREG = 4
    MOV_TO_MSR = 5
    SOFTWARE_BREAKPOINT = 6
    SINGLESTEP = 7
    GUEST_REQUEST = 8
    DEBUG_EXCEPTION = 9
    CPUID = 10
    PRIVILEGED_CALL = 11
    INTERRUPT = 12
    DESCRIPTOR_ACCESS = 13
    EMUL_UNIMPLEMENTED = 14
    VMEXIT = 15
    IO_INSTRUCTION = 16


class Flag(enum.IntFlag):
    """What a request says and a response asks for (``VM_EVENT_FLAG_*``)."""

    VCPU_PAUSED = 1 << 0
    FOREIGN = 1 << 1
    EMULATE = 1 << 2
    EMULATE_NOWRITE = 1 << 3
    TOGGLE_SINGLESTEP = 1 << 4
    SET_EMUL_READ_DATA = 1 << 5
    DENY = 1 << 6
    ALTERNATE_P2M = 1 << 7
    SET_REGISTERS = 1 << 8
    SET_EMUL_INSN_DATA = 1 << 9
    GET_NEXT_INTERRUPT = 1 << 10
    FAST_SINGLESTEP = 1 << 11
    NESTED_P2M = 1 << 12
    RESET_VMTRACE = 1 << 13
    RESET_FORK_STATE = 1 << 14
    RESET_FORK_MEMORY = 1 << 15


class AccessFlag(enum.IntFlag):
    """What an access violation was (``MEM_ACCESS_*``)."""

    R = 1 << 0
    W = 1 << 1
    X = 1 << 2
    GLA_VALID = 1 << 3
    FAULT_WITH_GLA = 1 << 4
    FAULT_IN_GPT = 1 << 5


class ControlRegister(enum.IntEnum):
    """Which register a WRITE_CTRLREG event is about (``VM_EVENT_X86_*``)."""

    CR0 = 0
    CR3 = 1
    CR4 = 2
    XCR0 = 3


_HEAD = [("version", "I"), ("flags", "I"), ("reason", "I"), ("vcpu_id", "I"), ("altp2m_idx", "H")]
UNION = 24
"""Offset of the part that depends on the reason."""
REGS = 56
"""Offset of the registers, or of the data for emulation, which lie in the same place."""

_GENERAL = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15 rflags dr6 dr7 rip cr0 cr2 cr3 cr4"
_MACHINE = "sysenter_cs sysenter_esp sysenter_eip msr_efer msr_star msr_lstar gdtr_base npt_base vmtrace_pos"
REGS_LAYOUT = Layout(
    "vm_event_regs_x86",
    [
        *[(name, "Q") for name in f"{_GENERAL} {_MACHINE}".split()],
        *[(f"{name}_base", "I") for name in ("cs", "ss", "ds", "es")],
        ("fs_base", "Q"),
        ("gs_base", "Q"),
        *[(name, "I") for name in ("cs", "ss", "ds", "es", "fs", "gs")],  # 20 bits limit, 12 bits attributes
        ("shadow_gs", "Q"),
        ("gdtr_limit", "H"),
        *[(f"{name}_sel", "H") for name in ("cs", "ss", "ds", "es", "fs", "gs")],
        ("_pad", "H"),
    ],
)

PARTS: dict[str, list[tuple[str, str]]] = {
    "mem_access": [("gfn", "Q"), ("offset", "Q"), ("gla", "Q"), ("flags", "I")],
    "write_ctrlreg": [("index", "I"), ("_pad", "I"), ("new_value", "Q"), ("old_value", "Q")],
    "mov_to_msr": [("msr", "Q"), ("new_value", "Q"), ("old_value", "Q")],
    "singlestep": [("gfn", "Q")],
    "fast_singlestep": [("p2midx", "H")],
    "software_breakpoint": [("gfn", "Q"), ("pending_dbg", "Q"), ("insn_length", "I"), ("type", "B")],
    "debug_exception": [("gfn", "Q"), ("pending_dbg", "Q"), ("insn_length", "I"), ("type", "B")],
    "cpuid": [("insn_length", "I"), ("leaf", "I"), ("subleaf", "I")],
    "interrupt": [("vector", "I"), ("type", "I"), ("error_code", "I"), ("_pad", "I"), ("cr2", "Q")],
}
"""The members of the union at `UNION`, by the name in the header."""

PART_LAYOUTS = {name: Layout(name, fields, start=UNION) for name, fields in PARTS.items()}

SLOT_SIZE = REGS + REGS_LAYOUT.size
EVENT = Layout("vm_event_st", _HEAD, size=SLOT_SIZE)
EVENT.offsets |= {name: REGS + offset for name, offset in REGS_LAYOUT.offsets.items() if name not in EVENT.offsets}
EVENT.formats |= {name: form for name, form in REGS_LAYOUT.formats.items() if name not in EVENT.formats}
# Every traced reason but CPUID starts its part with the frame it is about, or with something as wide.
EVENT.offsets["gfn"] = UNION
EVENT.formats["gfn"] = "Q"
EVENT.offsets["part1"] = UNION + 8
EVENT.formats["part1"] = "Q"
EVENT.offsets["part2"] = UNION + 16
EVENT.formats["part2"] = "Q"
EVENT.offsets["part3"] = UNION + 24
EVENT.formats["part3"] = "I"

SLOTS = 1 << (((PAGE_SIZE - RING_HEADER) // SLOT_SIZE).bit_length() - 1)
"""How many events the ring page holds: the greatest power of two that fits."""
