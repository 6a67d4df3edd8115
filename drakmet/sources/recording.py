# SPDX-License-Identifier: GPL-2.0-or-later
"""The file of a recording: what was read of a guest while it was watched, so that the watch can be had again.

A ``.drec`` file holds a magic number, a zlib stream of frames, a compressed head and a footer that says where the head
is. Each frame is a msgpack array behind its length: a `Moment` of the watch with the reads it made. A read is only
written where it brings bytes that no read before it brought, so that the file stays small; it says how many reads of
the moment went before it, so that a replay sees every change of the guest's memory between the same two reads.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any, Final

import msgspec

from drakmet.errors import UsageError
from drakmet.guest.memory import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, Unreadable, missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from drakmet.guest.memory import PhysicalMemory

MAGIC: Final = b"DRAKREC1"
_FOOTER: Final = struct.Struct("<QI8s")  # where the head begins, its compressed length, magic
_LENGTH: Final = struct.Struct("<I")
_MAX_FRAME: Final = 64 << 20
_MAX_HEAD: Final = 256 << 20
_CHUNK: Final = 1 << 16
_U64: Final = struct.Struct("<Q")

Change = tuple[int, int, bytes]
"""A read that brought something new: number of reads before it, guest-physical address, bytes; none if it failed."""


class Moment(msgspec.Struct, array_like=True):
    """Something the watch went through, in its order.

    ``kind`` is ``open`` (the guest's kernel is looked at), ``attach`` (collectors ran), ``enter`` or ``leave`` (a
    trap was met on the function at ``place``, or a return of it), ``execute`` (the frame ``place`` was executed;
    ``text`` is what is known of it), ``resolved`` (the first execution of those left was told of), ``arm`` and
    ``disarm`` (the traps ``text`` names were put back, or taken out), and ``end``. ``registers`` are those of the
    head's ``registers``, in its order.
    """

    kind: str
    time: int
    vcpu: int = 0
    place: int = 0
    registers: tuple[int, ...] = ()
    text: str = ""
    reads: list[Change] = []


class Head(msgspec.Struct):
    """What a replay has to know before it begins."""

    host: str
    guest: str
    uuid: str | None
    xen: str | None
    vcpus: int
    uri: str
    size: int
    base: int
    slide: int
    levels: int
    registers: list[str]
    places: dict[str, int]
    profile: dict[str, Any]
    begin: int
    executes: bool = False
    """Whether it has executions of pages."""
    paused_attach: int | None = None
    paused_detach: int | None = None
    outcome: str | None = None


class PageStore:
    """The bytes that reads have brought so far, by page."""

    def __init__(self) -> None:
        self._pages: dict[int, tuple[bytearray, bytearray]] = {}

    def get(self, gpa: int, length: int) -> bytes | None:
        """Return ``length`` bytes at ``gpa`` if all of them are known."""
        parts = []
        while length > 0:
            offset = gpa & PAGE_MASK
            step = min(PAGE_SIZE - offset, length)
            page = self._pages.get(gpa >> PAGE_SHIFT)
            if page is None or page[1].find(0, offset, offset + step) >= 0:
                return None
            parts.append(page[0][offset : offset + step])
            gpa += step
            length -= step
        return b"".join(parts)

    def put(self, gpa: int, data: bytes) -> None:
        """Take the bytes at ``gpa``."""
        at = 0
        while at < len(data):
            offset = gpa + at & PAGE_MASK
            step = min(PAGE_SIZE - offset, len(data) - at)
            gfn = gpa + at >> PAGE_SHIFT
            page = self._pages.get(gfn)
            if page is None:
                page = self._pages[gfn] = bytearray(PAGE_SIZE), bytearray(PAGE_SIZE)
            page[0][offset : offset + step] = data[at : at + step]
            page[1][offset : offset + step] = b"\1" * step
            at += step


class RecordedMemory:
    """Reads through to a guest's memory and keeps what was new; `take` gives it, moment by moment."""

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory
        self._known = PageStore()
        self._changes: list[Change] = []
        self._count = 0

    @property
    def size(self) -> int:
        """The size of the memory behind."""
        return self._memory.size

    def read(self, gpa: int, length: int) -> bytes:
        """Return ``length`` bytes at ``gpa``."""
        number = self._count
        self._count += 1
        try:
            data = self._memory.read(gpa, length)
        except Unreadable:
            # The same bytes may be known of another time; they must not be found then.
            self._changes.append((number, gpa, b""))
            raise
        if self._known.get(gpa, length) != data:
            self._known.put(gpa, data)
            self._changes.append((number, gpa, data))
        return data

    def read_u64(self, gpa: int) -> int:
        """Return the 64-bit word at ``gpa``."""
        value: int = _U64.unpack(self.read(gpa, 8))[0]
        return value

    def take(self) -> list[Change]:
        """Return what was new since the last call."""
        changes, self._changes, self._count = self._changes, [], 0
        return changes


