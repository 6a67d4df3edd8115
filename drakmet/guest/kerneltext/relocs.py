# SPDX-License-Identifier: GPL-2.0-or-later
"""What KASLR changes in a kernel's file: the lists that follow the ELF file in the payload of a bzImage.

arch/x86/tools/relocs.c writes them and arch/x86/boot/compressed/misc.c (handle_relocations) reads them from their end:
32-bit addresses to which the slide is added as a 32-bit word, up to a zero; those from which it is subtracted, up to a
zero; those to which it is added as a 64-bit word, up to a zero. Linux 5.10, 6.1 and 6.12 are alike in this.
"""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING, Final

from drakmet.errors import GuestError

if TYPE_CHECKING:
    from collections.abc import Sequence

_SECTIONS: Final = 40
_MAX: Final = 1 << 24
_HIGH: Final = 0xFFFF_FFFF_0000_0000
_U32, _U64 = (1 << 32) - 1, (1 << 64) - 1


def end_of_elf(data: bytes) -> int:
    """Return where an ELF file ends that its table of sections ends."""
    start = struct.unpack_from("<Q", data, _SECTIONS)[0]
    size, count = struct.unpack_from("<HH", data, 58)
    return int(start) + int(size) * int(count)


def read(payload: bytes) -> tuple[Sequence[int], Sequence[int], Sequence[int]] | None:
    """Return the lists of 32-bit, subtracted and 64-bit places, as 32-bit addresses; None if there are none."""
    end = end_of_elf(payload)
    rest = payload[end:]
    # A payload may be followed by its unpacked size or by zeros up to a boundary.
    words = array("I", rest[: len(rest) & ~3])
    if len(words) < 3 or len(words) > _MAX:
        return None
    lists: list[Sequence[int]] = []
    stop = len(words)
    for _ in range(3):
        start = stop
        while start and words[start - 1]:
            start -= 1
        if not start:
            return None
        lists.append(words[start:stop])
        stop = start - 1
    if stop or not lists[0] or not lists[2]:
        return None
    return lists[0], lists[1], lists[2]


def apply(lists: tuple[Sequence[int], Sequence[int], Sequence[int]], slide: int, start: int, data: bytearray) -> None:
    """Move the bytes of an image that start at the link-time address ``start`` to where the slide puts them."""
    plain, inverse, wide = lists
    end = start + len(data)
    for places, sign in ((plain, slide), (inverse, -slide)):
        for place in places:
            at = (place | _HIGH) - start
            if at >= 0 and at + 4 <= end - start:
                word = int.from_bytes(data[at : at + 4], "little") + sign & _U32
                data[at : at + 4] = word.to_bytes(4, "little")
    for place in wide:
        at = (place | _HIGH) - start
        if at >= 0 and at + 8 <= end - start:
            word = int.from_bytes(data[at : at + 8], "little") + slide & _U64
            data[at : at + 8] = word.to_bytes(8, "little")


def check(slide: int) -> None:
    """Raise `GuestError` for a slide that KASLR never makes (multiples of CONFIG_PHYSICAL_ALIGN below 1 GiB)."""
    if slide % (2 << 20) or not 0 <= slide < 1 << 30:
        raise GuestError(f"the kernel lies {slide:#x} from where it was linked, which KASLR never does")
