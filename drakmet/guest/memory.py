# SPDX-License-Identifier: GPL-2.0-or-later
"""What the guest view reads from: guest-physical memory, and nothing else."""

from __future__ import annotations

import errno
import mmap
import os
import struct
from bisect import bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from drakmet.errors import GuestError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Self

PAGE_SIZE = 4096
PAGE_SHIFT = 12
PAGE_MASK = PAGE_SIZE - 1

_U64 = struct.Struct("<Q")


class Unreadable(GuestError):  # noqa: N818  # it is a value as often as an exception
    """Memory that is not there: no frame behind the address, or no translation to one.

    Also what a decoder returns *in the place of* a value it could not read; it is false, so that
    ``value or default`` and ``if value`` do what they look like.
    """

    def __bool__(self) -> bool:
        return False

    def as_value(self) -> Unreadable:
        """Return this error fit to be kept as a value: without the frames it was raised through."""
        self.__context__ = None
        return self.with_traceback(None)


class PhysicalMemory(Protocol):
    """Guest-physical memory of a live guest, an image or a recording; addresses and lengths are in bytes.

    One that is mapped in one piece may offer its mapping, too, for the short cuts of `drakmet.guest.flat`.
    """

    @property
    def size(self) -> int:
        """One past the highest guest-physical address that may be readable."""

    def read(self, gpa: int, length: int) -> bytes:
        """Return exactly ``length`` bytes at ``gpa``; raise `Unreadable` if any of them is missing."""

    def read_u64(self, gpa: int) -> int:
        """Return the little-endian 64-bit word at ``gpa``; raise `Unreadable` if it is missing."""


def missing(gpa: int, length: int) -> Unreadable:
    """Return the error for ``length`` bytes at ``gpa`` that are not there."""
    return Unreadable(f"no guest memory at {gpa:#x} ({length} bytes)")


def extents(memory: PhysicalMemory) -> Iterator[tuple[int, int]]:
    """Yield ``(gpa, length)`` of what is worth scanning in ``memory``, in order.

    A memory that has an ``extents()`` of its own is asked; any other is one extent that may have holes.
    """
    own: Callable[[], Iterable[tuple[int, int]]] | None = getattr(memory, "extents", None)
    if own is None:
        yield 0, memory.size
    else:
        yield from own()


def read_lenient(memory: PhysicalMemory, gpa: int, length: int) -> bytes:
    """Return ``length`` bytes at ``gpa`` for a search: pages that are not there read as zero."""
    try:
        return memory.read(gpa, length)
    except Unreadable:
        pass
    parts = []
    end = gpa + length
    while gpa < end:
        step = min(PAGE_SIZE - (gpa & PAGE_MASK), end - gpa)
        try:
            parts.append(memory.read(gpa, step))
        except Unreadable:
            parts.append(bytes(step))
        gpa += step
    return b"".join(parts)


