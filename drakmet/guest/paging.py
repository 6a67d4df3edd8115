# SPDX-License-Identifier: GPL-2.0-or-later
"""Virtual to physical: page walks of x86-64 (Intel SDM volume 3, 4.5), and the kernel's address space.

No translation is kept: each walk reads the tables as they are now, so a table that the guest changed is never
used stale. What needs no walk (the direct map, the kernel's image) is a subtraction.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from drakmet.guest import flat
from drakmet.guest.memory import PAGE_SIZE, PhysicalMemory, Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable

_PRESENT: Final = 1
_LARGE: Final = 1 << 7
# Bits 12 to 51 of an entry and of CR3: drops PCID and flags below, NX, protection keys and PTI's marks above.
ADDRESS_MASK: Final = 0x000F_FFFF_FFFF_F000
_U64: Final = (1 << 64) - 1
MAX_STRING: Final = 1 << 20
_FIRST_PIECE: Final = 64  # most strings are shorter


class AddressSpace:
    """Reads virtual addresses through the page tables at ``cr3``; ``levels`` is 4, or 5 with LA57."""

    def __init__(self, memory: PhysicalMemory, cr3: int, levels: int = 4) -> None:
        self.memory = memory
        self.root = cr3 & ADDRESS_MASK
        self.levels = levels
        self.memory_read: Callable[[int, int], bytes] = memory.read
        self.memory_read_u64: Callable[[int], int] = memory.read_u64
        self._flat = flat.views(memory)

    def walk(self, address: int) -> tuple[int, int]:
        """Return ``(gpa, bytes left in the page)`` of ``address``; raise `Unreadable` where nothing is mapped."""
        if not 0 <= address <= _U64 or not flat.canonical(address, self.levels):
            raise Unreadable(f"{address & _U64:#x} is no address of this CPU mode")
        if self._flat is not None:
            # A table that is not mapped yet reads as zeros there: only `read` knows that nothing is mapped.
            with contextlib.suppress(Unreadable):
                _, start, size = flat.entries(self._flat, self.levels, self.root, address)
                offset = address & (size - 1)
                return start + offset, size - offset
        read = self.memory_read_u64
        table = self.root
        shift = 39 if self.levels == 4 else 48
        while True:
            entry = read(table + (address >> shift & 511) * 8)
            if not entry & _PRESENT:
                raise Unreadable(f"{address:#x} is not mapped")
            table = entry & ADDRESS_MASK
            if shift == 12 or (entry & _LARGE and shift <= 30):
                inside = (1 << shift) - 1
                offset = address & inside
                return (table & ~inside) + offset, inside + 1 - offset
            shift -= 9

    def translate(self, address: int) -> int:
        """Return the guest-physical address of ``address``; raise `Unreadable` where nothing is mapped."""
        return self.walk(address)[0]

    def read(self, address: int, length: int) -> bytes:
        """Return exactly ``length`` bytes at ``address``; raise `Unreadable` if any of them is missing."""
        gpa, room = self.walk(address)
        if length <= room:
            return self.memory_read(gpa, length)
        parts = [self.memory_read(gpa, room)]
        left = length - room
        while left > 0:
            address += room
            gpa, room = self.walk(address)
            room = min(room, left)
            parts.append(self.memory_read(gpa, room))
            left -= room
        return b"".join(parts)

    def read_u64(self, address: int) -> int:
        """Return the little-endian 64-bit word at ``address``."""
        gpa, room = self.walk(address)
        if room >= 8:
            return self.memory_read_u64(gpa)
        return int.from_bytes(self.read(address, 8), "little")

    def read_uint(self, address: int, size: int) -> int:
        """Return the little-endian unsigned number of ``size`` bytes at ``address``."""
        return int.from_bytes(self.read(address, size), "little")

    def read_cstring(self, address: int, limit: int = PAGE_SIZE) -> bytes:
        """Return the bytes at ``address`` up to a NUL, at most ``limit`` (<= 1 MiB) where there is none.

        A string that runs into unmapped memory before its NUL raises `Unreadable`.
        """
        parts: list[bytes] = []
        left = min(limit, MAX_STRING)
        most = _FIRST_PIECE
        while left > 0:
            # Never across a page: the rest of the string may lie anywhere, and what follows its end may be unmapped.
            step = min(PAGE_SIZE - (address & (PAGE_SIZE - 1)), left, most)
            most = PAGE_SIZE
            part = self.read(address, step)
            end = part.find(b"\0")
            if end >= 0:
                parts.append(part[:end])
                break
            parts.append(part)
            address += step
            left -= step
        return b"".join(parts)


class KernelSpace(AddressSpace):
    """The kernel's address space: the direct map and the image by subtraction, all else by walks.

    ``page_offset`` is where the direct map starts; ``image`` is ``(first address, one past the last, gpa)`` of the
    kernel's image.
    """

    def __init__(
        self, memory: PhysicalMemory, cr3: int, levels: int, page_offset: int, image: tuple[int, int, int]
    ) -> None:
        super().__init__(memory, cr3, levels)
        self.page_offset = page_offset
        self.direct_end = page_offset + memory.size
        self.image_start, self.image_end, self.image_gpa = image
        self.quick_translate = flat.translator(memory, self.root, levels)

    def walk(self, address: int) -> tuple[int, int]:
        """Return ``(gpa, bytes left)``; a direct-map address is not looked up in any table."""
        if self.page_offset <= address < self.direct_end:
            return address - self.page_offset, self.direct_end - address
        if self.image_start <= address < self.image_end:
            return address - self.image_start + self.image_gpa, self.image_end - address
        return super().walk(address)

    def translate(self, address: int) -> int:
        """Return the guest-physical address of ``address``; raise `Unreadable` where nothing is mapped."""
        if self.page_offset <= address < self.direct_end:
            return address - self.page_offset
        if self.image_start <= address < self.image_end:
            return address - self.image_start + self.image_gpa
        if self.quick_translate is not None:
            return self.quick_translate(address)
        return super().walk(address)[0]

    def read(self, address: int, length: int) -> bytes:
        """Return exactly ``length`` bytes at ``address``."""
        if self.page_offset <= address < self.direct_end:
            return self.memory_read(address - self.page_offset, length)
        return super().read(address, length)

    def read_u64(self, address: int) -> int:
        """Return the 64-bit word at ``address``."""
        if self.page_offset <= address < self.direct_end:
            return self.memory_read_u64(address - self.page_offset)
        if self.quick_translate is not None and address & (PAGE_SIZE - 1) <= PAGE_SIZE - 8:
            return self.memory_read_u64(self.translate(address))
        return super().read_u64(address)
