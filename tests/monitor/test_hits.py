# SPDX-License-Identifier: GPL-2.0-or-later
"""From a hit to a record: on the memory of a real guest that opens a file."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from drakmet.monitor import Filters
from drakmet.records import PluginFault, Process
from drakmet.text import escape_bytes, is_cut, unescape
from drakmet.traps import Hit, Trap
from monitor.scene import FUNCTION, Opened, Plugin, Regs, Way, returning

ENTRY = Trap(function=FUNCTION, fetch={"requested": "pathname->name"}, record=Opened)
BOTH = Trap(
    function=FUNCTION,
    fetch={"requested": "pathname->name"},
    returns={"path": "$return|path", "result": "$return|errno"},
    record=Opened,
)


def told(way: Way, key: str) -> str:
    return escape_bytes(bytes.fromhex(way.act[key]))


def test_an_entry_becomes_a_record_of_its_process() -> None:
    way = Way(ENTRY)
    way.hits.enter(way.place, way.regs, 99)
    assert way.sink.of(Opened) == []  # nothing is made before the vCPU goes on
    way.hits.finish()
    (process,) = way.sink.of(Process)
    (record,) = way.sink.of(Opened)
    assert (process.id, process.session, process.pid, process.time) == (10, 3, way.act["pid"], 99)
    assert record == Opened(session=3, time=99, vcpu=1, process=10, requested=told(way, "name"))


def test_the_same_process_is_one_row() -> None:
    way = Way(ENTRY)
    for time in range(3):
        way.hits.enter(way.place, way.regs, time)
    way.hits.finish()
    assert len(way.sink.of(Process)) == 1
    assert [row.process for row in way.sink.of(Opened)] == [10, 10, 10]
    assert way.prepared.traps[0].hits == 3


def test_a_return_joins_what_the_entry_fetched() -> None:
    sites = []

    def learn(address: int) -> bool:
        sites.append(address)
        return True

    way = Way(BOTH, learn=learn)
    way.hits.enter(way.place, way.regs, 1)
    way.hits.finish()
    assert way.sink.of(Opened) == []
    regs = returning(way)
    assert sites == [regs.rip]
    way.hits.leave(regs, 2)
    way.hits.finish()
    (record,) = way.sink.of(Opened)
    assert (record.requested, record.path, record.result) == (told(way, "name"), told(way, "full"), 0)
    assert (record.time, record.unreadable, record.vcpu) == (2, None, 0)


def test_a_return_nobody_waits_for_is_nothing() -> None:
    way = Way(BOTH)
    way.hits.leave(returning(way), 2)
    way.hits.finish()
    assert way.sink.of(Opened) == []


def test_a_call_on_another_stack_is_another_call() -> None:
    way = Way(BOTH)
    way.hits.enter(way.place, way.regs, 1)
    regs = returning(way)
    way.hits.leave(Regs(**{**regs.__dict__, "rsp": regs.rsp + 64}), 2)
    way.hits.finish()
    assert way.sink.of(Opened) == []
    assert way.returns.pending == 1


def test_a_call_that_did_not_return_is_told_at_the_end_with_what_is_known() -> None:
    way = Way(BOTH)
    way.hits.enter(way.place, way.regs, 1)
    way.hits.abandon(5)
    (record,) = way.sink.of(Opened)
    assert (record.requested, record.path, record.unreadable) == (told(way, "name"), None, "path,result")
    assert way.returns.pending == 0


def test_returns_that_cannot_be_told_of_are_counted() -> None:
    way = Way(BOTH, learn=lambda _: False)
    way.hits.enter(way.place, way.regs, 1)
    assert (way.returns.pending, way.returns.lost) == (0, 1)


def test_a_stack_that_another_task_got_is_no_return_of_this_call(monkeypatch: pytest.MonkeyPatch) -> None:
    way = Way(BOTH)
    way.hits.enter(way.place, way.regs, 1)
    regs = returning(way)
    monkeypatch.setattr(way.returns, "_current", lambda _: 1)
    assert way.returns.leave(regs) is None
    assert way.returns.lost == 1


def test_a_process_that_is_not_wanted_costs_no_fetch() -> None:
    way = Way(ENTRY, wants=Filters(pids=frozenset({1 << 20})).wants)
    way.prepared.traps[0].fetch = lambda _: pytest.fail("fetched")
    way.hits.enter(way.place, way.regs, 1)
    way.hits.finish()
    assert way.sink.of(Opened) == []
    assert way.place.filtered == 1


def test_a_handler_gets_a_hit_and_may_return_several() -> None:
    seen: list[Hit] = []

    def handler(hit: Hit) -> Any:
        seen.append(hit)
        yield hit.make(Opened, requested=hit.requested)
        yield hit.make(Opened, path="x")

    way = Way(Trap(function=FUNCTION, fetch={"requested": "pathname->name"}, handler=handler))
    way.hits.enter(way.place, way.regs, 1)
    way.hits.finish()
    assert [(row.requested, row.path) for row in way.sink.of(Opened)] == [(told(way, "name"), None), (None, "x")]
    assert seen[0].process.pid == way.act["pid"]


def test_an_error_in_a_handler_is_a_row_and_the_others_go_on() -> None:
    def broken(hit: Hit) -> None:
        raise KeyError("no such \x1b thing")

    way = Way(Trap(function=FUNCTION, handler=broken, name="broken"), ENTRY)
    for time in range(300):
        way.hits.enter(way.place, way.regs, time)
    way.hits.finish()
    faults = way.sink.of(PluginFault)
    assert len(way.sink.of(Opened)) == 300
    assert len(faults) == 100
    assert faults[0].error.startswith("KeyError: 'no such ")
    assert "test_hits.py:" in faults[0].error
    assert "\x1b" not in faults[0].error
    (trap, _) = way.prepared.traps
    assert (trap.errors, trap.records) == (300, 0)


def test_a_handler_that_returns_no_record_is_at_fault() -> None:
    way = Way(Trap(function=FUNCTION, handler=lambda _: ["what"]))
    way.hits.enter(way.place, way.regs, 1)
    way.hits.finish()
    assert "returned a str" in way.sink.of(PluginFault)[0].error


def test_what_cannot_be_read_is_null_and_named() -> None:
    way = Way(ENTRY)
    way.hits.enter(way.place, Regs(**{**way.regs.__dict__, "rsi": 0xFFFF_8880_0000_0000 + (1 << 44)}), 1)
    way.hits.finish()
    (record,) = way.sink.of(Opened)
    assert (record.requested, record.unreadable) == (None, "requested")


def test_a_process_that_cannot_be_told_is_null() -> None:
    way = Way(ENTRY)
    way.hits.enter(way.place, Regs(**{**way.regs.__dict__, "gs_base": 0xFFFF_8880_0000_0000 + (1 << 44)}), 1)
    way.hits.finish()
    assert way.sink.of(Opened)[0].process is None


@pytest.mark.parametrize(
    ("trap", "reason"),
    [
        (Trap(function="no_such_function", record=Opened), "no function no_such_function"),
        (Trap(function=("nor_this", "nor_that"), record=Opened), "nor_this or nor_that"),
        (Trap(function=FUNCTION, fetch={"path": "pathname->nam"}, record=Opened), "nam"),
        (Trap(function=FUNCTION, fetch={"path": "$return|path"}, record=Opened), "returns"),
        (Trap(function=FUNCTION, fetch={"no_column": "pathname->name"}, record=Opened), "no column no_column"),
        (Trap(function=FUNCTION), "neither a record nor a handler"),
    ],
)
def test_a_trap_that_cannot_be_is_refused_and_the_others_are_armed(trap: Trap, reason: str) -> None:
    way = Way(trap, ENTRY)
    (refused,) = way.prepared.refused
    assert reason in refused.reason
    assert [one.trap for one in way.prepared.traps] == [ENTRY]


def test_the_first_function_that_the_kernel_has_is_taken() -> None:
    way = Way(Trap(function=("not_in_this_kernel", FUNCTION), fetch={"path": "pathname->name"}, record=Opened))
    assert way.place.function == FUNCTION


def test_two_plugins_share_a_place() -> None:
    way = Way(ENTRY)
    from drakmet.monitor import armed

    prepared = armed.prepare(way.guest, [Plugin(ENTRY, name="a"), Plugin(ENTRY, name="b")])
    assert [trap.key for trap in prepared.traps] == [("a", FUNCTION), ("b", FUNCTION)]
    assert len(prepared.places) == 1


@pytest.mark.parametrize(("length", "cut"), [(4095, False), (4096, True), (8192, True)])
def test_a_string_of_which_there_is_more_than_is_read_says_so(length: int, cut: bool) -> None:
    way = Way(ENTRY)
    pages, space = way.memory.pages, way.guest.space
    free = next(gfn for gfn in range(16, way.memory.size >> 12) if not {gfn, gfn + 1, gfn + 2} & set(pages))
    data = (b"\x1b" + b"a" * (length - 1) + b"\0").ljust(3 * 4096, b"b")
    pages.update({free + number: data[4096 * number :][:4096] for number in range(3)})
    place = space.translate(way.regs.rsi + way.guest.types.offset("filename", "name"))
    page, at = pages[place >> 12], place & 4095
    pages[place >> 12] = page[:at] + struct.pack("<Q", space.page_offset + (free << 12)) + page[at + 8 :]
    way.hits.enter(way.place, way.regs, 1)
    way.hits.finish()
    (record,) = way.sink.of(Opened)
    assert is_cut(record.requested) == cut
    assert unescape(record.requested) == data[: min(length, 4096)]
    assert record.requested.isprintable()
