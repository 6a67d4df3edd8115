# SPDX-License-Identifier: GPL-2.0-or-later
"""How a vCPU goes on after a breakpoint, chosen from the instruction that the breakpoint covers.

An instruction that does nothing is skipped, one that only moves or tests registers is done here: both by setting
registers in the answer, with no step. What the guest itself made an int3 is given to the guest. All else is executed
from the guest's own memory (view 0) by a single step.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

INT3: Final = 0xCC
_NOPS: Final = (  # Intel SDM volume 2B, NOP: the recommended sequences of 1 to 9 bytes
    "90", "6690", "0f1f00", "0f1f4000", "0f1f440000", "660f1f440000", "0f1f8000000000", "0f1f840000000000",
    "660f1f840000000000",
)  # fmt: skip
_NOP_BYTES: Final = tuple(bytes.fromhex(one) for one in reversed(_NOPS))
LONGEST: Final = 9
"""Bytes that `choose` looks at, at most."""

_NAMES: Final = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
_M32: Final = 0xFFFF_FFFF
_M64: Final = 0xFFFF_FFFF_FFFF_FFFF
_CF, _PF, _ZF, _SF, _OF = 1 << 0, 1 << 2, 1 << 6, 1 << 7, 1 << 11
_TESTED: Final = _CF | _PF | _ZF | _SF | _OF
_REX_W, _REX_R, _REX_B = 8, 4, 1


class Way(Enum):
    """How to go on."""

    SKIP = "skip"
    MOVE = "move"
    TEST = "test"
    STEP = "step"
    REINJECT = "reinject"


class GoOn(NamedTuple):
    """A way, the instruction's length where it is done here, and the registers it is about (``source`` to ``target``).

    ``wide``: 64 bits, else 32 with the upper half cleared.
    """

    way: Way
    length: int = 0
    source: str = ""
    target: str = ""
    wide: bool = True


def choose(original: bytes) -> GoOn:
    """Return how to go on at an instruction that begins with ``original`` (`LONGEST` bytes, less at a page's end)."""
    if not original:
        return GoOn(Way.STEP)
    if original[0] == INT3:
        return GoOn(Way.REINJECT)
    for nop in _NOP_BYTES:
        if original.startswith(nop):
            return GoOn(Way.SKIP, len(nop))
    return _registers_only(original) or GoOn(Way.STEP)


def _registers_only(original: bytes) -> GoOn | None:
    """Recognise MOV and TEST between general registers (opcodes 89, 8B and 85 with a register operand)."""
    rex = original[0] if original[0] & 0xF0 == 0x40 else 0
    code = original[1:] if rex else original
    if len(code) < 2 or code[1] >> 6 != 3:
        return None
    middle = _NAMES[(code[1] >> 3 & 7) | (8 if rex & _REX_R else 0)]
    low = _NAMES[(code[1] & 7) | (8 if rex & _REX_B else 0)]
    length, wide = 2 + bool(rex), bool(rex & _REX_W)
    if code[0] == 0x89 and low != "rsp":
        return GoOn(Way.MOVE, length, middle, low, wide)
    if code[0] == 0x8B and middle != "rsp":
        return GoOn(Way.MOVE, length, low, middle, wide)
    if code[0] == 0x85:
        return GoOn(Way.TEST, length, middle, low, wide)
    return None


def moved(value: int, *, wide: bool) -> int:
    """Return what a MOV of ``value`` leaves in the target."""
    return value if wide else value & _M32


def flags_after_test(flags: int, one: int, two: int, *, wide: bool) -> int:
    """Return the flags register after TEST of two values (Intel SDM volume 2B: AF is left undefined)."""
    result = one & two & (_M64 if wide else _M32)
    flags &= ~_TESTED
    if not result:
        flags |= _ZF
    if result >> (63 if wide else 31):
        flags |= _SF
    if not (result & 0xFF).bit_count() & 1:
        flags |= _PF
    return flags
