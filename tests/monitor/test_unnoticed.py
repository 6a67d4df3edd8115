# SPDX-License-Identifier: GPL-2.0-or-later
"""What no event tells of: memory that changes or moves behind the copies, and a ring with no room for more vCPUs."""

from __future__ import annotations

from typing import Any

import pytest

from drakmet.guest.memory import Unreadable
from drakmet.monitor.coverage import CoverageBook
from drakmet.monitor.unnoticed import Unnoticed
from drakmet.pyxen import Flag, Reason
from drakmet.records import Coverage, CoverageKind
from monitor.scene import Opened
from monitor.test_engine import BOTH, Rig

ELSEWHERE = 0x77


class Moving(Rig):
    """An engine whose guest may map its function's page elsewhere, or nowhere."""

    def __init__(self, *trap: Any) -> None:
        super().__init__(*trap)
        self.old = self.way.guest.kernel.gpa(self.way.address)
        self.way.memory.pages[ELSEWHERE] = self.way.memory.pages[self.old >> 12]
        self.offset: int | None = 0

    def attach(self) -> Moving:
        super().attach()
        real, page = self.engine.where, self.way.address >> 12

        def where(address: int) -> int:
            if address >> 12 != page:
                return real(address)
            if self.offset is None:
                raise Unreadable("not mapped")
            return real(address) + self.offset

        self.engine.where = where  # type: ignore[method-assign]
        return self

    def move(self, frame: int | None) -> None:
        self.offset = None if frame is None else (frame << 12) - (self.old & ~4095)


def test_a_guest_that_changes_nothing_is_told_nothing_of() -> None:
    rig = Rig(BOTH).attach()
    rig.hit()
    rig.engine.batch()
    log = len(rig.domain.log)
    assert rig.engine.look() == []
    assert rig.domain.log[log:] == []


def test_code_that_was_written_from_outside_is_carried_over_and_told() -> None:
    rig = Rig().attach()
    gfn, offset = rig.gpa >> 12, rig.gpa & 4095
    page = bytearray(rig.way.memory.pages[gfn])
    page[offset : offset + 5] = bytes.fromhex("e8aabbccdd")
    rig.way.memory.pages[gfn] = bytes(page)
    ((place, what),) = rig.engine.look()
    assert (place, what) == (rig.way.place, "written")
    assert rig.shadow()[offset : offset + 5] == bytes.fromhex("ccaabbccdd")
    slot = rig.hit()
    rig.engine.batch()
    assert rig.domain.flags(slot) & Flag.FAST_SINGLESTEP  # there is no nop any more
    assert rig.engine.look() == []


def test_a_write_that_is_under_way_is_none_from_outside() -> None:
    rig = Rig().attach()
    gfn, offset = rig.gpa >> 12, rig.gpa & 4095
    rig.domain.ask(Reason.MEM_ACCESS, 1, gfn=gfn, part1=offset, part3=2)
    rig.engine.batch()
    rig.way.memory.pages[gfn] = bytes(4096)
    assert rig.engine.look() == []
    rig.domain.ask(Reason.SINGLESTEP, 1, gfn=0)
    rig.engine.batch()
    assert rig.engine.look() == []


def test_a_function_that_is_elsewhere_gets_its_trap_there() -> None:
    rig = Moving().attach()
    rig.move(ELSEWHERE)
    assert rig.engine.look() == [(rig.way.place, "moved")]
    assert ELSEWHERE in rig.domain.views[1]
    second = bytes(rig.domain.window[4096:8192])
    assert second[rig.old & 4095] == 0xCC
    assert rig.shadow()[rig.old & 4095] != 0xCC
    assert rig.domain.pauses == 0
    rig.hit(gfn=ELSEWHERE)
    rig.engine.batch()
    assert len(rig.way.sink.of(Opened)) == 1
    assert rig.engine.look() == []
    assert rig.engine.detach() == []
    assert rig.domain.left() == {}


def test_a_function_that_is_nowhere_is_looked_for_until_it_is_back() -> None:
    rig = Moving().attach()
    rig.move(None)
    assert rig.engine.look() == [(rig.way.place, "gone")]
    assert rig.shadow()[rig.old & 4095] != 0xCC
    assert rig.engine.look() == []
    rig.engine.remove(rig.way.place)  # throttled meanwhile, say
    assert rig.engine.look() == []
    rig.engine.add(rig.way.place)
    assert rig.engine.look() == [(rig.way.place, "gone")]  # who put it back could not know
    assert rig.engine.look() == []
    rig.move(ELSEWHERE)
    assert rig.engine.look() == [(rig.way.place, "back")]
    rig.hit(gfn=ELSEWHERE)
    rig.engine.batch()
    assert len(rig.way.sink.of(Opened)) == 1


