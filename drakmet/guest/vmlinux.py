# SPDX-License-Identifier: GPL-2.0-or-later
"""A profile out of a kernel's file: an ELF vmlinux, or a bzImage (``/boot/vmlinuz-*``) that holds one.

The bzImage header is that of Documentation/arch/x86/boot.rst (protocol 2.08 and later); the payload is an ELF file
in one of the kernel's compressions.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final

from drakmet.errors import GuestError, UsageError
from drakmet.guest import kernel
from drakmet.guest.memory import missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from drakmet.guest.profile import Profile

MAX_KERNEL: Final = 512 << 20
_SETUP_SECTS, _MAGIC, _PAYLOAD = 0x1F1, 0x202, 0x248
_ELF_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER: Final = struct.Struct("<IIQQQQQQ")
_LOAD: Final = 1
_MAX_SEGMENTS: Final = 64


def profile_of_file(path: Path) -> Profile:
    """Return symbols, types and build id of a kernel's file; `UsageError` says why it cannot be used."""
    try:
        raw = path.read_bytes()
        memory = Segments(raw if raw.startswith(b"\x7fELF") else unpack(raw))
        for table in kernel.tables(memory):
            for base, profile in kernel.profiles_at(memory, table):
                symbols = profile.symbols
                start, stop = symbols.get("__start_notes"), symbols.get("__stop_notes")
                if start is not None and stop is not None and 0 < stop - start <= 4096:
                    notes = memory.read(base + start - symbols["_text"], stop - start)
                    profile.build_id = kernel.note_build_id(notes)
                return profile
    except (OSError, struct.error, GuestError) as error:
        text = error.what if isinstance(error, GuestError) else str(error)
        raise UsageError(f"cannot use this kernel: {text}", where=str(path)) from error
    raise UsageError("the file holds no kernel with kallsyms and BTF", where=str(path))


class Segments:
    """An ELF file's segments where they are loaded to; what is not in the file reads as zeros."""

    def __init__(self, elf: bytes) -> None:
        header = _ELF_HEADER.unpack_from(elf)
        if not elf.startswith(b"\x7fELF\x02\x01") or header[10] > _MAX_SEGMENTS:
            raise GuestError("not a 64-bit ELF file")
        self._segments = []
        for number in range(header[10]):
            kind, _, offset, _, gpa, file_size, size, _ = _PROGRAM_HEADER.unpack_from(elf, header[5] + 56 * number)
            if kind == _LOAD and file_size and file_size <= size <= MAX_KERNEL and gpa < 1 << 40:
                self._segments.append((gpa, size, elf[offset : offset + file_size]))
        self._segments.sort()

    @property
    def size(self) -> int:
        """One past the last byte of the last segment."""
        return max((gpa + size for gpa, size, _ in self._segments), default=0)

    def extents(self) -> Iterator[tuple[int, int]]:
        """Yield ``(gpa, length)`` of each segment."""
        for gpa, size, _ in self._segments:
            yield gpa, size

    def read(self, gpa: int, length: int) -> bytes:
        """Return ``length`` bytes at ``gpa``, all of one segment."""
        for start, size, data in self._segments:
            if start <= gpa and gpa + length <= start + size and length >= 0:
                return data[gpa - start : gpa - start + length].ljust(length, b"\0")
        raise missing(gpa, length)

    def read_u64(self, gpa: int) -> int:
        """Return the 64-bit word at ``gpa``."""
        return int.from_bytes(self.read(gpa, 8), "little")


def unpack(image: bytes) -> bytes:
    """Return the ELF file inside a bzImage; `GuestError` if it is none, or packed in a way that is not known here."""
    if image[_MAGIC : _MAGIC + 4] != b"HdrS":
        raise GuestError("neither an ELF file nor a bzImage")
    start, size = struct.unpack_from("<II", image, _PAYLOAD)
    start += ((image[_SETUP_SECTS] or 4) + 1) * 512
    payload = image[start : start + size]
    for magic, read in _FORMATS:
        if payload.startswith(magic):
            try:
                return read(payload)
            except GuestError:
                raise
            except Exception as error:  # each library has errors of its own
                raise GuestError(f"its payload is damaged: {error}") from error
    raise GuestError(f"its payload is packed in an unknown way ({payload[:4].hex()})")


def _gzip(data: bytes) -> bytes:
    return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, MAX_KERNEL)


def _xz(data: bytes) -> bytes:
    import lzma

    return lzma.LZMADecompressor().decompress(data, MAX_KERNEL)


def _bzip2(data: bytes) -> bytes:
    import bz2

    return bz2.BZ2Decompressor().decompress(data, MAX_KERNEL)


def _zstd(data: bytes) -> bytes:
    try:
        import zstandard
    except ImportError:
        raise GuestError("its payload is zstd: this needs the Python package zstandard") from None
    found: bytes = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return found


def _lz4(data: bytes) -> bytes:
    """Unpack LZ4's legacy frames: after the magic, blocks that each have their size before them."""
    out: list[bytes] = []
    at, total = 4, 0
    while at + 4 <= len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        block = data[at + 4 : at + 4 + size]
        if len(block) < size or not size:
            break  # the payload ends with its unpacked size
        out.append(_lz4_block(block))
        total += len(out[-1])
        if total > MAX_KERNEL:
            raise GuestError("its payload is too large")
        at += 4 + size
    return b"".join(out)


_LZ4_BLOCK: Final = 8 << 20


def _lz4_block(block: bytes) -> bytes:
    out = bytearray()
    at, end = 0, len(block)
    while at < end:
        token = block[at]
        at += 1
        length = token >> 4
        if length == 15:
            while True:
                more = block[at]
                at += 1
                length += more
                if more != 255:
                    break
        if length:
            out += block[at : at + length]
            at += length
        if at >= end:
            break
        back = block[at] | block[at + 1] << 8
        at += 2
        length = token & 15
        if length == 15:
            while True:
                more = block[at]
                at += 1
                length += more
                if more != 255:
                    break
        length += 4
        start = len(out) - back
        if start < 0 or not back or len(out) + length > _LZ4_BLOCK + (1 << 16):
            raise GuestError("its LZ4 payload is damaged")
        if back >= length:
            out += out[start : start + length]
        else:
            out += (out[start:] * (length // back + 1))[:length]
    return bytes(out)


_FORMATS: Final[tuple[tuple[bytes, Callable[[bytes], bytes]], ...]] = (
    (b"\x1f\x8b", _gzip),
    (b"\xfd7zXZ", _xz),
    (b"\x5d\0\0", _xz),
    (b"BZh", _bzip2),
    (b"\x02\x21\x4c\x18", _lz4),
    (b"\x28\xb5\x2f\xfd", _zstd),
)
