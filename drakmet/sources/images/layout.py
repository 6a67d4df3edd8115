# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a guest's memory lies in a file: what every format of memory images comes down to."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import msgspec

from drakmet.errors import UsageError
from drakmet.guest.memory import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterable, Iterator

MAX_ADDRESS: Final = 1 << 52
"""x86-64 has no physical addresses beyond (Intel SDM volume 3, 4.1.4); a file that names one is damaged."""

Region = tuple[int, int, int]
"""Guest-physical address, offset in the file, length, all in bytes."""


class Layout(msgspec.Struct):
    """The regions of an image; ``problems`` say what of it cannot be had."""

    format: str
    regions: list[Region]
    problems: list[str] = []
    name: str | None = None


class File:
    """An image's bytes, read by structs; whatever lies beyond its end is a `UsageError` or, for data, cut off."""

    def __init__(self, data: mmap.mmap, where: str) -> None:
        self.data = data
        self.size = len(data)
        self.where = where

    def unpack(self, layout: str, offset: int) -> tuple[int, ...]:
        """Return the numbers at ``offset``."""
        size = struct.calcsize(layout)
        if offset < 0 or offset + size > self.size:
            raise self.damaged("it is cut short")
        return struct.unpack_from(layout, self.data, offset)

    def bytes(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes at ``offset``."""
        if min(offset, length) < 0 or offset + length > self.size:
            raise self.damaged("it is cut short")
        return self.data[offset : offset + length]

    def damaged(self, reason: str) -> UsageError:
        """Return the error for a file that is not what it says it is."""
        return UsageError(f"the memory image is damaged: {reason}", where=self.where)


def page_runs(frames: Iterable[int], offset: int) -> Iterator[Region]:
    """Yield regions of pages that follow each other in the file from ``offset`` on."""
    first = previous = -2
    start = offset
    for gfn in frames:
        if gfn != previous + 1:
            if first >= 0:
                yield first << PAGE_SHIFT, start, (previous + 1 - first) << PAGE_SHIFT
            start = offset
            first = gfn
        previous = gfn
        offset += PAGE_SIZE
    if first >= 0:
        yield first << PAGE_SHIFT, start, (previous + 1 - first) << PAGE_SHIFT


def settle(file: File, layout: Layout) -> Layout:
    """Return a layout whose regions are in order, lie in the file, and do not overlap: what comes later counts."""
    kept: list[Region] = []
    lost = 0
    for gpa, offset, length in layout.regions:
        if gpa < 0 or gpa + length > MAX_ADDRESS or offset < 0 or length < 0:
            raise file.damaged(f"it has memory at {gpa:#x} ({length} bytes)")
        there = min(length, max(0, file.size - offset))
        lost += length - there
        if there:
            kept.append((gpa, offset, there))
    if lost:
        layout.problems.append(f"the image is cut short: {lost} bytes of the guest's memory are missing")
    if not kept:
        raise file.damaged("it holds no memory" if not lost else "it is cut short: it holds no memory")
    ordered = sorted(kept)
    if any(one[0] + one[2] > two[0] for one, two in pairwise(ordered)):
        ordered = _flatten(kept)
    layout.regions = _join(ordered)
    return layout


def _flatten(regions: list[Region]) -> list[Region]:
    """Return regions without overlaps; a page that is there twice (a save of a running guest) is the later one."""
    pages: dict[int, int] = {}
    for gpa, offset, length in regions:
        if (gpa | length) % PAGE_SIZE:
            continue
        for at in range(0, length, PAGE_SIZE):
            pages[gpa + at] = offset + at
    return [(gpa, pages[gpa], PAGE_SIZE) for gpa in sorted(pages)]


def _join(regions: list[Region]) -> list[Region]:
    joined: list[Region] = []
    for gpa, offset, length in regions:
        if joined and joined[-1][0] + joined[-1][2] == gpa and joined[-1][1] + joined[-1][2] == offset:
            joined[-1] = (joined[-1][0], joined[-1][1], joined[-1][2] + length)
        else:
            joined.append((gpa, offset, length))
    return joined