def test_where_calls_return_to_is_looked_at_as_well() -> None:
    rig = Rig(BOTH).attach()
    rig.hit()
    rig.engine.batch()
    (site,) = [place for place in rig.engine.places.values() if place.site]
    gpa = rig.engine.where(site.address)
    page = bytearray(rig.way.memory.pages[gpa >> 12])
    page[gpa & 4095] ^= 0xFF
    rig.way.memory.pages[gpa >> 12] = bytes(page)
    assert (site, "written") in rig.engine.look()


@pytest.mark.parametrize(
    ("what", "begins"), [("moved", "its code is in another"), ("gone", "its code is no"), ("written", "its code was")]
)
def test_the_coverage_has_it_from_the_look_before(what: str, begins: str) -> None:
    rig = Rig().attach()
    rows: list[Coverage] = []
    book = CoverageBook(1, rows.append)  # type: ignore[arg-type]  # it puts nothing else
    (trap,) = rig.way.prepared.traps
    book.armed(trap.key, trap.tables, 10)
    told = Unnoticed(book, rig.way.prepared.traps, 20)
    told.tell([], 30)
    told.tell([(trap.place, what)], 40)
    book.close_all(50)
    spans = {(row.kind, row.begin, row.end) for row in rows if row.end is not None}
    gap = next(row for row in rows if row.kind == CoverageKind.CHANGED)
    assert (gap.gap or "").startswith(begins)
    assert (
        spans
        == {
            "moved": {("armed", 10, 30), ("changed meanwhile", 30, 40), ("armed", 40, 50)},
            "gone": {("armed", 10, 30), ("changed meanwhile", 30, 50)},
            "written": {("changed meanwhile", 30, 40), ("armed", 10, 50)},
        }[what]
    )


def test_a_function_that_is_back_is_armed_again() -> None:
    rig = Rig().attach()
    rows: list[Coverage] = []
    book = CoverageBook(1, rows.append)  # type: ignore[arg-type]  # it puts nothing else
    (trap,) = rig.way.prepared.traps
    book.armed(trap.key, trap.tables, 10)
    told = Unnoticed(book, rig.way.prepared.traps, 20)
    told.tell([(trap.place, "gone")], 40)
    told.tell([(trap.place, "back")], 60)
    book.close_all(70)
    spans = {(row.kind, row.begin, row.end) for row in rows}
    assert spans == {("armed", 10, 20), ("changed meanwhile", 20, 60), ("armed", 60, 70)}


def test_what_changes_where_calls_return_to_is_a_gap_of_the_traps_that_wait_for_returns() -> None:
    rig = Rig(BOTH).attach()
    rows: list[Coverage] = []
    told = Unnoticed(CoverageBook(1, rows.append), rig.way.prepared.traps, 20)  # type: ignore[arg-type]
    rig.hit()
    rig.engine.batch()
    (site,) = [place for place in rig.engine.places.values() if place.site]
    told.tell([(site, "moved")], 40)
    assert [(row.kind, row.begin, row.end) for row in rows] == [("changed meanwhile", 20, 40)]
    assert "return" in (rows[0].gap or "")


@pytest.mark.parametrize(("vcpus", "asked", "full"), [(8, 8, 0), (9, 7, 0), (9, 8, 1)])
def test_a_ring_without_room_is_told_where_there_are_more_vcpus_than_slots(vcpus: int, asked: int, full: int) -> None:
    rig = Rig()
    rig.domain.vcpus = vcpus
    rig.attach()
    for vcpu in range(asked):
        rig.hit(vcpu)
    rig.engine.batch()
    assert rig.engine.events.get("ring full", 0) == full
    rows: list[Coverage] = []
    told = Unnoticed(CoverageBook(1, rows.append), rig.way.prepared.traps, 20)  # type: ignore[arg-type]
    told.tell_of_the_ring(rig.engine.events, 40)
    assert [(row.kind, row.begin, row.end, row.missed) for row in rows] == [("ring full", 20, 40, 0)] * full
    told.tell_of_the_ring(rig.engine.events, 60)
    assert len(rows) == full
