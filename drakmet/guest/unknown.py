# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a memory shows no Linux kernel that can be read: what else is in it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from drakmet.errors import GuestError
from drakmet.guest.memory import PAGE_SIZE, extents, read_lenient

if TYPE_CHECKING:
    from drakmet.guest.memory import PhysicalMemory

_CHUNK: Final = 16 << 20
_OVERLAP: Final = 512
_MOST: Final = 64 << 30
_SAMPLES: Final = 512
_EMPTY_SHARE: Final = 0.999
_DISTINCT: Final = 200
"""Of 4096 random bytes all 256 values are expected; of code, text and tables far fewer."""

_BANNER = re.compile(rb"Linux version (\d+\.\d+[\w.+~-]{0,60}) \(")
_WINDOWS = (b"ntkrnlmp.pdb", b"ntkrpamp.pdb", b"ntoskrnl.pdb", b"\\SystemRoot\\System32\\ntoskrnl.exe")
_BSD = re.compile(rb"@\(#\)(FreeBSD|NetBSD|OpenBSD) [\d.]+")


def explained(memory: PhysicalMemory, error: GuestError, where: str) -> GuestError:
    """Return the error of a search for a kernel, in the words of what the memory holds instead."""
    return GuestError(reason(memory, error.what) or error.what, where=where, hint=error.hint)


def reason(memory: PhysicalMemory, failure: str = "") -> str | None:
    """Return in a sentence what the memory holds instead of a kernel that can be read; None if nothing tells.

    ``failure`` is what the search for a kernel said.
    """
    read = 0
    banner: str | None = None
    for start, length in extents(memory):
        for at in range(start, start + length, _CHUNK):
            if read >= _MOST:
                break
            size = min(_CHUNK + _OVERLAP, start + length - at)
            data = read_lenient(memory, at, size)
            read += size
            if any(mark in data for mark in _WINDOWS):
                return "a Windows guest: only Linux can be read"
            if found := _BSD.search(data):
                return f"a {found[1].decode()} guest: only Linux can be read"
            if banner is None and (linux := _BANNER.search(data)):
                banner = linux[1].decode()
    if banner is not None:
        return _linux(banner, failure)
    return _without_text(memory)


def _linux(release: str, failure: str) -> str:
    if re.search(r"(?:^|[-.+])(?:i[3-6]86|686|pae)\b|-686", release):
        return f"a 32-bit Linux guest ({release}): only 64-bit ones can be read"
    if "_BTF" in failure:
        return f"Linux {release} has no BTF (CONFIG_DEBUG_INFO_BTF is off), so its types are not known"
    return (
        f"Linux {release} was found, but not its symbols or types: it is 32-bit, or has no kallsyms or no BTF "
        "(CONFIG_DEBUG_INFO_BTF), or was still being booted"
    )


def _without_text(memory: PhysicalMemory) -> str | None:
    pages = [at for start, length in extents(memory) for at in (start, start + length // 2 & ~(PAGE_SIZE - 1))]
    size = memory.size // PAGE_SIZE
    pages += [number * size // _SAMPLES * PAGE_SIZE for number in range(_SAMPLES)]
    data = [page for page in (read_lenient(memory, at, PAGE_SIZE) for at in pages[: 2 * _SAMPLES]) if any(page)]
    if not data:
        return "the memory is empty: no guest ran in it"
    dense = sum(len(set(page)) >= _DISTINCT for page in data)
    if len(data) >= _SAMPLES // 8 and dense / len(data) > 0.9:
        return "the memory looks encrypted: its pages are random, and no text is in them"
    return None
