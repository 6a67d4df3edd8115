# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``xl save`` writes: xl's header, libxl's records, and in them libxc's stream of pages, version 2 and 3.

Layouts: Xen's docs/specs/libxc-migration-stream.pandoc and libxl-migration-stream.pandoc, and tools/xl/xl.h.
"""

from __future__ import annotations

import array
from typing import Final

from drakmet.errors import UsageError
from drakmet.guest.memory import PAGE_SHIFT, PAGE_SIZE
from drakmet.sources.images.layout import File, Layout, Region, page_runs

MAGICS: Final = (b"Xen saved domain, xl format\n", b"\xff" * 8 + b"XENF", b"LibxlFmt")
_XL_MAGIC_SIZE: Final = 32
_XL_STREAM_V2: Final = 2  # XL_MANDATORY_FLAG_STREAMv2
_LIBXL_CONTEXT, _LIBXL_END = 1, 0  # REC_TYPE_LIBXC_CONTEXT, REC_TYPE_END
_HVM: Final = 2  # DHDR_TYPE_X86_HVM
_END, _PAGES = 0, 1  # REC_TYPE_END, REC_TYPE_PAGE_DATA
_BIG_ENDIAN: Final = 1
_FRAME: Final = (1 << 52) - 1
_NO_DATA: Final = (0xD, 0xE, 0xF)  # broken, allocated only, invalid
_MOST_PAGES: Final = 1 << 20
_MOST_RECORDS: Final = 1 << 26


def layout(file: File) -> Layout:
    """Return where memory lies in a saved guest; `UsageError` for a stream of another kind."""
    at = 0
    if file.data[: len(MAGICS[0])] == MAGICS[0]:
        _, flags, _, length = file.unpack("<IIII", _XL_MAGIC_SIZE)
        if not flags & _XL_STREAM_V2:
            raise UsageError("the guest was saved by a Xen older than 4.6", where=file.where)
        at = _XL_MAGIC_SIZE + 16 + length
    if file.bytes(at, 8) == MAGICS[2]:
        at = _libxc(file, at)
    return _stream(file, at)


def _libxc(file: File, at: int) -> int:
    """Return where libxc's stream begins in libxl's."""
    at += 16  # ident, version, options
    for _ in range(64):
        kind, length = file.unpack("<II", at)
        at += 8
        if kind == _LIBXL_CONTEXT:
            return at
        if kind == _LIBXL_END:
            break
        at += length + 7 & ~7
    raise file.damaged("libxl's records hold no memory")


def _stream(file: File, at: int) -> Layout:
    marker, ident, version, options, _, _ = file.unpack(">QIIHHI", at)
    if marker != (1 << 64) - 1 or ident != int.from_bytes(b"XENF") or version not in (2, 3):
        raise file.damaged("it holds no stream of libxc's that is known")
    if options & _BIG_ENDIAN:
        raise UsageError("the guest was saved on a big-endian machine", where=file.where)
    kind, page_shift, _, _, _ = file.unpack("<IHHII", at + 24)
    if kind != _HVM or page_shift != PAGE_SHIFT:
        raise UsageError(
            "the guest is no PVH or HVM guest of x86; it cannot be read",
            where=file.where,
            hint='type="pvh" in the domain\'s configuration' if kind == 1 else None,
        )
    at += 40
    regions: list[Region] = []
    problems: list[str] = []
    for _ in range(_MOST_RECORDS):
        if at + 8 > file.size:
            problems.append("the image is cut short: its stream has no end")
            break
        kind, length = file.unpack("<II", at)
        if kind == _END:
            break
        if kind == _PAGES:
            regions += _page_data(file, at + 8, length)
        at += 8 + (length + 7 & ~7)
    return Layout("Xen save file", regions, problems)


def _page_data(file: File, at: int, length: int) -> list[Region]:
    (count,) = file.unpack("<I4x", at)
    if count > _MOST_PAGES or 8 + 8 * count > length:
        raise file.damaged(f"a record of {count} pages in {length} bytes")
    there = min(count, max(0, file.size - at - 8) // 8)
    numbers = array.array("Q", file.bytes(at + 8, there * 8))
    frames = [number & _FRAME for number in numbers if number >> 60 not in _NO_DATA]
    start = at + 8 + 8 * count
    if start + len(frames) * PAGE_SIZE > at + length:
        raise file.damaged("a record that is too short for its pages")
    return list(page_runs(frames, start))
