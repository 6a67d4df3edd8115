# SPDX-License-Identifier: GPL-2.0-or-later
"""A DRAKVUF log as a source: a file, plain or compressed, a directory of DRAKVUF Sandbox's, or standard input."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import heapq
import os
import re
import select
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from drakmet.errors import DrakmetError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK = 1 << 20
_LONGEST = 16 << 20
"""Bytes of a line past which it is cut, so that memory stays bounded."""
_IDLE = 0.5
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_STAMP = re.compile(rb'"TimeStamp": ?"(\d{1,10}\.\d{6})"')
_BEGIN = b'{"Plugin"'
_NOT_LOGS = frozenset({"drakrun", "drakvuf_stderr"})


class _Unpacker(Protocol):
    """What zlib and zstandard have in common."""

    @property
    def eof(self) -> bool:
        """Whether a member or frame has ended."""

    @property
    def unused_data(self) -> bytes:
        """What follows it."""

    def decompress(self, data: bytes, /) -> bytes:
        """Return what ``data`` unpacks to."""


class LogFile:
    """One file of a log, or what comes through a handle; read once from its beginning to its end.

    ``fault`` says what cut it short, if anything did.
    """

    def __init__(self, path: Path | None, handle: int = 0) -> None:
        self.path = path
        self.where = str(path) if path else "standard input"
        self.fault: str | None = None
        self.live = path is None
        self._handle = handle
        self._hash = hashlib.sha256()
        self._size = 0

    def content(self) -> str:
        """Return what the bytes that were read are known by."""
        return f"sha256:{self._hash.hexdigest()}:{self._size}"

    def blocks(self) -> Iterator[bytes]:
        """Yield whole lines, about a megabyte at a time; from a growing input what there is, and b"" when it pauses."""
        left = b""
        for data in self._unpacked():
            if not data:
                yield b""
                continue
            cut = data.rfind(b"\n") + 1
            if cut:
                yield left + data[:cut]
                left = data[cut:]
            else:
                left += data
                if len(left) >= _LONGEST:
                    yield left
                    left = b""
        if left:
            yield left

    def raw(self) -> Iterator[bytes]:
        """Yield the file's bytes as they are."""
        try:
            if self.path is None:
                yield from self._growing(self._handle)
                return
            with self.path.open("rb", buffering=0) as file:
                while data := file.read(_CHUNK):
                    self._hash.update(data)
                    self._size += len(data)
                    yield data
        except OSError as error:
            raise UsageError(f"cannot read the log: {error.strerror}", where=self.where) from error

    def _growing(self, handle: int) -> Iterator[bytes]:
        while True:
            ready, _, _ = select.select([handle], [], [], _IDLE)
            if not ready:
                yield b""
                continue
            try:
                data = os.read(handle, _CHUNK)
            except OSError as error:
                if error.errno == errno.EIO:  # a pty that nobody writes to any more
                    return
                raise
            if not data:
                return
            self._hash.update(data)
            self._size += len(data)
            yield data

    def _unpacked(self) -> Iterator[bytes]:
        raw = self.raw()
        first = next((data for data in raw if data), b"")
        if first.startswith(_GZIP):
            yield from self._unpack(first, raw, _gzip)
        elif first.startswith(_ZSTD):
            yield from self._unpack(first, raw, _zstd)
        else:
            if first:
                yield first
            yield from raw

    def _unpack(self, first: bytes, raw: Iterator[bytes], make: Any) -> Iterator[bytes]:
        """Unpack one member or frame after the other."""
        unpacker: _Unpacker = make()
        data: bytes | None = first
        begun = False
        taken = given = 0
        while data is not None:
            while data:
                if unpacker.eof:
                    unpacker = make()
                begun = True
                piece, before = b"", None
                try:
                    for at in range(0, len(data), _CHUNK >> 4):
                        piece = data[at : at + (_CHUNK >> 4)]
                        before = unpacker.copy() if hasattr(unpacker, "copy") else None
                        found = unpacker.decompress(piece) or b""
                        taken, given = taken + len(piece), given + len(found)
                        yield found
                        if unpacker.eof:
                            taken -= len(unpacker.unused_data)
                            data = unpacker.unused_data + data[at + len(piece) :]
                            break
                    else:
                        data = b""
                except Exception as error:  # noqa: BLE001 - zlib.error or zstandard's, which may not be there to name
                    self.fault = f"the compressed log is damaged: {error}"
                    if before is None and self.path is not None:
                        yield from _again(self.path, make, taken, given)
                    else:
                        yield from _until_it_fails(before, piece)
                    return
                if unpacker.eof and not data.strip(b"\0"):
                    data = b""
            data = next(raw, None)
        if begun and not unpacker.eof:
            self.fault = "the compressed log ends early"


def _until_it_fails(unpacker: Any, piece: bytes) -> Iterator[bytes]:
    """Yield what a damaged piece gives up to the damage: with the error, all that the piece gave before it is lost."""
    if unpacker is not None:
        with contextlib.suppress(zlib.error):
            for at in range(len(piece)):
                yield unpacker.decompress(piece[at : at + 1])


