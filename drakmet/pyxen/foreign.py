# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests' memory mapped into this process, through libxenforeignmemory."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Any

from drakmet.errors import GuestError
from drakmet.pyxen import _memory
from drakmet.pyxen._lib import libraries
from drakmet.pyxen.failures import XenCallError
from drakmet.pyxen.layout import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

_PAGE_SHIFT = 12
_PAGE_MASK = PAGE_SIZE - 1
_U64 = struct.Struct("@Q")
_UNIT = 64
"""Frames mapped with one call, and the least that can be mapped anew (see `_memory.map_frames`)."""
_BLOCK = 512
"""Frames that are looked for together: 2 MiB."""


class ForeignMemory:
    """A handle on libxenforeignmemory; `close` may be called twice. Maps outlive it."""

    def __init__(self) -> None:
        shared = libraries()
        self._library = shared.foreignmemory
        handle = self._library.xenforeignmemory_open(shared.quiet, 0)
        if handle == shared.ffi.NULL:
            raise XenCallError("xenforeignmemory_open", shared.ffi.errno)
        self._handle: Any = handle

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def handle(self) -> Any:
        """The raw ``xenforeignmemory_handle *``."""
        if self._handle is None:
            raise XenCallError("xenforeignmemory (closed)", errno.EBADF)
        return self._handle

    def map(self, domid: int, gfns: Sequence[int], *, writable: bool = False) -> ForeignMap:
        """Map frames of a domain one behind the other."""
        return ForeignMap(self, domid, gfns, writable=writable)

    def close(self) -> None:
        """Close the handle."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._library.xenforeignmemory_close(handle)


class ForeignMap:
    """Frames of a guest, one behind the other in ``buffer``; those in ``errors`` (index: errno) read as zeros.

    After `close` the buffer reads as zeros for whoever still holds a view of it, and the guest's frames are let go.
    """

    def __init__(self, foreign: ForeignMemory, domid: int, gfns: Sequence[int], *, writable: bool = False) -> None:
        self.gfns = list(gfns)
        self.errors: dict[int, int] = {}
        self._closed = True
        self._area, self._address = _memory.reserve(max(len(self.gfns), 1) * PAGE_SIZE)
        view = memoryview(self._area)
        self.buffer: memoryview = view if writable else view.toreadonly()
        self._closed = False
        try:
            for start in range(0, len(self.gfns), _UNIT):
                part = self.gfns[start : start + _UNIT]
                at = self._address + start * PAGE_SIZE
                found = _memory.map_frames(foreign.handle, domid, at, part, writable=writable)
                self.errors |= {start + index: number for index, number in enumerate(found) if number}
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the guest's frames go; a second call does nothing."""
        if not self._closed:
            self._closed = True
            _memory.blank(self._address, max(len(self.gfns), 1) * PAGE_SIZE, writable=True)


def _no_memory(gpa: int, length: int) -> Exception:
    return GuestError(f"no guest memory at {gpa:#x} ({length} bytes)")


