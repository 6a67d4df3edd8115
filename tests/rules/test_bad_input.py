# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules that are wrong, or mean harm: each is refused or stopped with file and line, and the watch goes on."""

import functools
import os
import resource
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drakmet.cli import judging
from drakmet.errors import RuleError
from drakmet.rules import Evaluator, State, load_rules
from drakmet.rules.check import Linter
from drakmet.rules.format import RuleFile
from drakmet.rules.lists import List
from drakmet.rules.trial import Laboratory
from drakmet.rules.weight import HEAVIEST, weight
from drakmet.store import Writer, functions
from drakmet.store.guard import Guard

from .conftest import RULE, Connected, Opened, rule
from .test_evaluate import insert

# A text of 2 MB, made of one letter.
LONG = "WITH RECURSIVE n(i, s) AS (SELECT 1, 'x' UNION ALL SELECT i + 1, s || s FROM n WHERE i < 22) SELECT s FROM n"
LONG = f"({LONG} ORDER BY i DESC LIMIT 1)"
MANY = "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000000) SELECT i FROM n)"


def select(exe: str, more: str = "") -> str:
    return f"SELECT id, path,\n  {exe} AS exe\nFROM opened\n{more}"


def nested(levels: int) -> str:
    sql = "SELECT id, path, id AS exe FROM opened"
    for _ in range(levels):
        sql = f"SELECT id, path, exe + exe + exe AS exe FROM ({sql})"  # noqa: S608
    return sql


def doubled(levels: int) -> str:
    tables = "".join(f", a{n} AS (SELECT p.x FROM a{n - 1} AS p, a{n - 1} AS q)" for n in range(1, levels))  # noqa: S608
    return f"WITH a0 AS (SELECT 1 AS x){tables} SELECT id, path, (SELECT x FROM a{levels - 1}) AS exe FROM opened"  # noqa: S608


REFUSED = {
    "writes": ("DELETE FROM opened", "DELETE is not allowed"),
    "updates": ("UPDATE opened SET path = 1", "UPDATE is not allowed"),
    "drops": ("DROP TABLE opened", "not allowed"),
    "attaches": ("ATTACH '/tmp/x.db' AS x", "ATTACH is not allowed"),
    "vacuums": ("VACUUM INTO '/tmp/x.db'", "INTO"),
    "pragma": ("PRAGMA journal_mode = DELETE", "PRAGMA is not allowed"),
    "pragma as a table": (select("(SELECT name FROM pragma_table_info('opened'))"), "not allowed"),
    "transaction": ("BEGIN EXCLUSIVE", "not allowed"),
    "two statements": ("SELECT 1; DELETE FROM opened", "one statement"),
    "load_extension": (select("load_extension('x.so')"), "load_extension() is not allowed"),
    "readfile": (select("readfile('/etc/passwd')"), "no such function"),
    "zeroblob": (select("zeroblob(1000000000)"), "zeroblob() is not allowed"),
    "randomblob": (select("randomblob(1000000000)"), "randomblob() is not allowed"),
    "printf": (select("printf('%999999999d', 1)"), "printf() is not allowed"),
    "format": (select("format('%*d', 999999999, 1)"), "format() is not allowed"),
    "regexp": (select("path REGEXP '(a+)+$'"), "REGEXP"),
    "expressions that multiply": (nested(11), "subqueries multiply"),
    "tables that multiply": (doubled(40), "subqueries multiply"),
    "too deep": (select("(" * 200 + "1" + ")" * 200), "subqueries multiply"),
    "too long": (select("'" + "x" * 300_000 + "'"), "too large"),
}
STOPPED = {
    "endless recursion": select(
        "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n)"
    ),
    "endless growth": select(
        "(WITH RECURSIVE n(i) AS (SELECT path UNION ALL SELECT i || i FROM n) SELECT count(*) FROM n)"
    ),
    "a million rows": f"SELECT id, path, n.i AS exe FROM opened, {MANY} AS n",  # noqa: S608
    "long rows": f"SELECT id, path, big.s || n.i AS exe FROM opened, {MANY} AS n, {LONG} AS big",  # noqa: S608
    "long rows, sorted": f"SELECT id, path, big.s || n.i AS exe FROM opened, {MANY} n, {LONG} big ORDER BY 3",  # noqa: S608
    "all with all": f"SELECT id, path, (SELECT count(*) FROM {MANY} a, {MANY} b) AS exe FROM opened",  # noqa: S608
    "a long pattern": select(f"({LONG} LIKE '{'%x' * 400}')"),
    "longer and longer": select(f"(SELECT length(group_concat({LONG} || i)) FROM {MANY})"),  # noqa: S608
}


