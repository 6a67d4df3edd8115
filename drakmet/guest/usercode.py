# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process can execute by its page tables: what the MMU goes by, whatever the kernel's list of regions says."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from drakmet.guest.memory import PAGE_SIZE, Unreadable
from drakmet.guest.paging import ADDRESS_MASK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.guest.memory import PhysicalMemory

_ENTRIES: Final = struct.Struct("<512Q")
_PRESENT, _USER, _LARGE, _NO_EXECUTE = 1, 4, 1 << 7, 1 << 63
MOST_TABLES: Final = 1 << 14
_HALF: Final = 256


class UserCode(NamedTuple):
    """Executable user memory: its address in the process and in the guest, its size in bytes."""

    address: int
    gpa: int
    size: int


def executable(memory: PhysicalMemory, cr3: int, levels: int) -> Iterator[UserCode]:
    """Yield what a process's own half maps executable for user space, in the order of addresses.

    Page-table isolation forbids execution of the whole user half in the entries at the top of the kernel's copy: there
    that bit says nothing. `Unreadable` after what was found if there are more tables than are looked at.
    """
    shift = 39 if levels == 4 else 48
    left = [MOST_TABLES]
    yield from _below(memory, cr3 & ADDRESS_MASK, shift, 0, left)
    if left[0] <= 0:
        raise Unreadable(f"more than {MOST_TABLES} page tables")


def _below(memory: PhysicalMemory, table: int, shift: int, base: int, left: list[int]) -> Iterator[UserCode]:
    left[0] -= 1
    if left[0] <= 0:
        return
    try:
        entries = _ENTRIES.unpack(memory.read(table, PAGE_SIZE))
    except Unreadable:
        return
    top = left[0] == MOST_TABLES - 1
    for index in range(_HALF if top else 512):
        entry = entries[index]
        if not entry & _PRESENT or not entry & _USER or (entry & _NO_EXECUTE and not top):
            continue
        address = base + (index << shift)
        if shift == 12 or (entry & _LARGE and shift <= 30):
            yield UserCode(address, entry & ADDRESS_MASK & -(1 << shift), 1 << shift)
        else:
            yield from _below(memory, entry & ADDRESS_MASK, shift - 9, address, left)
