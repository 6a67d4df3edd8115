# SPDX-License-Identifier: GPL-2.0-or-later
"""The page cache: which frame holds a page of a file for everybody (struct address_space, an xarray of folios).

The layout of an xarray is that of include/linux/xarray.h: internal entries end in binary 10; one below 64 is a sibling,
which stands for another slot of its node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drakmet.guest.memory import PAGE_SIZE, Unreadable

if TYPE_CHECKING:
    from drakmet.guest.kernel import Kernel

_INTERNAL: Final = 2
_SIBLINGS: Final = 64
_SLOTS: Final = 64
_MAX_DEPTH: Final = 11
_LARGEST: Final = 1 << 18
"""Pages of the largest folio that is believed: 1 GiB."""


class PageCache:
    """Reads the page cache of one kernel. `GuestError` if the kernel's types lack what it takes."""

    def __init__(self, kernel: Kernel) -> None:
        types = kernel.profile.types
        self._space = kernel.space
        self._inode = types.offset("file", "f_inode")
        self._mapping = types.offset("file", "f_mapping")
        self._head = types.offset("address_space", "i_pages.xa_head")
        self._shift = types.offset("xa_node", "shift")
        self._slots = types.offset("xa_node", "slots")
        self._size = types.size("page")
        self._index = types.offset("page", "index")
        self._base = self._space.read_u64(kernel.address("vmemmap_base"))

    def mapping(self, file: int) -> int:
        """Return the address of the cache that a struct file's pages are in, one for all who have the file open."""
        return self._space.read_u64(file + self._mapping)

    def frame(self, mapping: int, number: int) -> int | None:
        """Return the guest-physical address of a file's page by its number, None if it is not in the cache."""
        space = self._space
        entry = space.read_u64(mapping + self._head)
        left = number
        for _ in range(_MAX_DEPTH):
            if entry & 3 != _INTERNAL or entry <= 4096:
                break
            node = entry - _INTERNAL
            shift = space.read_uint(node + self._shift, 1)
            if shift > 60 or left >> shift >= _SLOTS:
                return None
            slot = left >> shift
            left &= (1 << shift) - 1
            entry = space.read_u64(node + self._slots + 8 * slot)
            if entry & 3 == _INTERNAL and entry >> 2 < _SIBLINGS:
                entry = space.read_u64(node + self._slots + 8 * (entry >> 2))
        else:
            raise Unreadable("the page cache of a file has no end")
        if not entry or entry & 3:
            return None  # nothing, or a shadow of what was there
        within = number - space.read_u64(entry + self._index)
        if not 0 <= within < _LARGEST or (entry - self._base) % self._size:
            raise Unreadable("a page of the page cache that is none")
        return ((entry - self._base) // self._size + within) * PAGE_SIZE
