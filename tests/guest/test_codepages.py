# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages of a process that are in memory, against walks of its tables one by one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drakmet.guest.codepages import pages
from drakmet.guest.memory import SparseMemory, Unreadable
from drakmet.guest.paging import AddressSpace
from drakmet.guest.regions import Region, Regions
from guest.images import NAMES, image


def walked(memory: SparseMemory, cr3: int, levels: int, region: Region) -> list[tuple[int, int, int]]:
    space, found = AddressSpace(memory, cr3, levels), []
    for address in range(region.start, region.end, 4096):
        try:
            found.append((address, space.translate(address), region.offset + address - region.start))
        except Unreadable:
            continue
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_region_of_every_process(name: str) -> None:
    guest, memory = image(name).guest, image(name).memory
    reader, seen = Regions(guest.kernel), 0
    for task in guest.tasks():
        mm = guest.task_reader.mm(task)
        if not mm:
            continue
        cr3 = guest.task_reader.cr3(mm)
        if cr3 >> 12 not in memory.pages:
            continue  # the sample has no more of it
        for region in reader.of(mm):
            found = list(pages(memory, cr3, guest.kernel.levels, region))
            assert [tuple(page) for page in found] == walked(memory, cr3, guest.kernel.levels, region)
            seen += len(found)
    assert seen > 5


@given(
    st.sets(st.tuples(st.integers(0, 511), st.integers(0, 511), st.booleans()), max_size=40),
    st.integers(0, 700),
    st.integers(1, 700),
)
@settings(max_examples=80, deadline=None)
def test_any_tables(entries: set[tuple[int, int, bool]], first: int, count: int) -> None:
    """Tables of one top entry: small pages, large pages, and tables that are not in memory."""
    tables: dict[int, list[int]] = {1: [0] * 512, 2: [0] * 512, 3: [0] * 512}
    tables[1][0] = 2 << 12 | 1
    tables[2][0] = 3 << 12 | 1
    for middle, low, large in entries:
        if large:
            tables[3][middle] = (middle + 16 << 21) | 1 << 7 | 1
        else:
            table = 10 + middle
            tables[3][middle] = table << 12 | 1
            if low % 7:
                tables.setdefault(table, [0] * 512)[low] = (low + 5000 << 12) | 1 | 1 << 63
    data = {gfn: b"".join(word.to_bytes(8, "little") for word in words) for gfn, words in tables.items()}
    memory = SparseMemory(data, 1 << 40)
    region = Region(first * 4096, (first + count) * 4096, 5, 1, 8192)
    assert [tuple(page) for page in pages(memory, 1 << 12, 4, region)] == walked(memory, 1 << 12, 4, region)
