# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet tables`` and ``drakmet query`` as a person meets them."""

import csv
import json
from pathlib import Path
from typing import Annotated

import pytest
from click.testing import CliRunner, Result

from drakmet.cli import data
from drakmet.errors import DrakmetError, ExitCode
from drakmet.records import Address, EventRecord
from drakmet.store import Writer


class Mapped(EventRecord):
    """A file was mapped."""

    path: Annotated[str | None, "its path"] = None
    start: Annotated[Address | None, "where"] = None
    words: Annotated[list[str] | None, "a list"] = None


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "run.db"
    with Writer(path, [Mapped]) as writer:
        writer.put(Mapped(session=1, time=1, path="/a\x1b[2J[red]", start=0xFFFFFFFF81000000, words=["x"]))
        writer.put(Mapped(session=1, time=2))
    return path


def query(*arguments: object, text: str = "") -> Result:
    return CliRunner().invoke(data.query, [str(argument) for argument in arguments], input=text)


def tables(*arguments: object) -> Result:
    return CliRunner().invoke(data.tables, [str(argument) for argument in arguments])


ALL = "SELECT path, start, words FROM mapped"


def test_a_query_gives_what_columns_mean(database: Path) -> None:
    result = query(database, ALL, "--json")
    assert json.loads(result.stdout) == [
        {"path": "/a\x1b[2J[red]", "start": "0xffffffff81000000", "words": ["x"]},
        {"path": None, "start": None, "words": None},
    ]


@pytest.mark.parametrize("option", ["--table", "--json", "--csv", "--nl"])
def test_nothing_of_a_guest_steers_the_terminal(database: Path, option: str) -> None:
    result = query(database, ALL, option)
    assert result.exit_code == ExitCode.CLEAN
    assert "0xffffffff81000000" in result.stdout
    assert all(line.isprintable() for line in result.stdout.splitlines())


def test_other_formats(database: Path) -> None:
    assert next(csv.reader(query(database, ALL, "--csv").stdout.splitlines())) == ["path", "start", "words"]
    assert [json.loads(line)["words"] for line in query(database, ALL, "--nl").stdout.splitlines()] == [["x"], None]


def test_a_query_may_come_from_standard_input_and_use_lists(database: Path) -> None:
    result = query(database, "-", "--json", text="SELECT count(*) > 3 AS many FROM lists.shells")
    assert json.loads(result.stdout) == [{"many": 1}]


@pytest.mark.parametrize(
    ("sql", "match"),
    [
        ("DELETE FROM mapped", "not allowed"),
        ("SELECT nowhat FROM mapped", "no such column"),
        ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n", "longer than 0.2 s"),
    ],
)
def test_what_a_query_may_not_do_is_a_usage_error(database: Path, sql: str, match: str) -> None:
    error = query(database, sql, "--timeout", "0.2").exception
    assert isinstance(error, DrakmetError)
    assert error.exit_code == ExitCode.USAGE
    assert match in str(error)
    assert error.hint


def test_tables_of_a_file(database: Path) -> None:
    columns = json.loads(tables(database, "mapped", "--json").stdout)
    assert [(row["column"], row["type"], row["rows"]) for row in columns][-3:] == [
        ("path", "text", 2),
        ("start", "address", 2),
        ("words", "json", 2),
    ]
    shown = tables(database, "mapped").stdout
    assert "A file was mapped." in shown
    assert "vcpu" not in shown


def test_tables_without_a_file_are_those_of_the_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "known_records", lambda _directories: [Mapped])
    rows = json.loads(tables("--json").stdout)
    assert {row["table"] for row in rows} >= {"mapped", "process", "finding"}
    assert all(row["doc"] for row in rows)
    assert "rows" not in rows[0]


def test_an_unknown_table_is_told(database: Path) -> None:
    result = tables(database, "mappd")
    assert result.exit_code == ExitCode.USAGE
    assert "there is no table mappd" in result.stderr
