# SPDX-License-Identifier: GPL-2.0-or-later
"""LiME's format: ranges of physical memory, each behind a header of 32 bytes (LiME, doc/README.md)."""

from __future__ import annotations

from typing import Final

from drakmet.sources.images.layout import File, Layout, Region

MAGIC: Final = b"EMiL"
_NUMBER: Final = int.from_bytes(MAGIC, "little")
_HEADER, _HEADER_SIZE, _VERSION = "<IIQQ8x", 32, 1
_MOST_RANGES: Final = 1 << 16


def layout(file: File) -> Layout:
    """Return where memory lies in a LiME file; `UsageError` where a header is not one."""
    regions: list[Region] = []
    problems: list[str] = []
    at = 0
    while at < file.size:
        if at + _HEADER_SIZE > file.size:
            problems.append("the image is cut short in a header")
            break
        magic, version, first, last = file.unpack(_HEADER, at)
        if magic != _NUMBER or version != _VERSION or last < first or len(regions) >= _MOST_RANGES:
            if not regions:
                raise file.damaged(f"no LiME header at {at:#x}")
            problems.append(f"what follows {at:#x} is no LiME header, and is left out")
            break
        at += _HEADER_SIZE
        regions.append((first, at, last - first + 1))
        at += last - first + 1
    return Layout("LiME", regions, problems)
