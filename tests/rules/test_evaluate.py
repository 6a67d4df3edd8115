# SPDX-License-Identifier: GPL-2.0-or-later
"""Each new row is judged once, however it comes; and a bad rule harms nobody but itself."""

import itertools
import json
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drakmet.errors import StoreError
from drakmet.records import Coverage, Finding, Process, Record
from drakmet.rules import Evaluator, State, judge
from drakmet.rules.lists import List
from drakmet.rules.trial import Laboratory
from drakmet.store import Writer
from drakmet.store.schema import table_of

from .conftest import Connected, Opened, rule

SECOND = 10**9
GAP: dict[str, Any] = {"kind": "throttled", "gap": "too many hits"}
BURST = rule(
    id='"burst"',
    tables='"connected"',
    once='{ by = ["process"], within = "10s" }',
    message='"{process} tries {address}"',
    sql="""
    SELECT c.id, c.process, c.address FROM connected AS c
    WHERE (SELECT count(DISTINCT address)
           FROM (SELECT address FROM main.connected AS earlier
                 WHERE earlier.process = c.process AND earlier.id <= c.id AND earlier.time > c.time - seconds(5)
                 ORDER BY earlier.id DESC LIMIT 50)) >= 3
    """,
).rule
EITHER = rule(
    id='"either"',
    tables='["opened", "connected"]',
    message='"{what}"',
    sql="""
    SELECT id AS opened_id, NULL AS connected_id, path AS what FROM opened WHERE result < 0
    UNION ALL
    SELECT NULL, id, address FROM connected WHERE port > 3
    """,
).rule
AFTER = rule(
    id='"after"',
    tables='"connected"',
    within='"5s"',
    message='"{path} then {address}"',
    sql="""
    SELECT c.id, c.address, o.path, o.id AS opened_id FROM connected AS c
    JOIN main.opened AS o ON o.process = c.process AND o.time BETWEEN c.time - :within AND c.time
    WHERE o.path GLOB '/secret/*'
    """,
).rule
RULES = [rule().rule, BURST, EITHER, AFTER]


def insert(connection: sqlite3.Connection, evaluator: Evaluator, rows: Iterable[Record]) -> None:
    with evaluator.guard.lifted():
        for row in rows:
            table = table_of(type(row))
            connection.execute(table.insert, table.to_row(row))


def comparable(findings: Iterable[Finding]) -> list[tuple[Any, ...]]:
    return sorted((f.rule, f.session or 0, f.time, f.message, f.process or 0, f.rests_on) for f in findings)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from([Opened, Connected]),
        st.integers(1, 3),
        st.integers(0, 3 * SECOND),
        st.integers(0, 5),
        st.booleans(),
    ),
    max_size=60,
)


def records(events: list[tuple[Any, ...]]) -> list[Record]:
    now = 0
    made: list[Record] = []
    for kind, process, pause, number, flag in events:
        now += pause
        common = {"session": 1, "time": now, "process": process}
        if kind is Opened:
            made.append(Opened(path=f"/{'secret' if flag else 'open'}/{number}", result=-int(flag), **common))  # type: ignore[arg-type]
        else:
            made.append(Connected(address=f"10.0.0.{number}", port=number, **common))  # type: ignore[arg-type]
    return made


@given(events=EVENTS, cuts=st.lists(st.integers(0, 60), max_size=12), chunk=st.integers(1, 70))
@settings(max_examples=60, deadline=None)
def test_incremental_equals_batch(
    laboratory: Laboratory, events: list[tuple[Any, ...]], cuts: list[int], chunk: int
) -> None:
    with closing(laboratory.connection()) as whole, closing(laboratory.connection()) as growing:
        compare(whole, growing, events, cuts, chunk)


def compare(
    whole: sqlite3.Connection, growing: sqlite3.Connection, events: list[tuple[Any, ...]], cuts: list[int], chunk: int
) -> None:
    rows = records(events)
    processes = [Process(id=number, session=1, time=0, exe=f"/bin/{number}") for number in range(1, 4)]
    batch = Evaluator(whole, RULES, chunk=chunk)
    insert(whole, batch, [*processes, *rows])
    at_once = batch.step()
    watching = Evaluator(growing, RULES)
    insert(growing, watching, processes)
    found: list[Finding] = []
    places = sorted({0, *(min(cut, len(rows)) for cut in cuts), len(rows)})
    for begin, end in itertools.pairwise(places):
        insert(growing, watching, rows[begin:end])
        found += watching.step()
    assert comparable(found) == comparable(at_once)
    assert not batch.faults()
    assert not watching.step()
    assert batch.step() == []


