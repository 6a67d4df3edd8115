# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of an ext2, ext3 or ext4 file system, read out of a raw image and never mounted. Images are hostile.

Layouts are those of the kernel's Documentation/filesystems/ext4. The journal is not replayed: a system that was not
unmounted is read as the disk has it. `UsageError` where the structures are damaged or of a kind that is not read here.
"""

from __future__ import annotations

import os
import stat
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from drakmet.errors import UsageError
from drakmet.identity.deb import MOST_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAGIC: Final = 0xEF53
_ROOT: Final = 2
# s_feature_incompat: those that change where data lies in a way that is not read here
_NOT_READ: Final = {0x1: "compression", 0x8: "a journal alone", 0x10: "META_BG", 0x1000: "dirdata"}
_64BIT: Final = 0x80
# i_flags
_COMPRESSED, _ENCRYPTED, _EXTENTS, _INLINE = 0x4, 0x800, 0x80000, 0x10000000
_EXTENT_MAGIC, _MOST_DEPTH = 0xF30A, 5
_UNWRITTEN: Final = 32768  # ee_len past this: reserved, reads as zeros
_ATTRIBUTES, _SYSTEM = 0xEA020000, 7  # EXT4_XATTR_MAGIC, EXT4_XATTR_INDEX_SYSTEM
_MOST_FILES: Final = 1 << 23
_MOST_DIRECTORY: Final = 1 << 26
_MOST_PATH: Final = 4096


class Inode(NamedTuple):
    """Mode, size in bytes, time of its last change in nanoseconds, flags, the map, and the attributes in the inode."""

    mode: int
    size: int
    mtime: int
    flags: int
    blocks: bytes
    attributes: bytes


class ExtFiles:
    """The files of the file system that begins at ``base`` bytes of an open file descriptor."""

    def __init__(self, fd: int, base: int, end: int) -> None:
        self._fd, self._base, self._end = fd, base, end
        block = self._at(1024, 1024)
        if struct.unpack_from("<H", block, 0x38)[0] != _MAGIC:
            raise UsageError("not an ext file system")
        self._inodes, self._first, log = struct.unpack_from("<I16xII", block)
        self._per_group = struct.unpack_from("<I", block, 0x28)[0]
        revision = struct.unpack_from("<I", block, 0x4C)[0]
        self._inode_size = struct.unpack_from("<H", block, 0x58)[0] if revision else 128
        incompatible = struct.unpack_from("<I", block, 0x60)[0] if revision else 0
        wide = bool(incompatible & _64BIT)
        size = struct.unpack_from("<H", block, 0xFE)[0] if wide else 32
        for bit, name in _NOT_READ.items():
            if incompatible & bit:
                raise UsageError(f"an ext file system with {name}, which is not read here")
        if log > 6 or not 128 <= self._inode_size <= 4096 or not 32 <= size <= 1024 or not self._per_group:
            raise UsageError("the superblock of the file system is damaged")
        self.block_size = 1024 << log
        self._descriptor_size, self._wide = size, wide and size >= 64

    def walk(self) -> Iterator[tuple[str, Inode]]:
        """Yield the regular files by their paths; each directory is read once, whatever it is entered in."""
        seen, pending, found = {_ROOT}, [("", _ROOT)], 0
        while pending:
            path, number = pending.pop()
            for name, child in sorted(self._names(self.inode(number))):
                below = f"{path}/{name}"
                found += 1
                if found > _MOST_FILES or len(below) > _MOST_PATH:
                    raise UsageError("the directories of the file system are damaged: too many, or too deep")
                try:
                    inode = self.inode(child)
                except UsageError:
                    continue
                if stat.S_ISREG(inode.mode):
                    yield below, inode
                elif stat.S_ISDIR(inode.mode) and child not in seen:
                    seen.add(child)
                    pending.append((below, child))

    def find(self, path: str) -> Inode | None:
        """Return a regular file's inode by its path, or None. Symbolic links are not followed."""
        inode = self.inode(_ROOT)
        for part in path.strip("/").split("/"):
            number = dict(self._names(inode)).get(part) if stat.S_ISDIR(inode.mode) else None
            if number is None:
                return None
            inode = self.inode(number)
        return inode if stat.S_ISREG(inode.mode) else None

    def inode(self, number: int) -> Inode:
        """Read an inode by its number, which counts from 1."""
        if not 1 <= number <= self._inodes:
            raise UsageError(f"the file system has no inode {number}")
        group, index = divmod(number - 1, self._per_group)
        table = self._at((self._first + 1) * self.block_size + group * self._descriptor_size, self._descriptor_size)
        start = struct.unpack_from("<I", table, 8)[0]
        if self._wide:
            start |= struct.unpack_from("<I", table, 0x28)[0] << 32
        raw = self._at(start * self.block_size + index * self._inode_size, self._inode_size)
        mode, low, seconds = struct.unpack_from("<H2xI8xI", raw)
        nanoseconds, own = 0, len(raw)
        if len(raw) >= 0x8C:
            own = 0x80 + struct.unpack_from("<H", raw, 0x80)[0]
            if own >= 0x8C:
                extra = struct.unpack_from("<I", raw, 0x88)[0]
                seconds, nanoseconds = seconds + ((extra & 3) << 32), extra >> 2
        size = low | struct.unpack_from("<I", raw, 0x6C)[0] << 32
        flags = struct.unpack_from("<I", raw, 0x20)[0]
        return Inode(mode, size, seconds * 10**9 + nanoseconds, flags, raw[0x28:0x64], raw[own:])

    def read(self, inode: Inode, most: int = MOST_BYTES) -> bytes:
        """Return the first ``most`` bytes of a file."""
        size = min(inode.size, most)
        if inode.flags & (_COMPRESSED | _ENCRYPTED):
            raise UsageError("a file of the image is encrypted or compressed")
        if inode.flags & _INLINE:
            return (inode.blocks + _inline(inode.attributes))[:size]
        if size > self._end - self._base:
            raise UsageError("a file of the image claims to be larger than that")
        pieces, at = [], 0
        for logical, physical, count in self._runs(inode, -(-size // self.block_size)):
            begin = logical * self.block_size
            if begin >= size:
                break
            pieces.append(bytes(begin - at))
            length = min(count * self.block_size, size - begin)
            pieces.append(self._at(physical * self.block_size, length) if physical else bytes(length))
            at = begin + length
        pieces.append(bytes(size - at))
        return b"".join(pieces)

    def _runs(self, inode: Inode, blocks: int) -> Iterator[tuple[int, int, int]]:
        """Yield logical block, physical block (0: zeros) and count, in order and apart."""
        runs = self._extents(inode.blocks, set()) if inode.flags & _EXTENTS else self._listed(inode.blocks, blocks)
        last = 0
        for logical, physical, count in runs:
            if logical < last or not count:
                raise UsageError("the map of a file's blocks is damaged")
            yield logical, physical, count
            last = logical + count

    def _extents(self, node: bytes, seen: set[int]) -> Iterator[tuple[int, int, int]]:
        magic, entries, _, depth = struct.unpack_from("<4H", node)
        if magic != _EXTENT_MAGIC or depth > _MOST_DEPTH or 12 * (entries + 1) > len(node):
            raise UsageError("the map of a file's blocks is damaged")
        for at in range(12, 12 * (entries + 1), 12):
            if not depth:
                logical, count, high, low = struct.unpack_from("<IHHI", node, at)
                unwritten = count > _UNWRITTEN
                yield logical, 0 if unwritten else high << 32 | low, count - _UNWRITTEN if unwritten else count
                continue
            low, high = struct.unpack_from("<4xIH", node, at)
            below = high << 32 | low
            if below in seen:
                raise UsageError("the map of a file's blocks leads in a circle")
            seen.add(below)
            yield from self._extents(self._at(below * self.block_size, self.block_size), seen)

    def _listed(self, table: bytes, blocks: int) -> Iterator[tuple[int, int, int]]:
        pointers = struct.unpack("<15I", table)
        logical = 0
        for number, pointer in enumerate(pointers):
            for block in [pointer] if number < 12 else self._indirect(pointer, number - 11, blocks - logical):
                if logical >= blocks:
                    return
                yield logical, block, 1
                logical += 1

    def _indirect(self, block: int, level: int, wanted: int) -> Iterator[int]:
        """Yield at most about ``wanted`` blocks that a block of pointers leads to, zeros for a hole."""
        each = self.block_size // 4
        if not block:
            yield from (0 for _ in range(min(each**level, max(wanted, 0))))
            return
        for pointer in struct.unpack(f"<{each}I", self._at(block * self.block_size, self.block_size)):
            if wanted <= 0:
                return
            if level == 1:
                yield pointer
            else:
                yield from self._indirect(pointer, level - 1, wanted)
            wanted -= each ** (level - 1)

    def _names(self, directory: Inode) -> Iterator[tuple[str, int]]:
        if not stat.S_ISDIR(directory.mode) or directory.size > _MOST_DIRECTORY:
            raise UsageError("a directory of the file system is damaged")
        data = self.read(directory)
        ends = [*range(self.block_size, len(data), self.block_size), len(data)]
        at = 0
        if directory.flags & _INLINE:  # after the parent's number; what is in the attribute is a block of its own
            at, ends = 4, [min(len(directory.blocks), len(data)), len(data)]
        for end in ends:
            while at + 8 <= end:
                number, length, name_length = struct.unpack_from("<IHB", data, at)
                if length < 8 or length % 4 or at + length > end or name_length > length - 8:
                    raise UsageError("a directory of the file system is damaged")
                name = data[at + 8 : at + 8 + name_length]
                if number and name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name:
                    yield name.decode("utf-8", "surrogateescape"), number
                at += length
            at = end

    def _at(self, offset: int, size: int) -> bytes:
        if offset < 0 or self._base + offset + size > self._end:
            raise UsageError("the file system leads past the end of the image")
        data = os.pread(self._fd, size, self._base + offset)
        if len(data) != size:
            raise UsageError("the image is cut off")
        return data


def _inline(attributes: bytes) -> bytes:
    """Return what the attribute system.data of an inode holds: the rest of a small file (struct ext4_xattr_entry)."""
    first = 4
    at = first
    if len(attributes) < 4 or struct.unpack_from("<I", attributes)[0] != _ATTRIBUTES:
        return b""
    while at + 16 <= len(attributes) and any(attributes[at : at + 4]):
        length, index, offset, inode, size = struct.unpack_from("<BBHII", attributes, at)
        if (index, attributes[at + 16 : at + 16 + length]) == (_SYSTEM, b"data"):
            if inode or first + offset + size > len(attributes):
                raise UsageError("a file of the image has damaged attributes")
            return attributes[first + offset : first + offset + size]
        at += 16 + (length + 3 & ~3)
    return b""
