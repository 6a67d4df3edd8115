# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages of an ELF file that are mapped executable. Files are hostile: each number is checked against their size."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from drakmet.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE_SIZE: Final = 4096
MAGIC: Final = b"\x7fELF"
# elf.h: ET_EXEC, ET_DYN; PT_LOAD, PT_NOTE; PF_X; NT_GNU_BUILD_ID
_PROGRAMS, _LOAD, _NOTE, _EXECUTE, _BUILD_ID = (2, 3), 1, 4, 1, 3
_MOST_SEGMENTS: Final = 256  # each may claim the whole file


def read(data: bytes) -> tuple[str | None, list[tuple[int, bytes]]]:
    """Return the build-id in hex and the executable pages by their number in the file; `UsageError` if it is broken.

    The last page goes on with the file's bytes past the segment, as the page cache has it, and with zeros past the
    file. Objects that are not loaded by the kernel or the loader (relocatable ones, cores) have no such pages.
    """
    try:
        return _read(data)
    except struct.error as error:
        raise UsageError("the ELF file is cut off") from error


def _read(data: bytes) -> tuple[str | None, list[tuple[int, bytes]]]:
    if data[:4] != MAGIC:
        raise UsageError("not an ELF file")
    if len(data) < 6 or data[4] not in (1, 2) or data[5] not in (1, 2):
        raise UsageError("not an ELF file of 32 or 64 bits")
    if data[5] == 2:  # big-endian: firmware and the like in packages; no guest of ours executes it
        return None, []
    if struct.unpack_from("<H", data, 16)[0] not in _PROGRAMS:
        return None, []
    numbers: set[int] = set()
    build_id = None
    for kind, flags, offset, size in _segments(data, wide=data[4] == 2):
        if kind == _LOAD and flags & _EXECUTE and size:
            if offset + size > len(data):
                raise UsageError("an executable segment of the ELF file lies past its end")
            numbers.update(range(offset // PAGE_SIZE, (offset + size - 1) // PAGE_SIZE + 1))
        elif kind == _NOTE:
            build_id = build_id or _build_id(data[offset : offset + min(size, 65536)])
    return build_id, [
        (number, data[number * PAGE_SIZE : (number + 1) * PAGE_SIZE].ljust(PAGE_SIZE, b"\0"))
        for number in sorted(numbers)
    ]


def _segments(data: bytes, *, wide: bool) -> Iterator[tuple[int, int, int, int]]:
    start = struct.unpack_from("<Q" if wide else "<I", data, 32 if wide else 28)[0]
    size, count = struct.unpack_from("<HH", data, 54 if wide else 42)
    if start > len(data) or count > _MOST_SEGMENTS or (count and size < (56 if wide else 32)):
        raise UsageError("the ELF file has a broken table of segments")
    for at in range(start, start + size * count, size or 1):
        if wide:
            kind, flags, offset, _, _, length = struct.unpack_from("<IIQQQQ", data, at)
        else:
            kind, offset, _, _, length, _, flags = struct.unpack_from("<7I", data, at)
        yield kind, flags, offset, length


def _build_id(notes: bytes) -> str | None:
    at = 0
    while at + 12 <= len(notes):
        name, size, kind = struct.unpack_from("<III", notes, at)
        body = at + 12 + (name + 3 & ~3)
        if kind == _BUILD_ID and notes[at + 12 : at + 16] == b"GNU\0" and 0 < size <= 64:
            return notes[body : body + size].hex()
        at = body + (size + 3 & ~3)
    return None