def test_the_property_above_is_not_about_nothing(connection: sqlite3.Connection) -> None:
    events = [(Connected, 1, SECOND // 10, n % 6, True) for n in range(12)] + [(Opened, 1, 1, 1, True)]
    evaluator = Evaluator(connection, RULES)
    insert(connection, evaluator, records([events[-1], *events]))
    fired = {finding.rule for finding in evaluator.step()}
    assert fired == {one.id for one in RULES}


def test_a_finding_says_what_it_rests_on(connection: sqlite3.Connection) -> None:
    evaluator = Evaluator(connection, [AFTER])
    opened = Opened(session=7, time=5, process=3, path="/secret/x")
    connected = Connected(session=7, time=9, process=3, address="10.0.0.1")
    insert(connection, evaluator, [opened, connected])
    (finding,) = evaluator.step()
    assert (finding.session, finding.time, finding.process) == (7, 9, 3)
    assert (finding.rule, finding.level, finding.title) == ("after", "high", "A secret was read")
    assert json.loads(finding.rests_on) == [["connected", 1], ["process", 3], ["opened", 1]]
    assert abs(finding.found - time.time_ns()) < 60 * SECOND


def test_one_burst_is_one_finding_until_it_pauses(connection: sqlite3.Connection) -> None:
    evaluator = Evaluator(connection, [BURST])
    long = [Connected(session=1, time=n * SECOND, process=1, address=str(n % 5)) for n in range(100)]
    later = [Connected(session=1, time=(200 + n) * SECOND, process=1, address=str(n % 5)) for n in range(4)]
    other = [Connected(session=2, time=(200 + n) * SECOND, process=1, address=str(n % 5)) for n in range(4)]
    insert(connection, evaluator, long)
    assert len(evaluator.step()) == 1
    insert(connection, evaluator, later)
    assert len(evaluator.step()) == 1
    insert(connection, evaluator, other)
    assert [finding.session for finding in evaluator.step()] == [2]


def test_lists_are_tables(connection: sqlite3.Connection) -> None:
    with_list = rule(sql="SELECT id, path, 'x' AS exe FROM opened WHERE path IN (SELECT value FROM lists.secrets)").rule
    lists = {"secrets": List(title="t", values=["/a", "/b", "/a"])}
    evaluator = Evaluator(connection, [with_list], lists)
    insert(connection, evaluator, [Opened(session=1, time=1, path=path) for path in ("/a", "/b", "/c")])
    assert [finding.message for finding in evaluator.step()] == ["x opened /a", "x opened /b"]


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        (f"SELECT id, path, ({ENDLESS}) AS exe FROM opened", "took longer than 0.1 s"),  # noqa: S608 - a test's own words
        ("SELECT o.id, o.path, p.id AS exe FROM opened o, main.opened p, main.opened q", "more than 500 rows"),
    ],
)
def test_a_rule_out_of_bounds_is_given_up_and_the_others_go_on(
    connection: sqlite3.Connection, sql: str, reason: str
) -> None:
    bad = rule(id='"bad"', sql=sql).rule
    evaluator = Evaluator(connection, [bad, rule().rule], seconds=0.1, limit=500)
    for step in range(5):
        insert(connection, evaluator, [Opened(session=1, time=n, path="/secret/1") for n in range(20)])
        begin = time.monotonic()
        assert [finding.rule for finding in evaluator.step()] == ["secret"] * 20
        assert time.monotonic() - begin < (1 if step < 3 else 0.09)
    assert list(evaluator.faults()) == ["bad"]
    assert reason in evaluator.faults()["bad"]
    assert "given up" in evaluator.faults()["bad"]


