# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows in any order, in steps of any size: a watch finds what a batch run over the same file finds."""

import itertools
import random
import sqlite3
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drakmet.records import Finding, Guest, Host, Process, Record, Session
from drakmet.rules import Evaluator
from drakmet.rules.bursts import Bursts
from drakmet.rules.trial import Laboratory

from .conftest import Connected, Opened, rule
from .test_evaluate import insert

SECOND = 10**9
COUNT = rule(
    id='"count"',
    tables='"connected"',
    within='"5s"',
    message='"{process} tried {least} ports"',
    sql="""
    SELECT c.id, c.process FROM connected AS c
    WHERE (SELECT count(DISTINCT port) FROM main.connected AS earlier
           WHERE earlier.process = c.process AND earlier.time BETWEEN c.time - :within AND c.time) >= :least
    """,
    **{"parameters.least": '{ default = 3, doc = "ports" }'},
).rule
SEQUENCE = rule(
    id='"sequence"',
    tables='"connected"',
    within='"4s"',
    message='"{path} then {address}"',
    sql="""
    SELECT c.id, c.address, o.path, o.id AS opened_id FROM connected AS c
    JOIN main.opened AS o ON o.process = c.process AND o.time BETWEEN c.time - :within AND c.time
    WHERE o.path GLOB '/secret/*'
    """,
).rule
SAME_PROCESS = rule(
    id='"same"',
    tables='"connected"',
    within='"4s"',
    message='"{path} then {address}"',
    sql="""
    SELECT c.id, c.address, o.path, o.id AS opened_id FROM connected AS c
    JOIN same_process AS same ON same.one = c.process
    JOIN main.opened AS o ON o.process = same.other AND o.time BETWEEN c.time - :within AND c.time
    """,
).rule
SAME_GUEST = rule(
    id='"guest"',
    tables='"connected"',
    within='"3s"',
    message='"{path} then {address}"',
    sql="""
    SELECT c.id, c.address, o.path, o.id AS opened_id FROM connected AS c
    JOIN event_guest AS g ON g.session = c.session
    JOIN event_guest AS h ON h.guest = g.guest
    JOIN main.opened AS o ON o.session = h.session AND o.time BETWEEN c.time - :within AND c.time
    WHERE o.path GLOB '/secret/*'
    """,
).rule
EITHER_ORDER = rule(
    id='"either-order"',
    tables='["opened", "connected"]',
    within='"2s"',
    message='"{path} and {address}"',
    sql="""
    SELECT o.id AS opened_id, c.id AS connected_id, o.path, c.address FROM opened AS o
    JOIN main.connected AS c ON c.process = o.process AND c.time BETWEEN o.time - :within AND o.time
    UNION
    SELECT o.id, c.id, o.path, c.address FROM connected AS c
    JOIN main.opened AS o ON o.process = c.process AND o.time BETWEEN c.time - :within AND c.time
    """,
).rule
UNNAMED = rule(
    id='"unnamed"',
    tables='"connected"',
    within='"4s"',
    message='"{address}"',
    sql="""
    SELECT c.id, c.address FROM connected AS c
    JOIN main.opened AS o ON o.process = c.process AND o.time BETWEEN c.time - :within AND c.time
    """,
).rule
MONOTONE = [rule().rule, COUNT, SEQUENCE, SAME_PROCESS, SAME_GUEST, EITHER_ORDER, UNNAMED]
BURST = rule(
    id='"burst"',
    tables='"connected"',
    within='"5s"',
    once='{ by = ["process"], within = "3s" }',
    message='"{process} tried {address}"',
    sql=COUNT.sql.replace("c.process FROM", "c.process, c.address FROM").replace(":least", "2"),
).rule
FRAME: list[Record] = [
    Host(id=1, name="xen1"),
    Guest(id=1, host=1, name="web1", os="linux"),
    Guest(id=2, host=1, name="web2", os="windows"),
    Session(id=1, guest=1, source="s", begin=0),
    Session(id=2, guest=1, source="s", begin=0),
    Session(id=3, guest=2, source="s", begin=0),
    *(
        Process(id=number, session=1 + number % 3, time=0, pid=number // 3, start_time=7, exe=f"/bin/{number}")
        for number in range(1, 7)
    ),
]
EVENTS = st.lists(
    st.tuples(
        st.sampled_from([Opened, Connected]),
        st.integers(1, 6),
        st.integers(0, 24).map(lambda half: half * SECOND // 2),
        st.integers(0, 5),
        st.booleans(),
    ),
    max_size=40,
)


def records(events: Iterable[tuple[Any, ...]]) -> list[Record]:
    made: list[Record] = []
    for kind, process, moment, number, flag in events:
        common = {"session": 1 + process % 3, "time": moment, "process": process}
        if kind is Opened:
            made.append(Opened(path=f"/{'secret' if flag else 'open'}/{number}", **common))  # type: ignore[arg-type]
        else:
            made.append(Connected(address=f"10.0.0.{number}", port=number, **common))  # type: ignore[arg-type]
    return made


def told(findings: Iterable[Finding]) -> Counter[tuple[Any, ...]]:
    return Counter((f.rule, f.session, f.time, f.message, f.process, f.rests_on) for f in findings)


def watched(connection: sqlite3.Connection, rules: list[Any], rows: list[Record], cuts: list[int], chunk: int) -> Any:
    evaluator = Evaluator(connection, rules, chunk=chunk)
    insert(connection, evaluator, FRAME)
    found: list[Finding] = []
    for begin, end in itertools.pairwise(sorted({0, *(min(cut, len(rows)) for cut in cuts), len(rows)})):
        insert(connection, evaluator, rows[begin:end])
        found += evaluator.step()
    assert not evaluator.faults()
    assert evaluator.step() == []
    return found


def at_once(connection: sqlite3.Connection, rules: list[Any], chunk: int) -> list[Finding]:
    evaluator = Evaluator(connection, rules, whole=True, chunk=chunk)
    found = evaluator.step()
    assert not evaluator.faults()
    return found


@given(events=EVENTS, cuts=st.lists(st.integers(0, 40), max_size=12), chunk=st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_rows_in_any_order_are_judged_as_in_a_batch(
    laboratory: Laboratory, events: list[tuple[Any, ...]], cuts: list[int], chunk: int
) -> None:
    with closing(laboratory.connection()) as growing:
        found = watched(growing, MONOTONE, records(events), cuts, chunk)
        with closing(laboratory.connection()) as whole:
            growing.backup(whole)
            assert told(found) == told(at_once(whole, MONOTONE, chunk=7))


@given(events=EVENTS, cuts=st.lists(st.integers(0, 40), max_size=12))
@settings(max_examples=30, deadline=None)
def test_bursts_are_the_same_when_rows_come_in_the_order_of_time(
    laboratory: Laboratory, events: list[tuple[Any, ...]], cuts: list[int]
) -> None:
    rows = records(sorted(events, key=lambda event: event[2]))
    with closing(laboratory.connection()) as growing:
        found = watched(growing, [BURST], rows, cuts, 20_000)
        with closing(laboratory.connection()) as whole:
            growing.backup(whole)
            batch = at_once(whole, [BURST], chunk=5)
            # At one and the same time which row is first depends on which is known.
            assert Counter((f.time, f.process) for f in found) == Counter((f.time, f.process) for f in batch)


@given(events=EVENTS, cuts=st.lists(st.integers(0, 40), max_size=12))
@settings(max_examples=30, deadline=None)
def test_of_each_burst_something_is_told_whatever_the_order(
    laboratory: Laboratory, events: list[tuple[Any, ...]], cuts: list[int]
) -> None:
    with closing(laboratory.connection()) as growing:
        found = watched(growing, [BURST], records(events), cuts, 20_000)
        with closing(laboratory.connection()) as whole:
            growing.backup(whole)
            batch = at_once(whole, [BURST], chunk=5)
    # The batch tells the first result of each burst; what was watched is of the same bursts, each at least once.
    begins = {process: sorted(f.time for f in batch if f.process == process) for process in range(1, 7)}
    bursts = {
        (finding.process, max((begin for begin in begins[finding.process or 0] if begin <= finding.time), default=None))
        for finding in found
    }
    assert bursts == {(finding.process, finding.time) for finding in batch}


def test_the_properties_above_are_not_about_nothing(laboratory: Laboratory) -> None:
    chance = random.Random(3)  # noqa: S311 - a repeatable choice
    events = [
        (kind, chance.randrange(1, 7), chance.randrange(24) * SECOND // 2, chance.randrange(6), chance.random() < 0.5)
        for kind in (Opened, Connected) * 20
    ]
    with closing(laboratory.connection()) as growing:
        found = watched(growing, [*MONOTONE, BURST], records(events), list(range(40)), 20_000)
    assert {finding.rule for finding in found} == {one.id for one in (*MONOTONE, BURST)}


def test_a_late_row_completes_what_was_judged_before_it(connection: sqlite3.Connection) -> None:
    evaluator = Evaluator(connection, [SEQUENCE, COUNT])
    insert(connection, evaluator, [Connected(session=1, time=9 * SECOND, process=1, address="a", port=1)])
    assert evaluator.step() == []
    insert(connection, evaluator, [Opened(session=1, time=8 * SECOND, process=1, path="/secret/x")])
    (finding,) = evaluator.step()
    assert (finding.message, finding.time) == ("/secret/x then a", 9 * SECOND)
    late = [Connected(session=1, time=time * SECOND, process=1, address="b", port=time) for time in (6, 7)]
    insert(connection, evaluator, late)
    assert [finding.message for finding in evaluator.step()] == ["1 tried 3 ports"]
    assert evaluator.step() == []


def test_what_was_there_before_the_watch_is_no_late_row(connection: sqlite3.Connection) -> None:
    first = Evaluator(connection, [])
    insert(connection, first, [Connected(session=1, time=9 * SECOND, process=1, address="old", port=1)])
    with first.guard.lifted():
        connection.execute("DETACH lists")
        for name in ("same_process", "event_guest"):
            connection.execute(f"DROP VIEW temp.{name}")
        evaluator = Evaluator(connection, [SEQUENCE], start="end")
    insert(connection, evaluator, [Opened(session=1, time=8 * SECOND, process=1, path="/secret/x")])
    assert evaluator.step() == []


def test_rows_in_order_are_judged_once(connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = Evaluator(connection, [SEQUENCE])
    judged: list[Any] = []
    monkeypatch.setattr(evaluator, "_judge", lambda _rule, spans, *_: judged.append(spans) or [])
    for second in range(20):
        common = {"session": 1, "time": second * SECOND, "process": 1}
        insert(connection, evaluator, [Opened(path="/secret/x", **common), Connected(address="a", **common)])  # type: ignore[arg-type]
        evaluator.step()
    assert len(judged) == 20


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60)), max_size=40), st.integers(1, 9))
def test_bursts_do_not_depend_on_the_order(results: list[tuple[int, int]], quiet: int) -> None:
    def firsts(order: list[tuple[int, int]]) -> list[tuple[str, int]]:
        bursts = Bursts(quiet)
        for key, moment in order:
            bursts.add((key,), finding(str(key), moment), ())
        return sorted((one.rule, one.time) for one in bursts.firsts())

    expected = []
    for key in {key for key, _ in results}:
        times = sorted(moment for its_key, moment in results if its_key == key)
        expected += [(str(key), b) for a, b in itertools.pairwise([-(10**9), *times]) if b - a >= quiet]
    assert firsts(results) == sorted(expected)
    assert firsts(results[::-1]) == sorted(expected)


def finding(name: str, moment: int) -> Finding:
    return Finding(session=1, time=moment, found=0, rule=name, level="low", title="t", message="m")
