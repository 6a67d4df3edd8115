# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel's file as a reference: its text where KASLR put it, its patch tables, its exports, its types."""

from __future__ import annotations

import struct
from functools import cached_property
from typing import TYPE_CHECKING, Final

from drakmet.errors import GuestError
from drakmet.guest import kernel, vmlinux
from drakmet.guest.kerneltext import elf, relocs
from drakmet.guest.kerneltext.image import Image, Span, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.guest.profile import Profile
    from drakmet.guest.symbols import Symbols

_TABLES: Final = (
    ".altinstructions", ".altinstr_replacement", ".altinstr_aux", ".retpoline_sites", ".return_sites", ".call_sites",
    ".ibt_endbr_seal", ".parainstructions", ".smp_locks",
)  # fmt: skip
_BY_SYMBOLS: Final = {
    "__mcount_loc": ("__start_mcount_loc", "__stop_mcount_loc"),
    "__jump_table": ("__start___jump_table", "__stop___jump_table"),
    ".static_call_sites": ("__start_static_call_sites", "__stop_static_call_sites"),
}
_KEPT: Final = (*_TABLES, ".text", ".rodata", ".data", ".init.data", ".init.text", "__ksymtab", "__ksymtab_gpl",
                "__ksymtab_strings")  # fmt: skip
_U64: Final = (1 << 64) - 1
_KSYMTAB: Final = struct.Struct("<iii")  # include/linux/export-internal.h: struct kernel_symbol, relative


class Reference:
    """One kernel's file: an ELF vmlinux, or the payload of a bzImage. `GuestError` if it cannot be used."""

    def __init__(self, payload: bytes, profile: Profile | None = None) -> None:
        self._elf = elf.Elf(payload)
        self._relocs = relocs.read(payload)
        self.profile = profile or _profile(payload)
        if ".text" not in self._elf.named or not self.symbols.get("_text"):
            raise GuestError("the kernel's file has no section .text")

    @property
    def build_id(self) -> str:
        """The kernel's build id in hex."""
        return self.profile.build_id

    @property
    def symbols(self) -> Symbols:
        """The file's own symbols, at their link-time addresses."""
        return self.profile.symbols

    def image(self, slide: int) -> Image:
        """Return the kernel moved by ``slide``; `GuestError` if the file does not say what that changes."""
        relocs.check(slide)
        if slide and self._relocs is None:
            raise GuestError("the file says nothing of relocations, and the kernel was moved by KASLR")
        pieces: list[tuple[int, bytes]] = []
        by_name: dict[str, Table] = {}
        constants = tuple(name for name in self._elf.named if name.startswith("runtime_"))
        for name in (*_KEPT, *constants):
            section = self._elf.named.get(name)
            if section is None or section.kind == elf.NOBITS or not section.address:
                continue
            data = bytearray(self._elf.content(section))
            if slide and self._relocs is not None:
                relocs.apply(self._relocs, slide, section.address, data)
            pieces.append((section.address + slide, bytes(data)))
            by_name[name] = Table(section.address + slide, bytes(data))
        text = by_name[".text"]
        span = Span(text.address, text.address + len(text.data), ".text")
        image = Image(None, pieces, [span], {}, self._namer(slide))
        image.tables = {name: by_name[name] for name in (*_TABLES, *constants) if name in by_name}
        for name, (first, last) in _BY_SYMBOLS.items():
            start, stop = self.symbols.get(first), self.symbols.get(last)
            if start is not None and stop is not None and start < stop:
                image.tables[name] = Table(start + slide, image.read(start + slide, stop - start))
        return image

    def _namer(self, slide: int):  # type: ignore[no-untyped-def]
        def at(address: int) -> tuple[str, int] | None:
            found = self.symbols.at(address - slide)
            if found is None:
                return None
            name, offset = found
            names = [one for one in self.symbols.names_at(address - slide - offset) if not one.startswith("__pfx_")]
            return (names[0] if names else name), offset

        return at

    @cached_property
    def exported(self) -> dict[str, int]:
        """The link-time addresses of what modules may use, by name."""
        return dict(self._exports())

    def _exports(self) -> Iterator[tuple[str, int]]:
        strings = self._elf.named.get("__ksymtab_strings")
        if strings is None:
            return
        texts = self._elf.content(strings)
        for name in ("__ksymtab", "__ksymtab_gpl"):
            section = self._elf.named.get(name)
            if section is None:
                continue
            data = self._elf.content(section)
            for at in range(0, len(data) // _KSYMTAB.size * _KSYMTAB.size, _KSYMTAB.size):
                value, text, _ = _KSYMTAB.unpack_from(data, at)
                start = section.address + at + 4 + text - strings.address
                end = texts.find(b"\0", start) if 0 <= start < len(texts) else -1
                if end >= 0:
                    yield texts[start:end].decode("utf-8", "surrogateescape"), section.address + at + value & _U64


def _profile(payload: bytes) -> Profile:
    memory = vmlinux.Segments(payload)
    for table in kernel.tables(memory):
        for base, profile in kernel.profiles_at(memory, table):
            symbols = profile.symbols
            start, stop = symbols.get("__start_notes"), symbols.get("__stop_notes")
            if start is not None and stop is not None and 0 < stop - start <= 4096:
                profile.build_id = kernel.note_build_id(memory.read(base + start - symbols["_text"], stop - start))
            return profile
    raise GuestError("the file holds no kernel with kallsyms and BTF")