def test_a_rule_that_finds_everything_is_cut_short_and_says_so(connection: sqlite3.Connection) -> None:
    evaluator = Evaluator(connection, [rule(sql="SELECT id, path, 1 AS exe FROM opened").rule])
    insert(connection, evaluator, [Opened(session=1, time=n, path="/x") for n in range(1500)])
    assert len(evaluator.step()) == 1000
    assert "1500 at once" in evaluator.faults()["secret"]


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("DELETE FROM opened", "DELETE is not allowed in a rule"),
        ("ATTACH ':memory:' AS x", "ATTACH is not allowed in a rule"),
        ("PRAGMA writable_schema = 1", "PRAGMA is not allowed in a rule"),
        ("SELECT load_extension('x') AS id FROM opened", "the function load_extension() is not allowed in a rule"),
        ("SELECT 1 AS id FROM opened) UNION SELECT (1", "syntax error"),
        ("SELECT 1; DELETE FROM opened", "one statement"),
        ("SELECT id FROM nowhere", "no such table"),
        ("SELECT id, nowhat FROM opened", "no such column"),
        ("SELECT path, 1 AS exe FROM opened", "does not select id"),
        ("SELECT id FROM opened", "does not select exe, path"),
    ],
)
def test_a_rule_with_wrong_sql_is_not_evaluated(connection: sqlite3.Connection, sql: str, reason: str) -> None:
    evaluator = Evaluator(connection, [rule(id='"bad"', sql=sql).rule, rule().rule])
    insert(connection, evaluator, [Opened(session=1, time=1, path="/secret/1")])
    assert [finding.rule for finding in evaluator.step()] == ["secret"]
    assert reason in evaluator.faults()["bad"]
    assert next((end.rule, end.state) for end in evaluator.outcomes()) == ("bad", State.NOT_EVALUATED)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "watch.db"


def put(writer: Writer, *rows: Record) -> None:
    for row in rows:
        writer.put(row)
    writer.flush()


def test_while_watching_only_what_is_new_is_judged(path: Path) -> None:
    with Writer(path, [Opened, Connected]) as writer:
        put(writer, Opened(session=1, time=1, path="/secret/old"))
        evaluator = Evaluator(path, [rule().rule], start="end")
        assert evaluator.step() == []
        put(writer, Opened(session=1, time=2, path="/secret/new"))
        (finding,) = evaluator.step()
        assert finding.message == "? opened /secret/new"
        writer.put(finding)
        writer.flush()
        assert evaluator.step() == []
        evaluator.close()
    findings, _ = judge(path, [rule().rule], {})
    assert [finding.message for finding in findings] == ["? opened /secret/old", "? opened /secret/new"]


def test_a_table_that_comes_late_is_judged_then(path: Path) -> None:
    with Writer(path) as writer:
        writer.begin_session(host="h", guest="g", source="s")
        evaluator = Evaluator(path, [rule().rule])
        assert evaluator.step() == []
        assert evaluator.outcomes()[0].state is State.NOT_EVALUATED
        put(writer, Opened(session=1, time=1, path="/secret/a"))
        assert len(evaluator.step()) == 1
        assert evaluator.outcomes()[0].state is State.FIRED
        evaluator.close()


def outcome(path: Path, *rows: Record) -> tuple[State, str | None]:
    with Writer(path, [Opened, Connected]) as writer:
        session = writer.begin_session(host="h", guest="g", source="s").session
        put(writer, *rows)
        writer.end_session(session, "done")
    (end,) = judge(path, [rule().rule], {})[1]
    return end.state, end.reason


def covered(**columns: Any) -> Coverage:
    return Coverage(session=1, plugin="file", trap="open", tables=["opened"], begin=1, **columns)


def test_nothing_found_is_clean_only_where_somebody_looked(path: Path) -> None:
    assert outcome(path, covered()) == (State.CLEAN, None)


def test_what_was_never_collected_is_not_evaluated(path: Path) -> None:
    assert outcome(path) == (State.NOT_EVALUATED, "opened was not collected")


def test_a_trap_that_was_never_armed_collected_nothing(path: Path) -> None:
    state, reason = outcome(path, covered(gap="no such symbol"))
    assert state is State.NOT_EVALUATED
    assert "no such symbol" in str(reason)


@pytest.mark.parametrize("gap", [{"begin": 5, "gap": "too many hits"}, {"begin": 5, "missed": 3}])
def test_with_gaps_nothing_found_means_nothing(path: Path, gap: dict[str, Any]) -> None:
    rows = covered(end=5), Coverage(**{"session": 1, "plugin": "file", "trap": "open", "tables": ["opened"], **gap})
    assert outcome(path, *rows)[0] is State.NOT_KNOWN


def test_rows_without_coverage_show_that_somebody_looked(path: Path) -> None:
    assert outcome(path, Opened(session=1, time=1, path="/x")) == (State.CLEAN, None)


def test_rows_that_were_kept_apart_are_a_gap(path: Path) -> None:
    state, reason = outcome(path, covered(), Opened(session=1, time=1, path="\ud800"))
    assert (state, reason) == (State.NOT_KNOWN, "1 rows of opened could not be stored")


