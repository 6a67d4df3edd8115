# SPDX-License-Identifier: GPL-2.0-or-later
"""Instructions that do nothing, as the kernel (arch/x86/include/asm/nops.h) and the assembler write them."""

from __future__ import annotations

import re
from typing import Final

# 0x90 with up to four 0x66; 0f 1f /0 in its lengths of 3 to 11, of memory at [rax] or [rax+rax*1+disp] only.
NOP: Final = re.compile(
    rb"\x66{0,9}\x90|\x66{0,8}\x2e?\x0f\x1f(?:\x00|\x40\x00|\x44\x00\x00|\x80\x00{4}|\x84\x00\x00{4})", re.DOTALL
)
_INT3: Final = 0xCC
_LONGEST: Final = 8
"""Bytes that the kernel fills with nops rather than with a jump: ASM_NOP_MAX (8, later 11)."""
JUMP8, JUMP32 = 0xEB, 0xE9


def only_nops(data: bytes) -> bool:
    """Return whether bytes are nothing but nops, or a jump over the rest with int3 behind it (6.6 and later)."""
    at, end = 0, len(data)
    while at < end:
        found = NOP.match(data, at)
        if found:
            at = found.end()
            continue
        if end - at <= _LONGEST:
            return False
        if data[at] == JUMP8 and data[at + 1] == end - at - 2:
            return set(data[at + 2 :]) <= {_INT3}
        if data[at] == JUMP32 and int.from_bytes(data[at + 1 : at + 5], "little") == end - at - 5:
            return set(data[at + 5 :]) <= {_INT3}
        return False
    return True


def run_around(expected: bytes, found: bytes, at: int) -> int | None:
    """Return the end of the smallest run around ``at`` that is nops in both, None if there is none.

    Nops of one kind may stand for nops of another where the kernel chose longer ones (optimize_nops).
    """
    size = len(expected)
    for end in range(at + 1, min(size, at + 256) + 1):
        if end < size and expected[end] != found[end] and end - at < 15:
            continue
        for start in range(at, max(-1, at - 15), -1):
            if only_nops(expected[start:end]) and only_nops(found[start:end]):
                return end
    return None
