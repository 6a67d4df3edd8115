# SPDX-License-Identifier: GPL-2.0-or-later
"""A vCPU's registers, as events carry them and as Xen saves them for a paused guest."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from drakmet.pyxen import layout

if TYPE_CHECKING:
    import struct

    from drakmet.pyxen.layout import Buffer


class Registers(NamedTuple):
    """General, control and segment registers of one vCPU; selectors and bases as the CPU holds them.

    ``gs_base`` is the active base; in kernel mode on Linux that is the per-CPU area, which user mode has in
    ``shadow_gs``.
    """

    rax: int
    rcx: int
    rdx: int
    rbx: int
    rsp: int
    rbp: int
    rsi: int
    rdi: int
    r8: int
    r9: int
    r10: int
    r11: int
    r12: int
    r13: int
    r14: int
    r15: int
    rflags: int
    rip: int
    cr0: int
    cr2: int
    cr3: int
    cr4: int
    dr6: int
    dr7: int
    efer: int
    lstar: int
    fs_base: int
    gs_base: int
    shadow_gs: int
    gdtr_base: int
    cs_sel: int
    ss_sel: int

    @property
    def user_mode(self) -> bool:
        """Whether the vCPU runs at privilege level 3."""
        return self.ss_sel & 3 == 3

    @property
    def kernel_gs(self) -> int:
        """The kernel's gs base, whichever mode the vCPU is in (right outside the few instructions around swapgs)."""
        return self.shadow_gs if self.user_mode else self.gs_base


_HVM_CPU = layout.Layout(
    "hvm_hw_cpu",
    [
        ("fpu_regs", "512s"),
        *[
            (name, "Q")
            for name in (
                "rax",
                "rbx",
                "rcx",
                "rdx",
                "rbp",
                "rsi",
                "rdi",
                "rsp",
                "r8",
                "r9",
                "r10",
                "r11",
                "r12",
                "r13",
                "r14",
                "r15",
                "rip",
                "rflags",
            )
        ],
        *[(name, "Q") for name in ("cr0", "cr2", "cr3", "cr4", "dr0", "dr1", "dr2", "dr3", "dr6", "dr7")],
        *[(f"{name}_sel", "I") for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldtr")],
        *[(f"{name}_limit", "I") for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldtr", "idtr", "gdtr")],
        *[(f"{name}_base", "Q") for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldtr", "idtr", "gdtr")],
        *[(f"{name}_arbytes", "I") for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldtr")],
        *[
            (name, "Q")
            for name in (
                "sysenter_cs",
                "sysenter_esp",
                "sysenter_eip",
                "shadow_gs",
                "msr_flags",
                "msr_lstar",
                "msr_star",
            )
        ],
        *[(name, "Q") for name in ("msr_cstar", "msr_syscall_mask", "msr_efer", "msr_tsc_aux", "tsc")],
        *[(name, "I") for name in ("pending_event", "error_code", "flags", "pad0")],
    ],
)
HVM_CPU_SIZE = _HVM_CPU.size
HVM_CPU_LAYOUT = _HVM_CPU

_RENAMED = {"efer": "msr_efer", "lstar": "msr_lstar"}
_WANTED = [_RENAMED.get(name, name) for name in Registers._fields]


def _reader(source: layout.Layout) -> tuple[struct.Struct, list[int]]:
    """Return a struct that reads what `Registers` holds out of ``source``, and where each field is in its result."""
    reader, order = source.reader(_WANTED)
    return reader, [order.index(name) for name in _WANTED]


_SAVED, _SAVED_ORDER = _reader(_HVM_CPU)
_EVENT, _EVENT_ORDER = _reader(layout.EVENT)


def from_saved(record: Buffer) -> Registers:
    """Return the registers of an HVM save record of type CPU (``struct hvm_hw_cpu``, xen/arch-x86/hvm/save.h)."""
    values = _SAVED.unpack_from(record)
    return Registers(*[values[index] for index in _SAVED_ORDER])


def from_event(slot: Buffer, offset: int = 0) -> Registers:
    """Return the registers of the vm_event request that starts at ``offset`` of ``slot``."""
    values = _EVENT.unpack_from(slot, offset)
    return Registers(*[values[index] for index in _EVENT_ORDER])