@pytest.mark.parametrize(("sql", "reason"), REFUSED.values(), ids=REFUSED)
def test_sql_that_may_not_be_is_refused_with_its_line(
    laboratory: Laboratory, connection: sqlite3.Connection, sql: str, reason: str
) -> None:
    file = rule(id='"bad"', sql=sql)
    evaluator = Evaluator(connection, [file.rule, rule().rule], where={"bad": file.where("sql")})
    insert(connection, evaluator, [Opened(session=1, time=1, path="/secret/1")])
    assert [finding.rule for finding in evaluator.step()] == ["secret"]
    assert reason in evaluator.faults()["bad"]
    assert evaluator.faults()["bad"].startswith("secret.toml:")
    with closing(Linter(laboratory, {})) as linter:
        issues = [issue for issue in linter.check(file) if issue.code not in ("id", "from")]
    assert any(issue.level == "error" and issue.where.rpartition(":")[2].isdecimal() for issue in issues)


@pytest.mark.parametrize("sql", STOPPED.values(), ids=STOPPED)
def test_sql_out_of_bounds_is_stopped_soon_and_takes_little_memory(connection: sqlite3.Connection, sql: str) -> None:
    file = rule(id='"bad"', sql=sql)
    where = {"bad": file.where("sql")}
    evaluator = Evaluator(connection, [file.rule, rule().rule], where=where, seconds=0.2)
    insert(connection, evaluator, [Opened(session=1, time=1, path="/secret/1")])
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert [finding.rule for finding in evaluator.step()] == ["secret"]
    # Generous, for a machine with other things to do: unbounded these run for minutes and take many GB.
    assert time.monotonic() - begun < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20
    assert evaluator.faults()["bad"].startswith(f"{where['bad']}: ")


def test_memory_is_bounded_as_well_as_time(connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drakmet.store.guard._MOST_MEMORY", 0)
    pages = iter(range(10**9))
    monkeypatch.setattr("drakmet.store.guard._resident", lambda: next(pages))
    endless = rule(id='"bad"', sql=STOPPED["endless recursion"]).rule
    evaluator = Evaluator(connection, [endless], seconds=60)
    insert(connection, evaluator, [Opened(session=1, time=1, path="/secret/1")])
    evaluator.step()
    assert "MB of memory" in evaluator.faults()["bad"]


def test_the_watch_goes_on_beside_bad_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "Evaluator", functools.partial(Evaluator, seconds=0.2))
    site = tmp_path / "site"
    (site / "lists").mkdir(parents=True)
    (site / "lists" / "wrong.toml").write_text("values = [")
    (site / "secret.toml").write_text(RULE)
    (site / "broken.toml").write_text('id = "broken"\ntitle = ')
    for name, sql in [("endless", STOPPED["endless recursion"]), ("writes", REFUSED["writes"][0])]:
        (site / f"{name}.toml").write_text(rule(id=f'"{name}"', sql=sql).text)
    rules = load_rules([site], strict=False)
    found: list[Any] = []
    with Writer(tmp_path / "run.db", [Opened, Connected]) as writer:
        session = writer.begin_session(host="h", guest="g", source="s").session
        judge = judging.Judge(tmp_path / "run.db", rules, found.append, session=session)
        for number in range(3):
            writer.put(Opened(session=session, time=number, path=f"/secret/{number}"))
            writer.flush()
        outcomes = {end.rule: end for end in judge.finish()}
    assert "wrong.toml" in str(judge.fault) or "broken.toml" in str(judge.fault)
    assert [finding.message for finding in found] == [f"? opened /secret/{number}" for number in range(3)]
    states = {name: end.state for name, end in outcomes.items()}
    assert states == {
        "secret": State.FIRED,
        "endless": State.NOT_KNOWN,
        "writes": State.NOT_EVALUATED,
        "broken": State.NOT_EVALUATED,
        "wrong": State.NOT_EVALUATED,
    }
    places = {"endless": "endless.toml:", "writes": "writes.toml:", "broken": "broken.toml:2", "wrong": "wrong.toml"}
    for name, place in places.items():
        assert place in str(outcomes[name].reason), outcomes[name]
    assert {name for name, end in outcomes.items() if end.faulty} == places.keys()


@pytest.mark.parametrize(
    "text",
    ["id =", "[[[", "a = 1\na = 2", "\x00", 'id = "x"', "a = " + "{a = " * 5000, "x = [" * 1000, "= 5", "\ufeffid = 1"],
)
def test_malformed_files_are_refused_with_their_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RuleError) as caught:
        load_rules([path])
    assert str(caught.value.where).startswith(str(path))
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "bad.toml").write_text(text, encoding="utf-8")
    loaded = load_rules([tmp_path], strict=False)
    assert len(loaded.errors) == 2
    assert "shells" in loaded.lists


@given(st.text() | st.binary())
def test_no_file_breaks_the_loader(data: str | bytes) -> None:
    text = data if isinstance(data, str) else data.decode("utf-8", "replace")
    try:
        RuleFile(Path("x.toml"), text)
    except RuleError as error:
        assert error.where


