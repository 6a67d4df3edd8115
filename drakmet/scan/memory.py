# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's memory as a scan reads it: of one moment where it was copied, and never for longer than agreed."""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING, Final

from drakmet.guest.memory import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, Unreadable, extents, missing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from drakmet.guest.memory import PhysicalMemory

_U64 = struct.Struct("<Q")
_GAP: Final = 4
_MOST_AT_ONCE: Final = 256
_BATCH: Final = 128
_CHECK: Final = 4096


class OutOfTime(Exception):  # noqa: N818 - it says what it is
    """A scan takes longer than it may. Of no kind that decoders take for a value they cannot read."""


class ScanMemory:
    """Reads pages out of the copies that were made of them, all others from the guest, and notes which those were.

    ``used`` are the frames that were read since `begin`, in the order of their first use; ``missed`` those of them that
    were not among the copies. A page is read from the guest once in a pass: what a pass sees twice is the same.
    """

    def __init__(self, memory: PhysicalMemory, deadline: float | None = None) -> None:
        self._memory = memory
        self._deadline = deadline
        self._left = _CHECK
        self._copies: dict[int, bytes | None] = {}
        self._pages: dict[int, bytes | None] = {}
        self.missed: set[int] = set()

    @property
    def size(self) -> int:
        """The size of the memory behind."""
        return self._memory.size

    def extents(self) -> Iterator[tuple[int, int]]:
        """Yield the extents of the memory behind."""
        return extents(self._memory)

    @property
    def used(self) -> list[int]:
        """The frames that this pass has read."""
        return list(self._pages)

    def begin(self) -> None:
        """Begin a pass: forget what the last one read, but not the copies."""
        self._pages = {}
        self.missed = set()

    def copy(self, gfns: Iterable[int], until: float) -> int:
        """Copy frames, in their order, as long as ``until`` (by the monotonic clock) has not come.

        Earlier copies are forgotten. Returns how many frames were left out. Neighbours are copied at once.
        """
        parts: list[tuple[int, int, bytes | None]] = []
        left_out = 0
        # What is read first matters most; so time runs out over the last of these batches, whatever their places.
        order = list(gfns)
        for start in range(0, len(order), _BATCH):
            if time.monotonic() > until:
                left_out = len(order) - start
                break
            batch = order[start : start + _BATCH]
            for first, count in runs(batch):
                data = self._try(first, count)
                if data is not None or count == 1:
                    parts.append((first, count, data))
                else:  # a page between them is not there
                    parts += [(gfn, 1, self._try(gfn, 1)) for gfn in batch if first <= gfn < first + count]
        self._unsorted = parts
        return left_out

    def _try(self, first: int, count: int) -> bytes | None:
        try:
            return self._memory.read(first << PAGE_SHIFT, count << PAGE_SHIFT)
        except Unreadable:
            return None

    def settle(self) -> None:
        """Sort what `copy` took into pages; apart from it, for the guest may run again meanwhile."""
        copies: dict[int, bytes | None] = {}
        for first, count, data in self._unsorted:
            for index in range(count):
                copies[first + index] = None if data is None else data[index << PAGE_SHIFT : (index + 1) << PAGE_SHIFT]
        self._copies = copies
        self._unsorted = []

    _unsorted: list[tuple[int, int, bytes | None]] = []  # noqa: RUF012 - replaced, never changed

    def _page(self, gfn: int) -> bytes:
        try:
            page = self._pages[gfn]
        except KeyError:
            page = self._fetch(gfn)
        if page is None:
            raise missing(gfn << PAGE_SHIFT, PAGE_SIZE)
        return page

    def _fetch(self, gfn: int) -> bytes | None:
        page: bytes | None
        try:
            page = self._copies[gfn]
        except KeyError:
            self.missed.add(gfn)
            try:
                page = self._memory.read(gfn << PAGE_SHIFT, PAGE_SIZE)
            except Unreadable:
                page = None
        self._pages[gfn] = page
        return page

    def _tick(self) -> None:
        self._left = _CHECK
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise OutOfTime("the scan took longer than it may")

    def read(self, gpa: int, length: int) -> bytes:
        """Return ``length`` bytes at ``gpa``."""
        self._left -= 1
        if self._left < 0:
            self._tick()
        offset = gpa & PAGE_MASK
        if gpa < 0 or length < 0:
            raise missing(gpa, length)
        if offset + length <= PAGE_SIZE:
            return self._page(gpa >> PAGE_SHIFT)[offset : offset + length]
        if gpa + length > self._memory.size:
            raise missing(gpa, length)
        first, last = gpa >> PAGE_SHIFT, (gpa + length - 1) >> PAGE_SHIFT
        data = b"".join([self._page(gfn) for gfn in range(first, last + 1)])
        return data[offset : offset + length]

    def read_u64(self, gpa: int) -> int:
        """Return the 64-bit word at ``gpa``."""
        self._left -= 1
        if self._left < 0:
            self._tick()
        offset = gpa & PAGE_MASK
        if gpa < 0 or offset > PAGE_SIZE - 8:
            return int.from_bytes(self.read(gpa, 8), "little")
        value: int = _U64.unpack_from(self._page(gpa >> PAGE_SHIFT), offset)[0]
        return value


def runs(gfns: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield ``(first, count)`` of runs that hold all of ``gfns``; small gaps are copied along, which is cheaper."""
    first = last = -1
    for gfn in sorted(gfns):
        if first >= 0 and gfn - last <= _GAP and gfn - first < _MOST_AT_ONCE:
            last = gfn
            continue
        if first >= 0:
            yield first, last - first + 1
        first = last = gfn
    if first >= 0:
        yield first, last - first + 1