class ImageMemory:
    """A flat file of guest RAM, mapped read-only.

    ``regions`` says where the file's bytes lie in the guest, as ``(gpa, file offset, length)``; without it
    the file starts at guest-physical 0 and has no hole. A QEMU RAM file of more than 2 or 3 GiB has one
    (below 4 GiB), see `with_hole`. Holes of a sparse file are no `extents`: they read as zeros.
    """

    def __init__(self, path: Path, regions: Iterable[tuple[int, int, int]] | None = None) -> None:
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"cannot map the memory image: {reason}", where=str(path)) from error
        self._path = path
        total = len(self._map)
        self._regions = sorted(regions) if regions is not None else [(0, 0, total)]
        for start, offset, length in self._regions:
            if min(start, offset) < 0 or length <= 0 or offset + length > total:
                raise UsageError(f"region {start:#x}+{length:#x} lies outside the image", where=str(path))
        if any(one[0] + one[2] > two[0] for one, two in pairwise(self._regions)):
            raise UsageError("two regions of the image overlap", where=str(path))
        self._starts = [start for start, _, _ in self._regions]
        self._first = self._regions[0][2] if self._regions[0][:2] == (0, 0) else 0

    @classmethod
    def with_hole(cls, path: Path, below: int) -> Self:
        """Map a file whose first ``below`` bytes are RAM from 0 and whose rest lies from 4 GiB on."""
        total = path.stat().st_size
        return cls(path, [(0, 0, below), (1 << 32, below, total - below)] if total > below else None)

    @property
    def size(self) -> int:
        """One past the highest guest-physical address of the image."""
        start, _, length = self._regions[-1]
        return start + length

    def extents(self) -> Iterator[tuple[int, int]]:
        """Yield ``(gpa, length)`` of what holds data."""
        previous, total = -1, 0
        with self._path.open("rb") as file:
            for gpa, length in self._data(file.fileno()):
                if previous >= 0 and previous + total == gpa:
                    total += length
                    continue
                if total:
                    yield previous, total
                previous, total = gpa, length
        if total:
            yield previous, total

    def _data(self, handle: int) -> Iterator[tuple[int, int]]:
        for start, offset, length in self._regions:
            at, end = offset, offset + length
            while at < end:
                try:
                    first = max(at, os.lseek(handle, at, os.SEEK_DATA))
                    last = min(end, os.lseek(handle, first, os.SEEK_HOLE))
                except OSError as error:
                    if error.errno == errno.ENXIO:  # nothing but a hole from here on
                        break
                    first, last = at, end
                if first >= end:
                    break
                # Whole pages of the guest, whatever the file system's blocks are.
                low = start + (first - offset) & ~PAGE_MASK
                yield max(low, start), start + (last - offset) - max(low, start)
                at = last

    def _locate(self, gpa: int, length: int) -> int:
        index = bisect_right(self._starts, gpa) - 1
        if gpa >= 0 <= index and length >= 0:
            start, offset, size = self._regions[index]
            if gpa + length <= start + size:
                return offset + gpa - start
        return -1

    def read(self, gpa: int, length: int) -> bytes:
        """Return ``length`` bytes at ``gpa``."""
        if gpa < 0 or length < 0 or gpa + length > self._first:
            at = self._locate(gpa, length)
            if at < 0:
                return self._pieces(gpa, length)
            gpa = at
        return self._map[gpa : gpa + length]

    def _pieces(self, gpa: int, length: int) -> bytes:
        """Return bytes that lie in several regions, one behind the other in the guest and not in the file."""
        if gpa < 0 or length < 0 or gpa + length > self.size:
            raise missing(gpa, length)
        parts: list[bytes] = []
        at, end = gpa, gpa + length
        while at < end:
            index = bisect_right(self._starts, at) - 1
            start, offset, size = self._regions[index] if index >= 0 else (0, 0, 0)
            step = min(end, start + size) - at
            if step <= 0:
                raise missing(gpa, length)
            parts.append(self._map[offset + at - start : offset + at - start + step])
            at += step
        return b"".join(parts)

    def read_u64(self, gpa: int) -> int:
        """Return the 64-bit word at ``gpa``."""
        if gpa < 0 or gpa + 8 > self._first:
            at = self._locate(gpa, 8)
            if at < 0:
                return int.from_bytes(self._pieces(gpa, 8), "little")
            gpa = at
        value: int = _U64.unpack_from(self._map, gpa)[0]
        return value

    def close(self) -> None:
        """Unmap the file; reading afterwards is an error."""
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _PagedMemory:
    """Reading out of single pages, for memories that have them one by one."""

    def _page(self, gfn: int) -> bytes:
        raise NotImplementedError

    def read(self, gpa: int, length: int) -> bytes:
        """Return ``length`` bytes at ``gpa``."""
        offset = gpa & PAGE_MASK
        if gpa < 0 or length < 0:
            raise missing(gpa, length)
        if offset + length <= PAGE_SIZE:
            return self._page(gpa >> PAGE_SHIFT)[offset : offset + length]
        first, last = gpa >> PAGE_SHIFT, (gpa + length - 1) >> PAGE_SHIFT
        data = b"".join([self._page(gfn) for gfn in range(first, last + 1)])
        return data[offset : offset + length]

    def read_u64(self, gpa: int) -> int:
        """Return the 64-bit word at ``gpa``."""
        offset = gpa & PAGE_MASK
        if gpa < 0 or offset > PAGE_SIZE - 8:
            return int.from_bytes(self.read(gpa, 8), "little")
        value: int = _U64.unpack_from(self._page(gpa >> PAGE_SHIFT), offset)[0]
        return value


