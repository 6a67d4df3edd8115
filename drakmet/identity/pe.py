# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages of a PE file (Windows, UEFI) that are mapped executable. Files are hostile: each number is checked.

Layouts are those of Microsoft's "PE Format". Pages are numbered as they lie in memory, from the image's base; code with
base relocations is hashed as the file has it, and so looks changed where the loader had to move it. Most 64-bit code
has none.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from drakmet.errors import UsageError
from drakmet.identity.deb import Package

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC: Final = b"MZ"
PAGE_SIZE: Final = 4096
_EXECUTE: Final = 0x20000000  # IMAGE_SCN_MEM_EXECUTE
_MOST_SECTIONS: Final = 96  # what the loader takes
_MOST_PAGES: Final = 1 << 17  # of one file: 512 MiB
_MACHINES: Final = {0x14C: "x86", 0x8664: "x64", 0xAA64: "arm64", 0x1C0: "arm", 0x1C4: "arm"}
_DEBUG, _CODEVIEW = 6, 2  # IMAGE_DIRECTORY_ENTRY_DEBUG, IMAGE_DEBUG_TYPE_CODEVIEW
_MOST_DEBUG: Final = 64
_MOST_VERSION: Final = 1 << 16


class _Section(NamedTuple):
    """Where a section is in memory (from the base) and in the file, in bytes, and its characteristics."""

    size: int
    address: int
    stored: int
    offset: int
    flags: int


class Image(NamedTuple):
    """A PE file's PDB signature and age in hex, its executable pages by number in memory, and what it says it is."""

    build_id: str | None
    pages: list[tuple[int, bytes]]
    about: Package | None


def begins(head: bytes) -> bool:
    """Return whether a file that begins so is a PE file; many that begin with MZ are none."""
    if head[:2] != MAGIC or len(head) < 64:
        return False
    start = struct.unpack_from("<I", head, 60)[0]
    return head[start : start + 4] == b"PE\0\0"


def read(data: bytes) -> Image:
    """Read a PE file; `UsageError` if it is broken, or a program for DOS alone, which has no PE header."""
    try:
        return _read(data)
    except struct.error as error:
        raise UsageError("the PE file is cut off") from error


def _read(data: bytes) -> Image:
    if not begins(data):
        raise UsageError("not a PE file")
    start = struct.unpack_from("<I", data, 60)[0]
    machine, count = struct.unpack_from("<HH", data, start + 4)
    optional_size = struct.unpack_from("<H", data, start + 20)[0]
    if count > _MOST_SECTIONS:
        raise UsageError("the PE file has a broken table of sections")
    optional = start + 24
    wide = struct.unpack_from("<H", data, optional)[0] == 0x20B
    table = optional + optional_size
    sections = [_Section(*struct.unpack_from("<8x4I12xI", data, at)) for at in range(table, table + 40 * count, 40)]
    return Image(
        _build_id(data, sections, optional, wide=wide),
        sorted(_pages(data, sections).items()),
        _about(data, _MACHINES.get(machine, f"{machine:#x}")),
    )


def _pages(data: bytes, sections: list[_Section]) -> dict[int, bytes]:
    """Return the pages that executable sections have a part of, as they lie in memory, zeros where nothing is stored.

    Drivers and firmware may have sections that share pages.
    """
    extents = [(s.address, min(s.stored, s.size or s.stored), s.offset) for s in sections]
    numbers: set[int] = set()
    for section, (address, size, offset) in zip(sections, extents, strict=True):
        if section.flags & _EXECUTE and size:
            if offset + size > len(data):
                raise UsageError("an executable section of the PE file lies past its end")
            numbers.update(range(address // PAGE_SIZE, (address + size - 1) // PAGE_SIZE + 1))
            if len(numbers) > _MOST_PAGES:
                raise UsageError("the PE file has more code than can be")
    pages = {}
    for number in sorted(numbers):
        page, base = bytearray(PAGE_SIZE), number * PAGE_SIZE
        for address, size, offset in extents:
            begin, end = max(address, base), min(address + size, base + PAGE_SIZE)
            if begin < end:
                body = data[offset + begin - address : offset + end - address]
                page[begin - base : begin - base + len(body)] = body
        pages[number] = bytes(page)
    return pages


def _offset(sections: list[_Section], address: int) -> int | None:
    return next((address - s.address + s.offset for s in sections if s.address <= address < s.address + s.stored), None)


def _build_id(data: bytes, sections: list[_Section], optional: int, *, wide: bool) -> str | None:
    """Return signature and age of the PDB, as symbol servers name it."""
    directories = optional + (112 if wide else 96)
    if struct.unpack_from("<I", data, directories - 4)[0] <= _DEBUG:
        return None
    address, size = struct.unpack_from("<II", data, directories + 8 * _DEBUG)
    table = _offset(sections, address)
    if table is None:
        return None
    for number in range(min(size // 28, _MOST_DEBUG)):
        if table + 28 * (number + 1) > len(data):
            return None
        kind, length, _, at = struct.unpack_from("<12xIIII", data, table + 28 * number)
        if kind == _CODEVIEW and length >= 24 and data[at : at + 4] == b"RSDS" and at + 24 <= len(data):
            first, second, third, rest, age = struct.unpack_from("<IHH8sI", data, at + 4)
            return f"{first:08x}{second:04x}{third:04x}{rest.hex()}{age:x}"
    return None


def _about(data: bytes, machine: str) -> Package | None:
    """Return product name and file version out of the version resource (VS_VERSIONINFO), found by its strings."""
    at = data.find("VS_VERSION_INFO".encode("utf-16-le"))
    if at < 0:
        return None
    resource = data[at : at + _MOST_VERSION]
    fixed = resource.find(b"\xbd\x04\xef\xfe")  # VS_FIXEDFILEINFO.dwSignature
    name = next(_strings(resource, "ProductName"), None) or next(_strings(resource, "InternalName"), None)
    if fixed < 0 or fixed + 16 > len(resource) or not name:
        return None
    high, low = struct.unpack_from("<II", resource, fixed + 8)
    version = f"{high >> 16}.{high & 0xFFFF}.{low >> 16}.{low & 0xFFFF}"
    return Package(name, version, machine, name, version)


def _strings(resource: bytes, key: str) -> Iterator[str]:
    wanted = f"{key}\0".encode("utf-16-le")
    at = resource.find(wanted)
    while at >= 0:
        begin = at + len(wanted)
        text = resource[begin : begin + 512].decode("utf-16-le", "replace").lstrip("\0").partition("\0")[0].strip()
        if text:
            yield text
        at = resource.find(wanted, begin)