def _again(path: Path, make: Any, taken: int, given: int) -> Iterator[bytes]:
    """Unpack a damaged file once more, and yield what it gives beyond the ``given`` bytes, up to the damage.

    What unpacks Zstandard cannot be copied, and with the error all is lost that the piece gave before it. ``taken`` is
    the number of the file's bytes that were sound; from there on they are taken one by one.
    """
    unpacker: _Unpacker = make()
    with contextlib.suppress(Exception), path.open("rb") as file:
        while True:
            left = taken - file.tell()
            data = file.read(min(left, _CHUNK >> 4) if left > 0 else 1)
            if not data:
                return
            while data:
                if unpacker.eof:
                    unpacker = make()
                found = unpacker.decompress(data) or b""
                data = unpacker.unused_data if unpacker.eof else b""
                yield found[given:]
                given = max(0, given - len(found))


class DrakvufSource:
    """A log to import: ``PATH`` of a file or directory, or ``-``. `UsageError` for what is not there."""

    def __init__(self, name: str) -> None:
        self.uri = f"drakvuf:{name}"
        self.skipped: list[str] = []
        self.directory = False
        if name == "-":
            self.files = [LogFile(None)]
            return
        path = Path(name)
        if path.is_dir():
            self.directory = True
            self.files = [LogFile(file) for file in self._of(path)]
            if not self.files:
                raise UsageError(
                    "no log is in this directory", where=name, hint="DRAKVUF Sandbox calls them PLUGIN.log"
                )
        elif path.exists():
            self.files = [LogFile(path)]
        else:
            raise UsageError("there is no such file or directory", where=name)

    @property
    def live(self) -> bool:
        """Whether it may still grow."""
        return any(file.live for file in self.files)

    @property
    def faults(self) -> list[str]:
        """What cut files short."""
        return [f"{file.where}: {file.fault}" for file in self.files if file.fault]

    def blocks(self) -> Iterator[bytes]:
        """Yield whole lines in the order of the log, of several files in the order of time."""
        if len(self.files) == 1:
            yield from self.files[0].blocks()
        else:
            yield from _together(line for _, line in _merged(self.files))

    def content(self) -> str:
        """Return what was read is known by."""
        if len(self.files) == 1:
            return self.files[0].content()
        digest = hashlib.sha256("\n".join(sorted(file.content() for file in self.files)).encode())
        return f"sha256:{digest.hexdigest()}:{len(self.files)} files"

    def known_by(self) -> str:
        """Read everything once, only to tell what it is known by."""
        again = DrakvufSource(self.uri.partition(":")[2])
        for file in again.files:
            for _ in file.raw():
                pass
        return again.content()

    def _of(self, directory: Path) -> Iterator[Path]:
        for file in sorted(directory.iterdir()):
            stem, _, ending = file.name.partition(".")
            if ending in ("log", "log.gz", "log.zst") and file.is_file():
                if stem in _NOT_LOGS:
                    self.skipped.append(file.name)
                else:
                    yield file


def _merged(files: list[LogFile]) -> Iterator[tuple[bytes, bytes]]:
    """Yield times and lines of files that are each in order, in the order of all."""
    return heapq.merge(*(_timed(file) for file in files), key=lambda one: one[0])


def _timed(file: LogFile) -> Iterator[tuple[bytes, bytes]]:
    """Yield each line with its time, or the last one's; what does not begin a line stays with the line before."""
    time, held = b"", b""
    for block in file.blocks():
        for line in _split(block):
            if line.startswith(_BEGIN):
                if held:
                    yield time, held
                held = line
                if match := _STAMP.search(line):
                    time = match[1].rjust(17, b"0")
            else:
                held += line
                if len(held) >= _LONGEST:
                    yield time, held if held.endswith(b"\n") else held + b"\n"
                    held = b""
    if held:
        yield time, held if held.endswith(b"\n") else held + b"\n"


def _split(block: bytes) -> list[bytes]:
    lines = [line + b"\n" for line in block.split(b"\n")]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines


def _together(lines: Iterator[bytes]) -> Iterator[bytes]:
    block: list[bytes] = []
    size = 0
    for line in lines:
        block.append(line)
        size += len(line)
        if size >= _CHUNK:
            yield b"".join(block)
            block, size = [], 0
    if block:
        yield b"".join(block)


def _gzip() -> _Unpacker:
    return zlib.decompressobj(31)


def _zstd() -> _Unpacker:
    try:
        from compression import zstd  # type: ignore[import-not-found,unused-ignore]  # Python 3.14

        found: _Unpacker = zstd.ZstdDecompressor()
    except ImportError:
        try:
            import zstandard
        except ImportError as error:
            raise DrakmetError(
                "this log is compressed with Zstandard", hint="pip install 'drakmet[zstd]', or unpack it: zstd -d"
            ) from error
        found = zstandard.ZstdDecompressor().decompressobj()
    return found
