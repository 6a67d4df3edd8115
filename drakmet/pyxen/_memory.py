# SPDX-License-Identifier: GPL-2.0-or-later
"""Address ranges that never fault: reserved as zeros, with foreign frames mapped over them."""

from __future__ import annotations

import errno
import mmap
from typing import Any

from drakmet.pyxen._lib import libraries
from drakmet.pyxen.failures import XenCallError
from drakmet.pyxen.layout import PAGE_SIZE

MAP_FIXED = 0x10  # asm-generic/mman-common.h, as on x86
MAP_NORESERVE = 0x4000
_PLAIN = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE


def reserve(length: int) -> tuple[mmap.mmap, int]:
    """Return ``length`` bytes of zeros that take no memory, and their address.

    Python's own mmap object keeps the range alive as long as anybody has a view of it.
    """
    area = mmap.mmap(-1, length, flags=_PLAIN, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    ffi = libraries().ffi
    with memoryview(area) as view:
        address = int(ffi.cast("uintptr_t", ffi.from_buffer(view)))
    return area, address


def blank(address: int, length: int, *, writable: bool = False) -> None:
    """Put zeros in the place of whatever is mapped there."""
    shared = libraries()
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    where = shared.ffi.cast("void *", address)
    result = shared.libc.mmap(where, length, protection, _PLAIN | MAP_FIXED, -1, 0)
    if int(shared.ffi.cast("intptr_t", result)) == -1:
        raise XenCallError("mmap", shared.ffi.errno)


def _map(foreign: Any, domid: int, address: int, gfns: list[int], protection: int) -> list[int]:
    """Map frames at ``address``; return one errno for each, 0 where it worked. Those that failed fault when read!"""
    shared = libraries()
    ffi = shared.ffi
    errors = ffi.new("int[]", len(gfns))
    mapped = shared.foreignmemory.xenforeignmemory_map2(
        foreign,
        domid,
        ffi.cast("void *", address),
        protection,
        MAP_FIXED,
        len(gfns),
        ffi.new("xen_pfn_t[]", gfns),
        errors,
    )
    if mapped == ffi.NULL:
        number = ffi.errno
        blank(address, len(gfns) * PAGE_SIZE)  # the library has unmapped the range: take it back
        raise XenCallError("xenforeignmemory_map2", number, domain=domid)
    return [-number for number in ffi.unpack(errors, len(gfns))]


def map_frames(foreign: Any, domid: int, address: int, gfns: list[int], *, writable: bool) -> list[int]:
    """Map frames of a domain one behind the other at ``address``; return one errno for each, 0 where it worked.

    Frames that are not there leave zeros. The kernel does not let a part of a foreign mapping be replaced, only all
    of it; so where frames are missing the mapping is made again, in runs without any.
    """
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    found = _map(foreign, domid, address, gfns, protection)
    if not any(found):
        return found
    blank(address, len(gfns) * PAGE_SIZE)
    start = 0
    while start < len(gfns):
        if found[start]:
            start += 1
            continue
        end = start
        while end < len(gfns) and not found[end]:
            end += 1
        at = address + start * PAGE_SIZE
        again = _map(foreign, domid, at, gfns[start:end], protection)
        if any(again):  # the guest gave one up between the two
            blank(at, (end - start) * PAGE_SIZE)
            found[start:end] = [number or errno.EAGAIN for number in again]
        start = end
    return found
