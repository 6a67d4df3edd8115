# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes a guest's pages in each format of memory images that drakmet reads."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = 4096
Pages = dict[int, bytes]


def runs(pages: Pages) -> Iterator[tuple[int, list[bytes]]]:
    """Yield ``(first gfn, pages)`` of each run."""
    first, found = -1, []
    for gfn in sorted(pages):
        if not found or gfn != first + len(found):
            if found:
                yield first, found
            first, found = gfn, []
        found.append(pages[gfn])
    if found:
        yield first, found


def raw(pages: Pages) -> bytes:
    """A flat file from address 0 on."""
    data = bytearray((max(pages) + 1) * PAGE)
    for gfn, page in pages.items():
        data[gfn * PAGE : (gfn + 1) * PAGE] = page
    return bytes(data)


def lime(pages: Pages) -> bytes:
    parts = []
    for first, found in runs(pages):
        start, size = first * PAGE, len(found) * PAGE
        parts += [struct.pack("<4sIQQ8x", b"EMiL", 1, start, start + size - 1), *found]
    return b"".join(parts)


def _elf(segments: int, sections_at: int = 0, sections: int = 0, names: int = 0) -> bytes:
    ident = b"\x7fELF\2\1\1" + bytes(9)
    return struct.pack(
        "<16sHHIQQQIHHHHHH", ident, 4, 62, 1, 0, 64, sections_at, 0, 64, 56, segments, 64, sections, names
    )


def elf_core(pages: Pages) -> bytes:
    """As QEMU's dump-guest-memory writes it: a note, then a segment a run."""
    parts = list(runs(pages))
    offset = 64 + 56 * (len(parts) + 1)
    table = [struct.pack("<IIQQQQQQ", 4, 0, offset, 0, 0, 0, 0, 0)]
    for first, found in parts:
        size = len(found) * PAGE
        table.append(struct.pack("<IIQQQQQQ", 1, 0, offset, 0, first * PAGE, size, size, 0))
        offset += size
    return _elf(len(parts) + 1) + b"".join(table) + b"".join(page for _, found in parts for page in found)


def xen_core(pages: Pages, frames: str = ".xen_pfn") -> bytes:
    """As xl dump-core writes it: sections of pages and of their numbers."""
    names = b"\0.shstrtab\0.xen_pages\0" + frames.encode() + b"\0"
    gfns = sorted(pages)
    sections = 4
    at = 64 + 64 * sections
    where = {".shstrtab": (at, len(names)), ".xen_pages": (at := at + len(names), len(gfns) * PAGE)}
    where[frames] = (at + len(gfns) * PAGE, len(gfns) * 8)
    table = bytes(64)
    for name, (start, size) in where.items():
        table += struct.pack("<IIQQQQIIQQ", names.index(name.encode()), 1, 0, 0, start, size, 0, 0, 0, 0)
    data = b"".join(pages[gfn] for gfn in gfns) + struct.pack(f"<{len(gfns)}Q", *gfns)
    return _elf(0, 64, sections, 1) + table + names + data


def xen_save(pages: Pages, *, xl: bool = True, kind: int = 2, batch: int = 7, stale: bool = True) -> bytes:
    """As xl save writes it, and with ``stale`` as of a guest that ran meanwhile: pages come twice."""
    head = b""
    if xl:
        config = b"config of the domain"
        head = b"Xen saved domain, xl format\n \0 \r" + struct.pack("<IIII", 0x01020304, 3, 0, len(config)) + config
        head += b"LibxlFmt" + struct.pack(">II", 2, 0) + struct.pack("<II", 1, 0)
    stream = struct.pack(">QIIHHI", (1 << 64) - 1, 0x58454E46, 3, 0, 0, 0) + struct.pack("<IHHII", kind, 12, 0, 4, 17)
    stream += record(0xF, bytes(5))
    gfns = sorted(pages)
    if stale:
        stream += page_data(dict.fromkeys(gfns[:9], b"\xee" * PAGE))
    for start in range(0, len(gfns), batch):
        stream += page_data({gfn: pages[gfn] for gfn in gfns[start : start + batch]}, gone=[start + 1 << 30])
    return head + stream + record(0, b"")


def page_data(pages: Pages, gone: list[int] | None = None) -> bytes:
    """A record of pages; ``gone`` are named as pages that have no data."""
    numbers = [*(0xF << 60 | gfn for gfn in gone or []), *pages]
    body = struct.pack(f"<II{len(numbers)}Q", len(numbers), 0, *numbers) + b"".join(pages.values())
    return record(1, body)


def record(kind: int, body: bytes) -> bytes:
    """A record of libxc's stream."""
    return struct.pack("<II", kind, len(body)) + body + bytes(-len(body) % 8)


FORMATS: dict[str, Callable[[Pages], bytes]] = {
    "raw": raw,
    "LiME": lime,
    "ELF core": elf_core,
    "Xen core": xen_core,
    "Xen save file": xen_save,
}
