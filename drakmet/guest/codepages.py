# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages of a process that are in memory, and what of a file they hold: what can be hashed and looked up."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from drakmet.guest.memory import PAGE_SIZE, Unreadable
from drakmet.guest.paging import ADDRESS_MASK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.guest.memory import PhysicalMemory
    from drakmet.guest.regions import Region

_PRESENT: Final = 1
_LARGE: Final = 1 << 7
_USER_END: Final = 1 << 56
_ENTRIES: Final = struct.Struct("<512Q")


class CodePage(NamedTuple):
    """A page that is in memory: its address in the process, in the guest, and its offset in the file in bytes."""

    address: int
    gpa: int
    offset: int


def pages(memory: PhysicalMemory, cr3: int, levels: int, region: Region) -> Iterator[CodePage]:
    """Yield the pages of a region that are in memory, in the order of their addresses.

    Each table is read once; one that cannot be read stands for pages that are not in memory. Large pages are given out
    in pieces of 4 KiB.
    """
    shift = 39 if levels == 4 else 48
    end = min(region.end, _USER_END)
    for address, gpa in _below(memory, cr3 & ADDRESS_MASK, shift, 0, (region.start, end)):
        yield CodePage(address, gpa, region.offset + address - region.start)


def _below(
    memory: PhysicalMemory, table: int, shift: int, base: int, wanted: tuple[int, int]
) -> Iterator[tuple[int, int]]:
    start, end = wanted
    try:
        entries = _ENTRIES.unpack(memory.read(table, PAGE_SIZE))
    except Unreadable:
        return
    first = max(0, start - base) >> shift
    last = min(511, end - 1 - base >> shift)
    for index in range(first, last + 1):
        entry = entries[index]
        if not entry & _PRESENT:
            continue
        at = base + (index << shift)
        target = entry & ADDRESS_MASK
        if shift == 12:
            yield at, target
        elif entry & _LARGE and shift <= 30:
            target &= -(1 << shift)
            for address in range(max(start, at), min(end, at + (1 << shift)), PAGE_SIZE):
                yield address, target + address - at
        else:
            yield from _below(memory, target, shift - 9, at, wanted)