class GuestMemory:
    """All of a guest's memory, mapped read-only in one piece: guest-physical address = index into ``buffer``.

    ``buffer`` never faults: what is not mapped reads as zeros, and ``present[gfn]`` is 1 for each frame that is.
    ``words`` is the same memory by 64-bit words (index: address >> 3). A frame that the guest gives up (ballooning) or
    exchanges later stays what it was here until `refresh`.

    Blocks of 2 MiB whose first frame the guest does not have are not mapped until `read` or `read_u64` asks for one of
    their frames; the same holds for what lies beyond the first ``eager`` frames. Mapping costs about 7,000
    instructions a frame: do it before the guest is paused.

    ``missing(gpa, length)`` makes the error that `read` raises.
    """

    def __init__(
        self,
        foreign: ForeignMemory,
        domid: int,
        frames: int,
        *,
        missing: Callable[[int, int], Exception] = _no_memory,
        eager: int = 1 << 20,
    ) -> None:
        """Take the frames from 0 to ``frames`` (`Control.max_gpfn` + 1)."""
        self._foreign = foreign
        self._missing = missing
        self.domid = domid
        self.frames = frames
        self.present = bytearray(frames)
        self._tried = bytearray((frames + _BLOCK - 1) // _BLOCK)
        self._closed = False
        self._area, self._address = _memory.reserve(frames * PAGE_SIZE)
        self.buffer: memoryview = memoryview(self._area).toreadonly()
        self.words: memoryview = self.buffer.cast("Q")
        self._end = frames << _PAGE_SHIFT
        try:
            first = range(0, min(frames, eager), _BLOCK)
            with foreign.map(domid, first) as probe:
                likely = [gfn for index, gfn in enumerate(first) if index not in probe.errors]
            for gfn in likely:
                self._map_block(gfn // _BLOCK)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _map_block(self, block: int) -> None:
        self._tried[block] = 1
        for start in range(block * _BLOCK, min((block + 1) * _BLOCK, self.frames), _UNIT):
            self._map_unit(start)

    def _map_unit(self, start: int) -> None:
        gfns = list(range(start, min(start + _UNIT, self.frames)))
        at = self._address + start * PAGE_SIZE
        found = _memory.map_frames(self._foreign.handle, self.domid, at, gfns, writable=False)
        self.present[start : start + len(gfns)] = bytes(not number for number in found)

    def _ensure(self, gpa: int, length: int) -> bool:
        """Return whether all of the frames are there, after trying those that were not tried yet."""
        if gpa < 0 or length < 0 or gpa + length > self._end:
            return False
        first, last = gpa >> _PAGE_SHIFT, (gpa + length + _PAGE_MASK) >> _PAGE_SHIFT
        if self.present.find(0, first, last) < 0:
            return True
        for block in range(first // _BLOCK, (last - 1) // _BLOCK + 1):
            if not self._tried[block]:
                self._map_block(block)
        return self.present.find(0, first, last) < 0

    def look_everywhere(self) -> None:
        """Try every block that was not tried yet, so that `extents` tells of all frames that are there."""
        for block, tried in enumerate(self._tried):
            if not tried:
                self._map_block(block)

    @property
    def size(self) -> int:
        """One past the highest guest-physical address that may be readable."""
        return self._end

    def extents(self) -> Iterator[tuple[int, int]]:
        """Yield ``(gpa, length)`` of each run of frames that are there."""
        present, at = self.present, 0
        while (start := present.find(1, at)) >= 0:
            end = present.find(0, start)
            at = len(present) if end < 0 else end
            yield start << _PAGE_SHIFT, at - start << _PAGE_SHIFT

    def read(self, gpa: int, length: int) -> bytes:
        """Return exactly ``length`` bytes at ``gpa``."""
        if not self._ensure(gpa, length):
            raise self._missing(gpa, length)
        return bytes(self.buffer[gpa : gpa + length])

    def read_u64(self, gpa: int) -> int:
        """Return the little-endian 64-bit word at ``gpa``."""
        if not self._ensure(gpa, 8):
            raise self._missing(gpa, 8)
        value: int = _U64.unpack_from(self.buffer, gpa)[0]
        return value

    def refresh(self, gfns: Iterable[int]) -> None:
        """Map frames anew that the guest has exchanged, given up or got back (and their neighbours, 64 at once)."""
        for start in sorted({gfn // _UNIT * _UNIT for gfn in gfns if 0 <= gfn < self.frames}):
            # all of the mapping must go at once, and it may be several runs
            _memory.blank(self._address + start * PAGE_SIZE, min(_UNIT, self.frames - start) * PAGE_SIZE)
            self._map_unit(start)

    def close(self) -> None:
        """Let the guest's frames go; every read then fails, and old views read as zeros. May be called twice."""
        if not self._closed:
            self._closed = True
            _memory.blank(self._address, self.frames * PAGE_SIZE)
            self.present[:] = bytes(self.frames)
            self._end = 0
