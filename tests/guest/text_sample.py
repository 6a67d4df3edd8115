# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages of real kernels' text, and what their files say of them: tests/data/text-*, made by tests/make_kernel_text.py.

A sample holds some pages of a guest in which ftrace and kprobes were at work, the pages of the file that belong to them
with the entries of its patch tables, and one small module with its whole file.
"""

from __future__ import annotations

import gzip
import json
import struct
from base64 import b64decode, b64encode
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drakmet.guest import isf
from drakmet.guest.kernel import Kernel
from drakmet.guest.kerneltext.guest import GuestText
from drakmet.guest.kerneltext.image import Image, Span, Table
from drakmet.guest.memory import SparseMemory
from drakmet.guest.modules import Module
from drakmet.guest.profile import Profile

if TYPE_CHECKING:
    from drakmet.guest.kerneltext.tables import Tables
    from drakmet.guest.memory import PhysicalMemory
    from drakmet.guest.types import Types

DATA = Path(__file__).parent.parent / "data"
NAMES = ("5.10", "6.1", "6.12")
_TABLES = 0xFFFF_FFFF_9000_0000
_RELATIVE = {".return_sites": "returns", ".retpoline_sites": "retpolines", ".ibt_endbr_seal": "seals",
             ".smp_locks": "locks"}  # fmt: skip


def encode(tables: Tables, types: Types, keep: Any) -> dict[str, bytes]:
    """Return tables in the form that they have in a file, of the entries whose addresses are to be kept."""
    found: dict[str, bytes] = {}

    def base(number: int) -> int:
        return _TABLES + (number << 16)

    for number, (name, field) in enumerate(_RELATIVE.items()):
        kept = sorted(filter(keep, getattr(tables, field)))
        found[name] = b"".join(struct.pack("<i", a - base(number) - 4 * i) for i, a in enumerate(kept))
    kept = sorted(filter(keep, tables.static_calls))
    found[".static_call_sites"] = b"".join(struct.pack("<ii", a - base(4) - 8 * i, 0) for i, a in enumerate(kept))
    found["__mcount_loc"] = b"".join(struct.pack("<Q", a) for a in sorted(filter(keep, tables.mcount)))
    jumps = sorted(item for item in tables.jumps.items() if keep(item[0]))
    found["__jump_table"] = b"".join(
        struct.pack("<iiq", code - base(6) - 16 * i, to - base(6) - 16 * i - 4, 0) for i, (code, to) in enumerate(jumps)
    )
    probes = sorted(item for item in tables.paravirt.items() if keep(item[0]))
    found[".parainstructions"] = b"".join(struct.pack("<QBB6x", address, 0, length) for address, length in probes)
    entries = [one for group in tables.groups for one in group.entries if keep(one.address)]
    size = types.size("alt_instr")
    packed = bytearray(size * len(entries))
    for i, one in enumerate(entries):
        at = i * size
        for field, to in (("instr_offset", one.address), ("repl_offset", one.replacement)):
            where = at + types.offset("alt_instr", field)
            struct.pack_into("<i", packed, where, to - base(8) - where)
        packed[at + types.offset("alt_instr", "instrlen")] = one.length
        packed[at + types.offset("alt_instr", "replacementlen")] = one.replacement_length
        if one.direct_call:
            packed[at + types.offset("alt_instr", "flags")] = 2
    found[".altinstructions"] = bytes(packed)
    for number, (variable, width) in enumerate((("shift_d_hash_shift", 1), ("ptr_dentry_hashtable", 8),
                                                ("ptr_USER_PTR_MAX", 8)), 9):  # fmt: skip
        places = sorted(
            a for a, (w, n) in tables.constants.items() if keep(a) and w == width and variable.endswith("_" + n)
        )
        found[f"runtime_{variable}"] = b"".join(
            struct.pack("<i", a - base(number) - 4 * i) for i, a in enumerate(places)
        )
    return found


def tables_of(found: dict[str, bytes]) -> dict[str, Table]:
    """Return encoded tables where `encode` took them to be."""
    return {name: Table(_TABLES + (number << 16), data) for number, (name, data) in enumerate(found.items())}


class SampleImage(Image):
    """The image of a sample: of functions elsewhere it knows those that patched code leads to, by their names."""

    entries: dict[int, str]

    def is_text(self, address: int) -> bool:
        return address in self.entries or super().is_text(address)

    def is_entry(self, address: int) -> bool:
        return address in self.entries


class SampleReference:
    """What `GuestText` asks of a kernel's file, of a sample."""

    def __init__(self, profile: Profile, image: Image, exported: dict[str, int]) -> None:
        self.profile, self.symbols, self.build_id = profile, profile.symbols, profile.build_id
        self.exported = exported
        self._image = image

    def image(self, slide: int) -> Image:
        """Return the image; it was kept where it lay."""
        return self._image


class Sample:
    """One sample: ``memory`` of the guest, and all else that comparing takes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.memory = SparseMemory.load(DATA / f"text-{name}.pages")
        kept = json.loads(gzip.decompress((DATA / f"text-{name}.json.gz").read_bytes()))
        data = kept["profile"]
        self.profile = Profile(data["metadata"]["build_id"], isf.banner(data), isf.symbols(data), isf.IsfTypes(data))
        self.place = kept["base"], kept["slide"], kept["levels"]
        self._pieces = [(address, b64decode(text)) for address, text in kept["pieces"]]
        self.text = [Span(start, end, ".text") for start, end in kept["text"]]
        self._tables = {key: b64decode(text) for key, text in kept["tables"].items()}
        self._entries = dict(kept["entries"])
        self._exported = kept["exported"]
        self.module = Module(**kept["module"])
        self.module_file = b64decode(kept["file"])

    def kernel(self, memory: PhysicalMemory | None = None) -> Kernel:
        return Kernel(self.profile, memory or self.memory, *self.place)

    def guest_text(self, memory: PhysicalMemory | None = None) -> GuestText:
        """Return the comparison of the sample, or of a memory made of it."""
        kernel = self.kernel(memory)

        def symbol_at(address: int) -> tuple[str, int] | None:
            name = self._entries.get(address)
            return (name, 0) if name else self.profile.symbols.at(address - kernel.slide)

        image = SampleImage(None, self._pieces, self.text, tables_of(self._tables), symbol_at)
        image.entries = self._entries
        reference: Any = SampleReference(self.profile, image, self._exported)
        text = GuestText(kernel, reference, {self.module.name: self.module_file}.get)
        text.place([self.module])
        return text

    def changed(self, address: int, data: bytes) -> SparseMemory:
        """Return the guest's memory with bytes changed at a kernel address, within a page."""
        gpa = self.kernel().gpa(address)
        pages = dict(self.memory.pages)
        page, at = pages[gpa >> 12], gpa & 4095
        pages[gpa >> 12] = page[:at] + data + page[at + len(data) :]
        return SparseMemory(pages, self.memory.size)


@cache
def sample(name: str) -> Sample:
    return Sample(name)


def pack(data: bytes) -> str:
    return b64encode(data).decode()
