# SPDX-License-Identifier: GPL-2.0-or-later
"""What is in a raw disk image: a file system, or partitions (MBR, GPT) with file systems. Images are hostile."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final

from drakmet.errors import UsageError
from drakmet.identity.ext import ExtFiles

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECTOR: Final = 512
_MOST_PARTITIONS: Final = 128
_EXTENDED: Final = (0x05, 0x0F, 0x85)
_GPT: Final = b"EFI PART"
# Offset and bytes by which what is not read here is known, to say so.
_OTHERS: Final = (
    (0, b"QFI\xfb", "a QCOW2 image"),
    (0, b"KDMV", "a VMDK image"),
    (0, b"vhdxfile", "a VHDX image"),
    (0, b"XFSB", "an XFS file system"),
    (0, b"hsqs", "a squashfs file system"),
    (0x10040, b"_BHRfS_M", "a btrfs file system"),
    (512, b"LABELONE", "an LVM volume"),
    (0, b"LUKS\xba\xbe", "an encrypted volume"),
)
_HINT: Final = "mount it read-only and give the folder; qemu-img convert -O raw makes raw images of others"


def is_image(head: bytes) -> bool:
    """Return whether a file that begins so (2048 bytes) may be an image of a disk or file system."""
    if head[1080:1082] == b"\x53\xef" or head[512:520] == _GPT or head[510:512] == b"\x55\xaa":
        return True
    return any(head[at : at + len(magic)] == magic for at, magic, _ in _OTHERS)


def file_systems(fd: int) -> list[ExtFiles]:
    """Return the ext file systems of an image; `UsageError` if it has none, with what it has instead."""
    size = os.lseek(fd, 0, os.SEEK_END)
    places = [(0, size), *_partitions(fd, size)]
    found, others = [], []
    for begin, end in places:
        if os.pread(fd, 2, begin + 1080) == b"\x53\xef":
            found.append(ExtFiles(fd, begin, end))
            continue
        others += [what for at, magic, what in _OTHERS if os.pread(fd, len(magic), begin + at) == magic]
    if not found:
        what = f"it holds {', '.join(sorted(set(others)))}" if others else "it holds no file system that is known here"
        raise UsageError(f"{what}; ext2, ext3 and ext4 in raw images are read", hint=_HINT)
    return found


def _partitions(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield begin and end, in bytes, of the partitions that lie in the image."""
    for sector in (512, 4096):
        header = os.pread(fd, 92, sector)
        if header[:8] == _GPT and len(header) == 92:
            table, count, width = struct.unpack_from("<QII", header, 72)
            yield from _gpt(fd, size, sector, table, min(count, _MOST_PARTITIONS), width)
            return
    first = os.pread(fd, _SECTOR, 0)
    if first[510:512] != b"\x55\xaa":
        return
    for kind, start, count in _entries(first):
        if kind in _EXTENDED:
            yield from _logical(fd, size, start)
        elif count and 0 < start * _SECTOR < size:
            yield start * _SECTOR, min(size, (start + count) * _SECTOR)


def _gpt(fd: int, size: int, sector: int, table: int, count: int, width: int) -> Iterator[tuple[int, int]]:
    if not 128 <= width <= 4096:
        return
    for number in range(count):
        at = table * sector + number * width
        entry = os.pread(fd, 128, at) if at < size else b""
        if len(entry) < 128 or not any(entry[:16]):
            continue
        first, last = struct.unpack_from("<QQ", entry, 32)
        if 0 < first <= last and first * sector < size:
            yield first * sector, min(size, (last + 1) * sector)


def _logical(fd: int, size: int, base: int) -> Iterator[tuple[int, int]]:
    at, seen = base, set[int]()
    while at not in seen and len(seen) < _MOST_PARTITIONS and at * _SECTOR < size:
        seen.add(at)
        record = os.pread(fd, _SECTOR, at * _SECTOR)
        if record[510:512] != b"\x55\xaa":
            return
        following = None
        for kind, start, count in _entries(record):
            if kind in _EXTENDED:
                following = base + start
            elif kind and count and (at + start) * _SECTOR < size:
                yield (at + start) * _SECTOR, min(size, (at + start + count) * _SECTOR)
        if following is None:
            return
        at = following


def _entries(record: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield type, first sector and number of sectors."""
    for at in range(446, 510, 16):
        kind, start, count = struct.unpack_from("<4xB3xII", record, at)
        yield kind, start, count
