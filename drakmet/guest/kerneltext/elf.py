# SPDX-License-Identifier: GPL-2.0-or-later
"""Sections, symbols and relocations of a 64-bit ELF file (elf.h). Files are hostile: each number is checked."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from drakmet.errors import GuestError

if TYPE_CHECKING:
    from collections.abc import Iterator

# elf.h: section types and flags, symbol indexes
NOBITS, RELA, SYMTAB, NOTE = 8, 4, 2, 7
WRITE, ALLOC, EXECUTE = 1, 2, 4
UNDEFINED, ABSOLUTE, RESERVED = 0, 0xFFF1, 0xFF00

MAX_SECTIONS: Final = 4096
MAX_SYMBOLS: Final = 1 << 20
MAX_RELOCATIONS: Final = 1 << 22
_MAX_NAME: Final = 512
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_RELOCATION: Final = struct.Struct("<QIIq")


class Section(NamedTuple):
    """A section: where it is to lie (0 in a module), where it is in the file, both in bytes."""

    number: int
    name: str
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int


class Symbol(NamedTuple):
    """A symbol: the number of its section, its value there; ``kind`` as in the low nibble of st_info."""

    name: str
    kind: int
    section: int
    value: int
    size: int
    is_global: bool


class Relocation(NamedTuple):
    """A relocation with an addend: offset in its section, type, symbol's number, addend."""

    offset: int
    kind: int
    symbol: int
    addend: int


class Elf:
    """A file's sections by number and by name. `GuestError` says what is broken."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        try:
            self.sections = self._read()
        except struct.error as error:
            raise GuestError("the ELF file is cut off") from error
        self.named = {section.name: section for section in reversed(self.sections)}

    def _read(self) -> list[Section]:
        data = self.data
        if data[:6] != b"\x7fELF\x02\x01":
            raise GuestError("not a 64-bit little-endian ELF file")
        start = struct.unpack_from("<Q", data, 40)[0]
        size, count, names = struct.unpack_from("<HHH", data, 58)
        if not count or count > MAX_SECTIONS or size != _SECTION.size or start + size * count > len(data):
            raise GuestError("the ELF file has no sound table of sections")
        raw = [_SECTION.unpack_from(data, start + size * number) for number in range(count)]
        if names >= count:
            raise GuestError("the ELF file has no names of sections")
        strings = raw[names][4]
        found = []
        for number, one in enumerate(raw):
            name, kind, flags, address, offset, length, link, info, align, _ = one
            if kind != NOBITS and offset + length > len(data):
                raise GuestError("a section of the ELF file lies past its end")
            if length > 1 << 32 or align > 1 << 24:
                raise GuestError("a section of the ELF file is too large")
            text = self._string(strings + name)
            found.append(Section(number, text, kind, flags, address, offset, length, link, info, align))
        return found

    def _string(self, at: int) -> str:
        end = self.data.find(b"\0", at, at + _MAX_NAME)
        return self.data[at : end if end >= 0 else at].decode("utf-8", "surrogateescape")

    def content(self, section: Section) -> bytes:
        """Return a section's bytes; those of one that takes no room in the file are zeros."""
        if section.kind == NOBITS:
            return bytes(section.size)
        return self.data[section.offset : section.offset + section.size]

    def symbols(self) -> list[Symbol]:
        """Return the symbols of the file's symbol table in their order, none if it was stripped."""
        table = next((section for section in self.sections if section.kind == SYMTAB), None)
        if table is None:
            return []
        if table.link >= len(self.sections) or table.size > MAX_SYMBOLS * _SYMBOL.size:
            raise GuestError("the ELF file has a broken table of symbols")
        strings = self.sections[table.link].offset
        whole = table.size // _SYMBOL.size * _SYMBOL.size
        return [
            Symbol(self._string(strings + name), info & 15, section, value, size, info >> 4 != 0)
            for name, info, _, section, value, size in _SYMBOL.iter_unpack(self.content(table)[:whole])
        ]

    def relocations(self, of: Section) -> Iterator[Relocation]:
        """Yield the relocations with addends that are to be applied to a section."""
        for section in self.sections:
            if section.kind != RELA or section.info != of.number:
                continue
            if section.size > MAX_RELOCATIONS * _RELOCATION.size:
                raise GuestError("the ELF file has too many relocations")
            whole = section.size // _RELOCATION.size * _RELOCATION.size
            for offset, kind, symbol, addend in _RELOCATION.iter_unpack(self.content(section)[:whole]):
                yield Relocation(offset, kind, symbol, addend)
