# SPDX-License-Identifier: GPL-2.0-or-later
"""Address ranges that never fault: reserved as zeros, with foreign frames mapped over them."""

from __future__ import annotations

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


def map_frames(foreign: Any, domid: int, address: int, gfns: Any, count: int, *, writable: bool) -> list[int]:
    """Map ``count`` frames of a domain at ``address``; return one errno for each, 0 where it worked.

    Frames that are not there leave zeros.
    """
    shared = libraries()
    ffi = shared.ffi
    errors = ffi.new("int[]", count)
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    where = ffi.cast("void *", address)
    mapped = shared.foreignmemory.xenforeignmemory_map2(
        foreign, domid, where, protection, MAP_FIXED, count, gfns, errors
    )
    if mapped == ffi.NULL:
        number = ffi.errno
        blank(address, count * PAGE_SIZE)  # the library has unmapped the range: take it back
        raise XenCallError("xenforeignmemory_map2", number, domain=domid)
    found = [-number for number in ffi.unpack(errors, count)]
    start = None
    for index, number in enumerate([*found, 0]):
        if number and start is None:
            start = index
        elif not number and start is not None:
            blank(address + start * PAGE_SIZE, (index - start) * PAGE_SIZE)
            start = None
    return found