@given(cut=st.integers(0, len(RULE)), change=st.characters(), width=st.integers(0, 5))
def test_no_change_of_a_rule_breaks_the_loader_or_the_linter(
    laboratory: Laboratory, cut: int, change: str, width: int
) -> None:
    text = RULE[:cut] + change + RULE[cut + width :]
    try:
        file = RuleFile(Path("secret.toml"), text)
    except RuleError as error:
        assert error.where
        return
    with closing(Linter(laboratory, {"secrets": List(title="t", values=["/a"])})) as linter:
        assert all(issue.where.startswith("secret.toml:") for issue in linter.check(file))


@pytest.fixture
def plain() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        yield connection


@given(
    text=st.text(alphabet="ab\u00e9 ", max_size=12) | st.integers(-20, 20) | st.none(),
    part=st.text(alphabet="ab\u00e9 ", max_size=3) | st.integers(0, 2) | st.none(),
)
def test_our_forms_of_sqlites_functions_give_what_sqlites_give(text: object, part: object) -> None:
    with closing(sqlite3.connect(":memory:")) as ours, closing(sqlite3.connect(":memory:")) as sqlites:
        functions.register(ours)
        for call in ("instr(?1, ?2)", "replace(?1, ?2, 'xy')", "trim(?1, ?2)", "ltrim(?1, ?2)", "rtrim(?1, ?2)"):
            sql = f"SELECT {call}, trim(?1), ltrim(?1), rtrim(?1), ?2"
            assert ours.execute(sql, (text, part)).fetchone() == sqlites.execute(sql, (text, part)).fetchone(), call


@pytest.mark.parametrize(
    "call",
    ["instr(s, substr(s, 2) || 'y')", "replace(s, substr(s, 2) || 'y', '')", "trim(s || 'y', s)", "ip_public(s)"],
)
def test_no_text_slows_a_function_down(plain: sqlite3.Connection, call: str) -> None:
    functions.register(plain)
    guard = Guard(plain, longest=4 << 20)
    begun = time.monotonic()
    with guard.deadline(30):
        plain.execute(f"SELECT {call} FROM {LONG}").fetchall()  # noqa: S608 - the list above
    assert time.monotonic() - begun < 10


def test_what_people_write_is_light() -> None:
    assert max(weight(one.sql) for one in load_rules().rules) < 1_000
    wide = " OR ".join(f"path LIKE '%{number}%'" for number in range(300))
    assert weight(select("1", f"WHERE {wide}")) < HEAVIEST
    assert weight(nested(3)) < HEAVIEST
    assert weight("(" * 5_000) == HEAVIEST


@given(st.text(alphabet="()ab ,.asWITH\"'", max_size=60))
def test_any_sql_has_a_weight(sql: str) -> None:
    assert 0 < weight(sql) <= HEAVIEST


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"parameters.least": '{ default = 99999999999999999999, doc = "x" }'}, "64 bits"),
        ({"parameters.Least": '{ default = 9, doc = "x" }'}, "cannot be a parameter's name"),
        ({"parameters.drakmet_low_opened": '{ default = 9, doc = "x" }'}, "cannot be a parameter's name"),
    ],
)
def test_parameters_that_cannot_be_are_refused(changes: dict[str, str], match: str) -> None:
    with pytest.raises(RuleError, match=match) as caught:
        rule(**changes)
    assert str(caught.value.where).startswith("secret.toml:")


@pytest.mark.parametrize(
    "row",
    [
        *('path = "x", result = 99999999999999999999', 'path = "x", at = inf', 'path = "x", at = nan, repeat = 2'),
        *('path = "x", every = -1e300, repeat = 3', "time = 99999999999999999999", "at = 10000000000"),
    ],
)
def test_rows_that_cannot_be_are_told(laboratory: Laboratory, row: str) -> None:
    text = RULE.replace('rows.opened = [{ path = "/etc/passwd" }]', f"rows.opened = [{{ {row} }}]")
    verdict = list(laboratory.try_rule(RuleFile(Path("secret.toml"), text), {}))[1]
    assert verdict.fault
    assert verdict.where.startswith("secret.toml:")


def test_a_list_that_sqlite_cannot_take_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "big.toml").write_text('title = "x"\nvalues = [99999999999999999999]')
    assert ["64 bits" in error.what for error in load_rules([tmp_path], strict=False).errors] == [True]


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "directory.toml").mkdir()
    os.mkfifo(tmp_path / "pipe.toml")
    errors = load_rules([tmp_path], strict=False).errors
    assert [(error.where, error.what) for error in errors] == [
        (str(tmp_path / f"{name}.toml"), "it is not a file") for name in ("directory", "pipe")
    ]


@pytest.mark.parametrize("number", ["path", "x'00ff'", "1.5"])
def test_a_row_number_that_is_none_fails_its_rule_alone(connection: sqlite3.Connection, number: str) -> None:
    bad = rule(id='"bad"', sql=f"SELECT {number} AS id, path, 1 AS exe FROM opened").rule  # noqa: S608
    evaluator = Evaluator(connection, [bad, rule().rule])
    insert(connection, evaluator, [Opened(session=1, time=1, path="/secret/1")])
    assert [finding.rule for finding in evaluator.step()] == ["secret"]
    assert "no number of a row" in evaluator.faults()["bad"]