class ReplayedMemory:
    """Gives what was read when the recording was made; `begin` goes on to the next moment."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._known = PageStore()
        self._changes: list[Change] = []
        self._failed: set[tuple[int, int]] = set()
        self._next = 0
        self._count = 0

    def begin(self, changes: list[Change]) -> None:
        """Go on to a moment; what the last one would still have read is kept."""
        self._apply(None)
        self._changes, self._next, self._count = changes, 0, 0
        self._failed = {(number, gpa) for number, gpa, data in changes if not data}

    def _apply(self, count: int | None) -> None:
        changes = self._changes
        while self._next < len(changes) and (count is None or changes[self._next][0] <= count):
            _, gpa, data = changes[self._next]
            self._known.put(gpa, data)
            self._next += 1

    def read(self, gpa: int, length: int) -> bytes:
        """Return ``length`` bytes at ``gpa``; `Unreadable` for what was not read in the recording."""
        number = self._count
        self._count += 1
        if gpa < 0 or length < 0 or gpa + length > self.size or (number, gpa) in self._failed:
            raise missing(gpa, length)
        self._apply(number)
        data = self._known.get(gpa, length)
        if data is None:
            # Another version of a decoder reads in another order: all that the moment knows may be of use to it.
            self._apply(None)
            data = self._known.get(gpa, length)
        if data is None:
            raise missing(gpa, length)
        return data

    def read_u64(self, gpa: int) -> int:
        """Return the 64-bit word at ``gpa``."""
        value: int = _U64.unpack(self.read(gpa, 8))[0]
        return value


class Recorder:
    """Writes a recording; without `finish` the file is of no use, and `close` removes it."""

    def __init__(self, path: Path, memory: PhysicalMemory) -> None:
        self.path = path
        self.memory = RecordedMemory(memory)
        self._encode = msgspec.msgpack.Encoder().encode
        self._pack = zlib.compressobj(9)
        try:
            path.touch(mode=0o600)
            self._file = path.open("wb")
            self._file.write(MAGIC)
        except OSError as error:
            raise UsageError(f"cannot write the recording: {error.strerror}", where=str(path)) from error
        self._finished = False

    def note(
        self, kind: str, time: int, vcpu: int = 0, place: int = 0, registers: tuple[int, ...] = (), text: str = ""
    ) -> None:
        """Write a moment, with what was read since the last."""
        frame = self._encode(Moment(kind, time, vcpu, place, registers, text, self.memory.take()))
        self._file.write(self._pack.compress(_LENGTH.pack(len(frame)) + frame))

    def finish(self, head: Head) -> None:
        """Write the end of the file."""
        self._file.write(self._pack.flush())
        start = self._file.tell()
        packed = zlib.compress(msgspec.msgpack.encode(head), 9)
        self._file.write(packed + _FOOTER.pack(start, len(packed), MAGIC))
        self._file.close()
        self._finished = True

    def close(self) -> None:
        """Close the file, and remove it if it was not finished; a second call does nothing."""
        self._file.close()
        if not self._finished:
            self.path.unlink(missing_ok=True)
            self._finished = True


class Recording:
    """A recording that was opened: its `head`, and its `moments`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        where = str(path)
        try:
            with path.open("rb") as file:
                size = path.stat().st_size
                file.seek(max(0, size - _FOOTER.size))
                footer = file.read(_FOOTER.size)
                if len(footer) < _FOOTER.size or footer[-len(MAGIC) :] != MAGIC:
                    raise UsageError("not a recording, or one that was cut short", where=where)
                self._end, length, _ = _FOOTER.unpack(footer)
                if self._end + length + _FOOTER.size != size:
                    raise UsageError("the recording is damaged", where=where)
                file.seek(self._end)
                head = _inflate(file.read(length), _MAX_HEAD)
            self.head = msgspec.msgpack.decode(head, type=Head)
        except (OSError, zlib.error, msgspec.MsgspecError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"cannot read the recording: {reason}", where=where) from error

    def moments(self) -> Iterator[Moment]:
        """Yield what happened; `UsageError` where the file is damaged."""
        try:
            yield from self._moments()
        except (OSError, zlib.error, msgspec.MsgspecError) as error:
            raise UsageError(f"the recording is damaged: {error}", where=str(self.path)) from error

    def _moments(self) -> Iterator[Moment]:
        decode = msgspec.msgpack.Decoder(Moment).decode
        unpack = zlib.decompressobj()
        pending = bytearray()
        with self.path.open("rb") as file:
            file.seek(len(MAGIC))
            left = self._end - len(MAGIC)
            while left > 0 or unpack.unconsumed_tail:
                data = unpack.unconsumed_tail
                if not data:
                    data = file.read(min(_CHUNK, left))
                    left -= len(data)
                    if not data:
                        break
                pending += unpack.decompress(data, _CHUNK)
                at = 0
                while at + _LENGTH.size <= len(pending):
                    (length,) = _LENGTH.unpack_from(pending, at)
                    if length > _MAX_FRAME:
                        raise UsageError("the recording is damaged: a frame is too long", where=str(self.path))
                    if at + _LENGTH.size + length > len(pending):
                        break
                    at += _LENGTH.size
                    yield decode(pending[at : at + length])
                    at += length
                del pending[:at]
            if pending:
                raise UsageError("the recording ends in the middle of a frame", where=str(self.path))


def _inflate(data: bytes, limit: int) -> bytes:
    unpack = zlib.decompressobj()
    found = unpack.decompress(data, limit)
    if not unpack.eof:
        raise zlib.error("the head is cut short or too large")
    return found