def test_a_rule_over_several_tables_needs_one_but_not_what_it_looks_up(path: Path) -> None:
    with Writer(path, [Opened, Connected]) as writer:
        session = writer.begin_session(host="h", guest="g", source="s").session
        put(writer, Coverage(session=1, plugin="net", trap="connect", tables=["connected"], begin=1))
        writer.end_session(session, "done")
    ends = judge(path, [EITHER, AFTER], {})[1]
    assert [(end.rule, end.state, end.reason) for end in ends] == [
        ("either", State.NOT_KNOWN, "opened was not collected"),
        ("after", State.NOT_EVALUATED, "opened was not collected"),
    ]


def test_a_session_that_was_cut_off_is_not_known(path: Path) -> None:
    with Writer(path, [Opened]) as writer:
        writer.begin_session(host="h", guest="g", source="s")
        put(writer, covered())
    (end,) = judge(path, [rule().rule], {})[1]
    assert (end.state, end.reason) == (State.NOT_KNOWN, "the session has no end: it was cut off, or goes on")
    with_watch = Evaluator(path, [rule().rule])
    assert with_watch.outcomes()[0].state is State.CLEAN
    with_watch.close()


def test_what_was_found_was_found(path: Path) -> None:
    state, _ = outcome(path, covered(gap="too many hits"), Opened(session=1, time=1, path="/secret/1"))
    assert state is State.FIRED


def test_a_session_may_be_asked_for_alone(path: Path) -> None:
    with Writer(path, [Opened]) as writer:
        for _ in range(2):
            writer.begin_session(host="h", guest="g", source="s")
        put(writer, Opened(session=2, time=1, path="/secret/1"))
    evaluator = Evaluator(path, [rule().rule])
    evaluator.step()
    assert [(end.session, end.state) for end in evaluator.outcomes()] == [
        (1, State.NOT_EVALUATED),
        (2, State.FIRED),
    ]
    assert [end.session for end in evaluator.outcomes(2)] == [2]
    evaluator.close()


def test_a_file_that_cannot_be_read_is_told(path: Path) -> None:
    with pytest.raises(StoreError, match="no such file"):
        Evaluator(path, [rule().rule])
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="not a SQLite database"):
        Evaluator(path, [rule().rule])


WORDS = st.sampled_from(
    [
        *("SELECT", "FROM", "WHERE", "opened", "connected", "main.", "id", ",", "(", ")", "AS", "path", "*", ";", "--"),
        *(
            "'/x'",
            "UNION ALL",
            "WITH RECURSIVE",
            ":x",
            "?",
            "\0",
            "NULL",
            "count(*)",
            "json_each('x')",
            '"',
            "'",
            "->>",
        ),
        *("argv_text(path)", "0", "JOIN", "ORDER BY", "LIMIT", "-1", "VALUES", "EXISTS", "lists.secrets"),
    ]
)


@given(sql=st.lists(WORDS, max_size=25).map(" ".join) | st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_no_sql_gets_out_of_hand(laboratory: Laboratory, sql: str) -> None:
    odd = msgspec.structs.replace(RULES[0], id="odd", sql=sql)
    with closing(laboratory.connection()) as connection:
        evaluator = Evaluator(connection, [odd, RULES[0]], {"secrets": List(title="t", values=["/a"])}, seconds=0.5)
        insert(connection, evaluator, [Opened(session=1, time=1, path="/secret/1")])
        found = [finding.rule for finding in evaluator.step()]
        assert found.count("secret") == 1
        assert "odd" in evaluator.faults() or "odd" in found or not evaluator.step()
        assert connection.execute("SELECT count(*) FROM opened").fetchone() == (1,)


def test_a_finding_says_whether_all_was_seen(path: Path) -> None:
    with Writer(path, [Opened]) as writer:
        for number in (1, 2, 3):
            session = writer.begin_session(host="h", guest="g", source="s").session
            if number < 3:
                put(writer, Coverage(session=session, plugin="file", trap="open", tables=["opened"], begin=0, end=9))
            writer.put(Opened(session=session, time=5, path=f"/secret/{number}"))
            writer.end_session(session, "done", end=9)
        put(writer, Coverage(session=2, plugin="file", trap="open", tables=["opened"], begin=9, end=10, **GAP))
    findings, _ = judge(path, [rule().rule], {})
    complete, gaps, unknown = [finding.coverage for finding in findings]
    assert (complete, unknown) == ("complete", None)
    assert "gaps" in str(gaps)
    assert "throttled" in str(gaps)
