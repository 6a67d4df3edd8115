# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF cores: QEMU's ``dump-guest-memory`` and Linux' vmcores by program headers, ``xl dump-core`` by sections."""

from __future__ import annotations

import array
from typing import Final

from drakmet.errors import UsageError
from drakmet.guest.memory import PAGE_SIZE
from drakmet.sources.images.layout import File, Layout, Region, page_runs

MAGIC: Final = b"\x7fELF"
# elf.h
_64_BIT, _LITTLE, _CORE, _X86_64 = 2, 1, 4, 62
_MACHINES: Final = {3: "32-bit x86", 40: "32-bit ARM", 183: "ARM64", 243: "RISC-V"}
_LOAD, _MORE_SEGMENTS = 1, 0xFFFF
_HEADER, _SEGMENT, _SECTION = "<QQHHIQQQIHHHHHH", "<IIQQQQQQ", "<IIQQQQIIQQ"
_MOST_SEGMENTS: Final = 1 << 20
_MOST_SECTIONS: Final = 1 << 10
_NO_FRAME: Final = (1 << 64) - 1  # a page that was gone when it was to be dumped (docs/misc/dump-core-format.txt)
_MOST_GFN: Final = 1 << 40


def layout(file: File) -> Layout:
    """Return where memory lies in an ELF core; `UsageError` for another kind of ELF file, or another machine's."""
    ident = file.bytes(0, 16)
    _, _, kind, machine, _, _, segments, sections, _, _, segment_size, count, section_size, section_count, names = (
        file.unpack(_HEADER, 0)
    )
    if machine in _MACHINES:
        raise UsageError(f"the image is of a {_MACHINES[machine]} guest; only 64-bit x86 can be read", where=file.where)
    if ident[4] != _64_BIT or ident[5] != _LITTLE or machine != _X86_64:
        raise UsageError("the ELF file is not of a 64-bit x86 guest", where=file.where)
    if kind != _CORE:
        raise UsageError("an ELF file that is no memory image: it is no core", where=file.where)
    if section_count and section_size >= 64:
        found = _sections(file, sections, min(section_count, _MOST_SECTIONS), section_size, names)
        if ".xen_pages" in found:
            return _xen(file, found)
    if count == _MORE_SEGMENTS and section_size >= 64:
        count = file.unpack(_SECTION, sections)[7]  # sh_info of the first section
    if segment_size < 56 or count > _MOST_SEGMENTS:
        raise file.damaged(f"{count} segments of {segment_size} bytes")
    regions: list[Region] = []
    for index in range(count):
        part, _, offset, _, physical, size, _, _ = file.unpack(_SEGMENT, segments + index * segment_size)
        if part == _LOAD and size:
            regions.append((physical, offset, size))
    return Layout("ELF core", regions)


def _sections(file: File, start: int, count: int, size: int, names: int) -> dict[str, tuple[int, int]]:
    """Return offset and size of each section by its name."""
    rows = [file.unpack(_SECTION, start + index * size) for index in range(count)]
    if names >= len(rows):
        return {}
    table, length = rows[names][4], min(rows[names][5], 1 << 16)
    text = file.bytes(table, min(length, max(0, file.size - table)))
    found = {}
    for row in rows:
        name = text[row[0] : row[0] + 32].partition(b"\0")[0].decode("ascii", "replace")
        found[name] = row[4], row[5]
    return found


def _xen(file: File, sections: dict[str, tuple[int, int]]) -> Layout:
    if ".xen_pfn" not in sections:
        raise UsageError(
            "the core is of a PV guest, whose page tables hold the host's frame numbers; it cannot be read",
            where=file.where,
            hint='only PVH and HVM guests can: type="pvh" in the domain\'s configuration',
        )
    pages, size = sections[".xen_pages"]
    offset, length = sections[".xen_pfn"]
    count = min(length // 8, size // PAGE_SIZE)
    frames = array.array("Q", file.bytes(offset, count * 8))
    regions = [one for one in page_runs(_checked(file, frames), pages) if one[0] >= 0]
    return Layout("Xen core", regions)


def _checked(file: File, frames: array.array[int]) -> list[int]:
    checked = [gfn if gfn != _NO_FRAME else -2 for gfn in frames]
    if checked and max(checked) >= _MOST_GFN:
        raise file.damaged(f"a frame number of {max(checked):#x}")
    return checked
