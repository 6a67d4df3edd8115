# SPDX-License-Identifier: GPL-2.0-or-later
"""Code is named by its pages: put into the memory of real guests, in page tables as they would have them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from guest.images import NAMES, image
from identity.tiny import build

from drakmet.guest.linux import LinuxGuest
from drakmet.guest.memory import SparseMemory
from drakmet.guest.regions import VM_EXEC, Region, Regions
from drakmet.identity import Verdict, page_hash
from drakmet.identity.listed import Listed
from drakmet.naming import Application
from drakmet.records import Process
from drakmet.scan import scan
from drakmet.scan.applications import Applications
from drakmet.scan.records import ListedCode
from scan.sample import Rows, Source, kernel_in

if TYPE_CHECKING:
    from pathlib import Path

PRESENT = 0x67
SAME, SECOND, STRANGE = (text.ljust(4096, b"\x90") for text in (b"same", b"2", b"inline hook"))


class Placed:
    """A sample guest in which the code of process 1 is in memory: pages from the second one of its file on."""

    def __init__(self, name: str, *code: bytes) -> None:
        self.memory = SparseMemory(dict(image(name).memory.pages), image(name).memory.size)
        self.kernel = kernel_in(name, self.memory)
        guest = LinuxGuest(self.kernel)
        task = next(task for task in guest.tasks() if guest.process(task).pid == 1)
        mm = guest.task_reader.mm(task)
        self.cr3 = guest.task_reader.cr3(mm)
        region = next(r for r in Regions(self.kernel).of(mm) if r.flags & VM_EXEC and r.file)
        for number, page in enumerate(code, 1):
            self._map(region, number, page)

    def _map(self, region: Region, number: int, page: bytes) -> None:
        address = region.start + number * 4096 - region.offset
        table = self.cr3 >> 12
        for shift in range(39 if self.kernel.levels == 4 else 48, 12, -9):
            table = self._below(table, address >> shift & 511)
        self._set(table, address >> 12 & 511, self._new(page))

    def _below(self, table: int, index: int) -> int:
        entry = struct.unpack_from("<Q", self.memory.pages[table], 8 * index)[0]
        if entry & 1 and entry >> 12 & (1 << 40) - 1 in self.memory.pages:
            return int(entry >> 12 & (1 << 40) - 1)
        fresh = self._new(bytes(4096))
        self._set(table, index, fresh)
        return fresh

    def _set(self, table: int, index: int, gfn: int) -> None:
        page = bytearray(self.memory.pages[table])
        struct.pack_into("<Q", page, 8 * index, gfn << 12 | PRESENT)
        self.memory.pages[table] = bytes(page)

    def _new(self, page: bytes) -> int:
        gfn = next(gfn for gfn in range(16, self.memory.size >> 12) if gfn not in self.memory.pages)
        self.memory.pages[gfn] = page
        return gfn

    def applications(self, folder: Path, *, moves: bool = False) -> list[Application]:
        rows = Rows()
        with build(folder) as identities:
            named = Applications(identities, self.memory, moves=moves)
            assert scan(Source(self.memory), [], [rows], kernel=self.kernel, more=[named]).gaps == []
        first = next(row.id for row in rows.of(Process) if row.pid == 1)
        return [row for row in rows.of(Application) if row.process == first]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("moves", [False, True])
def test_a_version_is_told_where_the_pages_leave_no_other(name: str, moves: bool, tmp_path: Path) -> None:
    row = Placed(name, SAME, SECOND).applications(tmp_path, moves=moves)[0]
    assert (row.path, row.verdict, row.package, row.version) == ("/init", "verified", "tool", "2")
    assert (row.pages, row.known, row.differing, row.why) == (2, 2, None, None)
    assert row.candidates == ["tool 2 amd64 /bin/tool"]


def test_pages_that_two_versions_share_name_both_and_no_version(tmp_path: Path) -> None:
    row = Placed("6.1", SAME).applications(tmp_path)[0]
    assert (row.verdict, row.package, row.version) == ("verified", "tool", None)
    assert row.candidates == ["tool 1 amd64 /bin/tool", "tool 2 amd64 /bin/tool"]


def test_a_changed_page_is_told_by_its_number_and_no_version_is_claimed(tmp_path: Path) -> None:
    row = Placed("6.1", SAME, STRANGE).applications(tmp_path)[0]
    assert (row.verdict, row.package, row.version, row.differing) == ("modified", "tool", None, [2])


def test_code_at_another_place_of_the_file_is_not_that_file(tmp_path: Path) -> None:
    row = Placed("6.1", SECOND, STRANGE).applications(tmp_path)[0]
    assert (row.verdict, row.known, row.candidates) == ("unknown", 0, None)


def test_what_is_not_in_memory_and_what_is_no_file_cannot_be_verified(tmp_path: Path) -> None:
    rows = Placed("6.1").applications(tmp_path)
    assert {row.verdict for row in rows} == {Verdict.UNVERIFIABLE.value}
    assert {row.path: row.why for row in rows} == {
        "/init": "none of its pages is in memory",
        "[vdso]": "the kernel's own",
    }


@pytest.mark.parametrize("named", [True, False])
def test_code_that_a_list_names_is_told_with_or_without_a_database(named: bool, tmp_path: Path) -> None:
    placed = Placed("6.1", SAME, STRANGE)
    listed = Listed()
    for page in (SAME, STRANGE, b"\x00" * 4096):
        listed.add(page_hash(page), "miner")
    listed.add(page_hash(SAME), "other")
    rows = Rows()
    with build(tmp_path) as identities:
        collector = Applications(identities if named else None, placed.memory, moves=False, listed=listed)
        assert scan(Source(placed.memory), [], [rows], kernel=placed.kernel, more=[collector]).gaps == []
    first = next(row.id for row in rows.of(Process) if row.pid == 1)
    found = {row.name: row for row in rows.of(ListedCode) if row.process == first}
    assert {name: (row.path, row.pages, row.listed) for name, row in found.items()} == {
        "miner": ("/init", 2, 3),
        "other": ("/init", 1, 1),
    }
    assert found["other"].hashes == [page_hash(SAME).hex()]
    assert found["miner"].packaged is (False if named else None)
    assert bool(rows.of(Application)) is named
