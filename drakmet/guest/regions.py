# SPDX-License-Identifier: GPL-2.0-or-later
"""What a process has mapped: its vm_area_structs, in a list (up to Linux 6.0) or in a maple tree."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import msgspec

from drakmet.guest.layout import Slice
from drakmet.guest.memory import Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.guest.kernel import Kernel

MAX_REGIONS: Final = 1 << 20
_MAX_DEPTH: Final = 31  # MAPLE_HEIGHT_MAX
_KERNEL_HALF: Final = 1 << 63
_U64: Final = (1 << 64) - 1

# include/linux/mm.h
VM_READ: Final = 1
VM_WRITE: Final = 2
VM_EXEC: Final = 4
VM_SHARED: Final = 8


class Region(msgspec.Struct, frozen=True):
    """A vm_area_struct: ``start`` to ``end``, ``file`` the address of its struct file or 0, ``offset`` in bytes."""

    start: int
    end: int
    flags: int
    file: int
    offset: int


class Regions:
    """Reads the regions of one kernel's processes."""

    def __init__(self, kernel: Kernel) -> None:
        types = kernel.profile.types
        self._space = kernel.space
        members = ["vm_start", "vm_end", "vm_flags", "vm_pgoff", "vm_file"]
        self._vdso = types.offset("mm_struct", "context.vdso")
        self._places = Slice(types, "mm_struct", "start_brk", "brk", "start_stack")
        self._listed = types.has_field("mm_struct", "mmap") and types.has_field("vm_area_struct", "vm_next")
        self._vma = Slice(types, "vm_area_struct", *members, *(["vm_next"] if self._listed else []))
        if self._listed:
            self._first = types.offset("mm_struct", "mmap")
            return
        self._root = types.offset("mm_struct", "mm_mt.ma_root")
        kinds = types.enum("maple_type")
        self._nodes = {
            kinds["maple_leaf_64"]: (True, *_node(16)),
            kinds["maple_range_64"]: (False, *_node(16)),
            kinds["maple_arange_64"]: (False, *_node(10)),
        }

    def of(self, mm: int) -> Iterator[Region]:
        """Yield the regions of an mm_struct in the order of their addresses.

        `Unreadable` after what was sound if the guest's structures are damaged or just being changed.
        """
        last = 0
        for count, vma in enumerate(self._linked(mm) if self._listed else self._mapped(mm)):
            start, end, flags, page, file = self._vma.read(self._space, vma)[:5]
            # In order and apart, as the kernel keeps them: so no list can lead in a circle.
            if not last <= start < end <= _KERNEL_HALF or count >= MAX_REGIONS:
                raise Unreadable(f"a region from {start:#x} to {end:#x} after {last:#x}")
            last = end
            yield Region(start, end, flags, file, page << 12 & _U64)

    def vdso(self, mm: int) -> int:
        """Return where the kernel mapped the vDSO, 0 if it did not."""
        return self._space.read_u64(mm + self._vdso)

    def heap(self, mm: int) -> tuple[int, int]:
        """Return where the heap begins and ends (brk(2))."""
        start, end, _ = self._places.read(self._space, mm)
        return start, end

    def stack(self, mm: int) -> int:
        """Return the address at which the stack began."""
        return int(self._places.read(self._space, mm)[2])

    def find(self, mm: int, address: int) -> Region | None:
        """Return the region that an address lies in, None if it is mapped nowhere."""
        if self._listed:
            return next((one for one in self.of(mm) if one.start <= address < one.end), None)
        vma = self._descend(self._space.read_u64(mm + self._root), address)
        if not vma:
            return None
        start, end, flags, page, file = self._vma.read(self._space, vma)[:5]
        if not start <= address < end <= _KERNEL_HALF:
            return None
        return Region(start, end, flags, file, page << 12 & _U64)

    def _descend(self, root: int, address: int) -> int:
        """Return the entry of a maple tree for an index, 0 if there is none."""
        if root & 3 != 2 or root <= 4096:  # no node: the only entry, or none
            return root if root & _KERNEL_HALF else 0
        node, most = root, _U64
        for _ in range(_MAX_DEPTH):
            known = self._nodes.get(node >> 3 & 15)
            if known is None:
                raise Unreadable("a node of a maple tree that is none")
            leaf, pivots, layout = known
            values = layout.unpack(self._space.read(node & ~0xFF, layout.size))
            for index in range(len(values) - pivots):
                high = values[index] if index < pivots else most
                if (high == 0 and index) or high > most:
                    high = most
                if address <= high:
                    break
            entry = values[pivots + index]
            if not entry & _KERNEL_HALF:
                return 0
            if leaf:
                return 0 if entry & 3 else int(entry)
            node, most = entry, high
        raise Unreadable("a maple tree that is too deep")

    def _linked(self, mm: int) -> Iterator[int]:
        vma = self._space.read_u64(mm + self._first)
        while vma:
            yield vma
            vma = self._vma.read(self._space, vma)[5]

    def _mapped(self, mm: int) -> Iterator[int]:
        root = self._space.read_u64(mm + self._root)
        if root & 3 == 2 and root > 4096:  # xa_is_node
            yield from self._below(root, _U64, 0)
        elif root & _KERNEL_HALF:
            yield root

    def _below(self, node: int, most: int, depth: int) -> Iterator[int]:
        """Yield what is in a node of the tree whose highest index is ``most`` (lib/maple_tree.c)."""
        known = self._nodes.get(node >> 3 & 15)
        if known is None or depth > _MAX_DEPTH:
            raise Unreadable("a node of a maple tree that is none")
        leaf, pivots, layout = known
        values = layout.unpack(self._space.read(node & ~0xFF, layout.size))
        for index in range(len(values) - pivots):
            high = values[index] if index < pivots else most
            if (high == 0 and index) or high > most:
                high = most
            entry = values[pivots + index]
            if entry & _KERNEL_HALF:
                if leaf and not entry & 3:
                    yield entry
                elif not leaf:
                    yield from self._below(entry, high, depth + 1)
            if high >= most:
                return


def _node(slots: int) -> tuple[int, struct.Struct]:
    """Return the number of pivots and the layout of a maple node: parent, pivots, slots."""
    return slots - 1, struct.Struct(f"<8x{slots - 1}Q{slots}Q")