class SparseMemory(_PagedMemory):
    """Guest memory of which only some pages were kept; reading another raises `Unreadable`.

    The file form is for fixtures and recordings: magic, version, compressed length of the gfn list, then the
    list and the pages, both as xz streams. Numbers are little-endian.
    """

    MAGIC = b"DRAKPAGE"
    _HEADER = struct.Struct("<8sIIQQ")  # magic, version, pages, bytes of gfn list, one past the highest gpa
    VERSION = 1
    MAX_PAGES = 1 << 18

    def __init__(self, pages: dict[int, bytes], size: int | None = None) -> None:
        self.pages = pages
        self._size = size if size is not None else (max(pages, default=-1) + 1) * PAGE_SIZE

    @property
    def size(self) -> int:
        """One past the highest guest-physical address of the guest the pages were taken from."""
        return self._size

    def extents(self) -> Iterator[tuple[int, int]]:
        """Yield ``(gpa, length)`` of each run of pages."""
        start = previous = -2
        for gfn in sorted(self.pages):
            if gfn != previous + 1:
                if start >= 0:
                    yield start << PAGE_SHIFT, (previous + 1 - start) << PAGE_SHIFT
                start = gfn
            previous = gfn
        if start >= 0:
            yield start << PAGE_SHIFT, (previous + 1 - start) << PAGE_SHIFT

    def _page(self, gfn: int) -> bytes:
        try:
            return self.pages[gfn]
        except KeyError:
            raise missing(gfn << PAGE_SHIFT, PAGE_SIZE) from None

    def save(self, path: Path) -> None:
        """Write the pages to ``path``, readable by the owner only: they are the guest's data."""
        import lzma  # only here and in `load`: a Python without it can still watch guests

        gfns = sorted(self.pages)
        index = lzma.compress(struct.pack(f"<{len(gfns)}Q", *gfns))
        data = lzma.compress(b"".join(self.pages[gfn] for gfn in gfns), preset=9)
        path.touch(mode=0o600)
        path.write_bytes(self._HEADER.pack(self.MAGIC, self.VERSION, len(gfns), len(index), self._size) + index + data)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote; a damaged or foreign file is a `UsageError`."""
        import lzma

        try:
            blob = path.read_bytes()
            magic, version, count, index_size, size = cls._HEADER.unpack_from(blob)
            if magic != cls.MAGIC or version != cls.VERSION or count > cls.MAX_PAGES:
                raise UsageError("not a file of guest pages that this version reads", where=str(path))
            start = cls._HEADER.size
            index = _inflate(blob[start : start + index_size], count * 8)
            data = _inflate(blob[start + index_size :], count * PAGE_SIZE)
        except (OSError, struct.error, lzma.LZMAError) as error:
            raise UsageError(f"cannot read the guest pages: {error}", where=str(path)) from error
        if len(index) != count * 8 or len(data) != count * PAGE_SIZE:
            raise UsageError("the file of guest pages is cut short", where=str(path))
        gfns = struct.unpack(f"<{count}Q", index)
        return cls({gfn: data[i * PAGE_SIZE : (i + 1) * PAGE_SIZE] for i, gfn in enumerate(gfns)}, size)


def _inflate(data: bytes, limit: int) -> bytes:
    import lzma

    unpacker = lzma.LZMADecompressor()
    found = unpacker.decompress(data, limit + 1)
    if not unpacker.eof:
        raise lzma.LZMAError("it is cut short")
    return found


class RecordingMemory(_PagedMemory):
    """Reads through to ``memory`` and keeps a copy of every page that was touched, as first seen."""

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory
        self.touched: dict[int, bytes] = {}

    @property
    def size(self) -> int:
        """The size of the memory behind."""
        return self._memory.size

    def extents(self) -> Iterator[tuple[int, int]]:
        """Yield the extents of the memory behind."""
        return extents(self._memory)

    def _page(self, gfn: int) -> bytes:
        page = self.touched.get(gfn)
        if page is None:
            page = self.touched[gfn] = self._memory.read(gfn << PAGE_SHIFT, PAGE_SIZE)
        return page

    def sparse(self) -> SparseMemory:
        """Return the touched pages as a memory of their own."""
        return SparseMemory(dict(self.touched), self.size)
