# SPDX-License-Identifier: GPL-2.0-or-later
"""Code of processes against regions and page cache, in a real guest one of whose processes was written into.

tests/make_kernel_text.py made tests/data/views-6.12: init wrote a breakpoint into its child by ptrace.
"""

from __future__ import annotations

import gzip
import json
import random
import struct
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drakmet.errors import GuestError
from drakmet.guest import isf
from drakmet.guest.kernel import Kernel
from drakmet.guest.linux import LinuxGuest
from drakmet.guest.memory import SparseMemory
from drakmet.guest.pagecache import PageCache
from drakmet.guest.profile import Profile
from drakmet.guest.regions import VM_EXEC, Regions
from drakmet.guest.usercode import executable
from drakmet.scan.codeviews import CodeViews
from drakmet.scan.records import CodeInTwoForms, UncoveredCode
from drakmet.scan.session import Reading

if TYPE_CHECKING:
    import pytest

    from drakmet.records import Record

DATA = Path(__file__).parent.parent / "data"
NO_EXECUTE = 1 << 63


@cache
def kept() -> tuple[SparseMemory, dict[str, Any]]:
    body = json.loads(gzip.decompress((DATA / "views-6.12.json.gz").read_bytes()))
    return SparseMemory.load(DATA / "views-6.12.pages"), body


def guest_in(memory: SparseMemory) -> LinuxGuest:
    data = kept()[1]["profile"]
    profile = Profile(data["metadata"]["build_id"], isf.banner(data), isf.symbols(data), isf.IsfTypes(data))
    return LinuxGuest(Kernel(profile, memory, *kept()[1]["place"]))


def rows(memory: SparseMemory, *, moves: bool = False) -> tuple[list[Record], Reading]:
    reading = Reading(guest_in(memory), 1, 1, 1)
    return list(CodeViews(memory, moves=moves)(reading)), reading


def test_the_process_that_was_written_into_is_told_and_the_one_that_shares_the_page_is_not() -> None:
    for moves in (False, True):
        found, reading = rows(kept()[0], moves=moves)
        (row,) = found
        assert isinstance(row, CodeInTwoForms)
        assert (row.path, row.length) == ("/init", 1)
        assert row.executed is not None
        assert row.cached is not None
        assert row.executed[:2] == "cc"
        assert row.executed[2:] == row.cached[2:]
        assert row.process is not None
        assert reading.processes[row.process].ppid == 1
        assert not reading.lost


def test_a_page_that_processes_share_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[tuple[int, int]] = Counter()
    frame = PageCache.frame

    def counted(self: PageCache, mapping: int, number: int) -> int | None:
        asked[mapping, number] += 1
        return frame(self, mapping, number)

    monkeypatch.setattr(PageCache, "frame", counted)
    rows(kept()[0])
    # One is asked for twice: that which was written into is another frame than the cache's.
    assert len(asked) > 10
    assert sorted(asked.values())[-2:] == [1, 2]


def test_memory_that_the_page_tables_alone_make_code_is_told() -> None:
    memory = kept()[0]
    guest = guest_in(memory)
    task = next(task for task in guest.tasks() if guest.process(task).pid == 1)
    mm = guest.task_reader.mm(task)
    regions = [one for one in Regions(guest.kernel).of(mm) if not one.flags & VM_EXEC]
    table, index, address = next(_data_pages(memory, guest.task_reader.cr3(mm), regions))
    pages = dict(memory.pages)
    entries = list(struct.unpack("<512Q", pages[table]))
    entries[index] &= ~NO_EXECUTE
    pages[table] = struct.pack("<512Q", *entries)
    found, _ = rows(SparseMemory(pages, memory.size))
    (row,) = [one for one in found if isinstance(one, UncoveredCode)]
    assert (row.address, row.size) == (address, 4096)


def _data_pages(memory: SparseMemory, cr3: int, regions: list[Any]) -> Any:
    """Yield table, index and address of pages that no region lets execute."""
    for region in regions:
        for address in range(region.start, min(region.end, region.start + (64 << 12)), 4096):
            table = cr3 >> 12
            for shift in (39, 30, 21, 12):
                entry = (
                    struct.unpack("<512Q", memory.pages[table])[address >> shift & 511] if table in memory.pages else 0
                )
                if not entry & 1:
                    break
                if shift == 12 and entry & NO_EXECUTE:
                    yield table, address >> 12 & 511, address
                table = entry >> 12 & (1 << 40) - 1


def test_a_walk_ends_whatever_the_tables_say() -> None:
    looped = SparseMemory({1: struct.pack("<Q", 1 << 12 | 7) * 512}, 1 << 20)
    count = 0
    try:
        for _ in executable(looped, 1 << 12, 4):
            count += 1
            if count > 1 << 18:
                break
    except GuestError:
        return
    assert count


def test_damaged_memory_is_told_and_no_error() -> None:
    memory, chance = kept()[0], random.Random(3)  # noqa: S311 - no secret
    gfns = sorted(memory.pages)
    for _ in range(25):
        pages = dict(memory.pages)
        for _ in range(chance.choice([1, 20, 200])):
            gfn = chance.choice(gfns)
            words = list(struct.unpack("<512Q", pages[gfn]))
            words[chance.randrange(512)] = chance.choice(
                [0, 1, (1 << 64) - 1, chance.getrandbits(64), chance.choice(words)]
            )
            pages[gfn] = struct.pack("<512Q", *words)
        try:
            rows(SparseMemory(pages, memory.size))
        except GuestError:
            continue
