# SPDX-License-Identifier: GPL-2.0-or-later
"""A module's file as the loader puts it into memory: its sections laid out, its relocations applied.

The layout is that of kernel/module.c (5.10) and kernel/module/main.c (6.1, 6.12), layout_sections and
__layout_sections: sections that are executed, read, read after the start, written, each kind in the order of the file.
Where the guest says its ``struct module`` lies must be where the layout puts ``.gnu.linkonce.this_module``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from drakmet.errors import GuestError
from drakmet.guest.kerneltext import elf
from drakmet.guest.kerneltext.image import Image, Names, Span, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE: Final = 4096
_MASK64 = (1 << 64) - 1
# elf.h: R_X86_64_*
_NONE, _64, _PC32, _PLT32, _32, _32S, _PC64 = 0, 1, 2, 4, 10, 11, 24
_WIDTH: Final = {_64: 8, _PC64: 8, _PC32: 4, _PLT32: 4, _32: 4, _32S: 4}
_RELATIVE: Final = (_PC32, _PLT32, _PC64)
# Sections that the loader reads and does not keep (setup_load_info, rewrite_section_headers, find_module_sections).
_NOT_KEPT: Final = (".modinfo", "__versions", ".data..percpu")
_AFTER_INIT: Final = (
    (".data..ro_after_init", "__jump_table"),
    (".data..ro_after_init", "__jump_table", ".static_call_sites"),
    (".data..ro_after_init",),
)
THIS_MODULE: Final = ".gnu.linkonce.this_module"
TEXT, RODATA, AFTER_INIT, DATA = range(4)
_FUNCTION, _NOTYPE, _OBJECT = 2, 0, 1
_MOST: Final = 256 << 20


class Bases(NamedTuple):
    """Where the guest put a module: the bases of its four kinds of memory, or of one for all; its per-CPU data."""

    module: int
    parts: tuple[int, int, int, int] | None
    whole: int
    percpu: int


class ModuleFile:
    """A module's file and, once it is placed, the addresses of its sections."""

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self._elf = elf.Elf(data)
        self._symbols = self._elf.symbols()
        self.addresses: dict[int, int] = {}
        self.text_size = 0
        """Bytes of whole pages that its text takes."""
        self.build_id = self._build_id()

    def _build_id(self) -> str | None:
        from drakmet.guest.kernel import note_build_id

        section = self._elf.named.get(".note.gnu.build-id")
        return (note_build_id(self._elf.content(section)) or None) if section else None

    def place(self, bases: Bases) -> None:
        """Lay the sections out; `GuestError` if no layout puts the struct module where the guest has it."""
        this = self._elf.named.get(THIS_MODULE)
        if this is None:
            raise GuestError("the file is no kernel module")
        for names in _AFTER_INIT:
            addresses = self._layout(bases, names)
            if addresses.get(this.number) == bases.module:
                self.addresses = addresses
                percpu = self._elf.named.get(".data..percpu")
                if percpu is not None and bases.percpu:
                    self.addresses[percpu.number] = bases.percpu
                return
        raise GuestError("its sections are laid out otherwise than those of the file: another build of the module")

    def _layout(self, bases: Bases, after_init: tuple[str, ...]) -> dict[int, int]:
        found: dict[int, int] = {}
        total = 0
        for kind in (TEXT, RODATA, AFTER_INIT, DATA):
            size = 0 if bases.parts else total
            base = bases.parts[kind] if bases.parts else bases.whole
            for section in self._elf.sections:
                if section.number in found or self._kind(section, after_init) != kind:
                    continue
                size += -size % max(1, section.align)
                found[section.number] = base + size
                size += section.size
                if size > _MOST:
                    raise GuestError("the module is too large")
            # CONFIG_STRICT_MODULE_RWX: each kind begins at a page of its own.
            total = size + -size % PAGE
            if kind == TEXT:
                self.text_size = total
        return found

    def _kind(self, section: elf.Section, after_init: tuple[str, ...]) -> int | None:
        flags = section.flags
        if not flags & elf.ALLOC or section.name in _NOT_KEPT or section.name.startswith(".init"):
            return None
        if flags & elf.EXECUTE:
            return TEXT
        if not flags & elf.WRITE and section.name not in after_init:
            return RODATA
        return AFTER_INIT if section.name in after_init else DATA

    def exports(self) -> Iterator[tuple[str, int]]:
        """Yield name and address of each global symbol of a section that was placed."""
        for symbol in self._symbols:
            if symbol.is_global and symbol.section in self.addresses:
                yield symbol.name, self.addresses[symbol.section] + symbol.value

    def trampolines(self) -> frozenset[int]:
        """Return where the trampolines of the module's own static calls are."""
        return frozenset(
            self.addresses[symbol.section] + symbol.value
            for symbol in self._symbols
            if symbol.name.startswith("__SCT__") and symbol.section in self.addresses
        )

    def image(self, resolve: Callable[[str], int | None]) -> Image:
        """Return the module, relocated; ``resolve`` knows the addresses of what it takes from others."""
        pieces: list[tuple[int, bytes]] = []
        unknown: set[int] = set()
        values = self._values(resolve)
        for number, address in self.addresses.items():
            section = self._elf.sections[number]
            # The compiler's data for unwinding and the like is of no use here, and long to relocate.
            if section.kind == elf.NOBITS or section.name.startswith((".orc", "__bug", "__ksymtab", "__dyndbg")):
                continue
            data = bytearray(self._elf.content(section))
            self._relocate(section, address, data, values, unknown)
            pieces.append((address, bytes(data)))
        by_address = dict(pieces)
        text = [
            Span(self.addresses[s.number], self.addresses[s.number] + s.size, s.name)
            for s in self._elf.sections
            if s.flags & elf.EXECUTE and s.number in self.addresses and s.size
        ]
        tables = {
            s.name: Table(self.addresses[s.number], by_address[self.addresses[s.number]])
            for s in self._elf.sections
            if s.number in self.addresses and s.size and self.addresses[s.number] in by_address
        }
        image = Image(self.name, pieces, sorted(text), tables, self._names().at)
        image.unknown = unknown
        return image

    def _names(self) -> Names:
        return Names(
            (self.addresses[symbol.section] + symbol.value, symbol.name)
            for symbol in self._symbols
            if symbol.section in self.addresses
            and symbol.name
            and symbol.kind in (_FUNCTION, _NOTYPE, _OBJECT)
            and not symbol.name.startswith((".L", "__UNIQUE_ID", "__pfx_"))
        )

    def _values(self, resolve: Callable[[str], int | None]) -> list[int | None]:
        found: list[int | None] = []
        for symbol in self._symbols:
            if symbol.section == elf.UNDEFINED:
                found.append(resolve(symbol.name) if symbol.name else 0)
            elif symbol.section == elf.ABSOLUTE:
                found.append(symbol.value)
            else:
                base = self.addresses.get(symbol.section)
                found.append(None if base is None else base + symbol.value)
        return found

    def _relocate(
        self, section: elf.Section, address: int, data: bytearray, values: list[int | None], unknown: set[int]
    ) -> None:
        for offset, kind, number, addend in self._elf.relocations(section):
            width = _WIDTH.get(kind)
            if kind == _NONE:
                continue
            if width is None or number >= len(values) or offset + width > len(data):
                raise GuestError(f"the module has a relocation of an unknown kind or place ({kind})")
            value = values[number]
            if value is None:
                unknown.update(range(address + offset, address + offset + width))
                continue
            value += addend
            if kind in _RELATIVE:
                value -= address + offset
            struct.pack_into("<Q" if width == 8 else "<I", data, offset, value & (_MASK64 >> (64 - 8 * width)))
