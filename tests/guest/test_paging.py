# SPDX-License-Identifier: GPL-2.0-or-later
"""Page walks over tables that are built here, sound and hostile."""

from __future__ import annotations

import contextlib
import struct
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drakmet.guest.memory import PAGE_SIZE, SparseMemory, Unreadable
from drakmet.guest.paging import AddressSpace, KernelSpace

NX, LARGE, USER, PRESENT = 1 << 63, 1 << 7, 4, 1


class Tables:
    """Builds page tables from guest-physical 0x1000 on."""

    def __init__(self, levels: int) -> None:
        self.levels = levels
        self.pages: dict[int, bytearray] = {1: bytearray(PAGE_SIZE)}
        self.next = 2

    def map(self, address: int, gpa: int, shift: int = 12) -> None:
        table, at = 1, 39 if self.levels == 4 else 48
        while at > shift:
            index = (address >> at & 511) * 8
            entry = struct.unpack_from("<Q", self.pages[table], index)[0]
            if not entry & PRESENT:
                self.pages[self.next] = bytearray(PAGE_SIZE)
                entry = self.next << 12 | NX | USER | PRESENT  # PTI sets NX in the upper half of user tables
                self.next += 1
                struct.pack_into("<Q", self.pages[table], index, entry)
            table = (entry & ~NX) >> 12
            at -= 9
        flags = PRESENT | (LARGE if shift > 12 else 0)
        struct.pack_into("<Q", self.pages[table], (address >> shift & 511) * 8, gpa | flags)

    def space(self, extra: dict[int, bytes] | None = None, pcid: int = 0) -> AddressSpace:
        pages = {gfn: bytes(page) for gfn, page in self.pages.items()} | (extra or {})
        return AddressSpace(SparseMemory(pages, 1 << 40), 0x1000 | pcid, self.levels)


@pytest.mark.parametrize("levels", [4, 5])
@given(address=st.integers(0, (1 << 46) - 1), shift=st.sampled_from([12, 21, 30]), upper=st.booleans())
def test_pages_of_all_sizes_are_walked(levels: int, address: int, shift: int, *, upper: bool) -> None:
    if upper:
        address |= 0xFFFF_8000_0000_0000
    tables = Tables(levels)
    base = 0x12_4000_0000
    tables.map(address >> shift << shift, base, shift)
    space = tables.space(pcid=0xABC)
    gpa, room = space.walk(address)
    assert gpa == base + (address & (1 << shift) - 1)
    assert room == (1 << shift) - (address & (1 << shift) - 1)
    with pytest.raises(Unreadable, match="not mapped"):
        space.walk(address ^ 1 << 46)


@pytest.mark.parametrize("address", [1 << 47, 1 << 62, 0xFFFF_0000_0000_0000, -1, 1 << 64])
def test_addresses_the_cpu_does_not_take_are_refused(address: int) -> None:
    with pytest.raises(Unreadable, match="no address"):
        Tables(4).space().walk(address)


def test_what_crosses_pages_is_read_from_each() -> None:
    tables = Tables(4)
    tables.map(0x4000, 0x50_0000)
    tables.map(0x5000, 0x30_0000)
    space = tables.space({0x500: b"a" * 4096, 0x300: b"b" * 4090 + b"\0" * 6})
    assert space.read(0x4FFE, 4) == b"aabb"
    assert space.read_u64(0x4FFC) == int.from_bytes(b"aaaabbbb", "little")
    assert space.read_cstring(0x4FFD) == b"aaa" + b"b" * 4090
    assert space.read_cstring(0x4FFD, 5) == b"aaabb"
    with pytest.raises(Unreadable):
        space.read(0x5FFE, 4)
    assert space.read_cstring(0x5FFA) == b"", "what follows the end of a string need not be there"


def test_a_table_that_changes_is_read_as_it_is_now() -> None:
    tables = Tables(4)
    tables.map(0x4000, 0x50_0000)
    pages = {gfn: bytes(page) for gfn, page in tables.pages.items()}
    memory = SparseMemory(pages, 1 << 40)
    space = AddressSpace(memory, 0x1000)
    assert space.translate(0x4000) == 0x50_0000
    tables.map(0x4000, 0x60_0000)
    pages.update({gfn: bytes(page) for gfn, page in tables.pages.items()})
    assert space.translate(0x4000) == 0x60_0000


@given(st.integers(0, 1 << 32), st.integers(0, (1 << 64) - 1), st.sampled_from([4, 5]))
def test_hostile_tables_end(seed: int, address: int, levels: int) -> None:
    page = Random(seed).randbytes(PAGE_SIZE)  # noqa: S311  # a test's
    # Every entry points back at one table, of itself or at nothing.
    looped = bytes(page[i] if i % 8 in (0, 6, 7) else (0x10 if i % 8 == 1 else 0) for i in range(PAGE_SIZE))
    space = AddressSpace(SparseMemory({1: looped}), 0x1000, levels)
    with contextlib.suppress(Unreadable):
        assert space.walk(address)[1] > 0


def test_the_direct_map_and_the_image_need_no_tables() -> None:
    memory = SparseMemory({2: b"x" * 4096, 7: b"y" * 4096})
    image = (0xFFFF_FFFF_8100_0000, 0xFFFF_FFFF_8100_1000, 0x7000)
    space = KernelSpace(memory, 0, 4, 0xFFFF_8880_0000_0000, image)
    assert space.read(0xFFFF_8880_0000_2010, 2) == b"xx"
    assert space.read(0xFFFF_FFFF_8100_0FFE, 2) == b"yy"
    assert space.translate(0xFFFF_FFFF_8100_0008) == 0x7008
    assert space.read_u64(0xFFFF_8880_0000_2000) == int.from_bytes(b"x" * 8, "little")
    for address in (0xFFFF_8880_0000_8000, 0xFFFF_8880_0000_1000, 0xFFFF_FFFF_8100_1000):
        with pytest.raises(Unreadable):
            space.read(address, 8)
