# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows in four formats, none of which lets a guest steer the terminal."""

import json
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from drakmet.cli.output import Format, emit, output_options, printable

ROWS = [{"name": "a\x1b[2J[red]\N{RIGHT-TO-LEFT OVERRIDE}\n", "n": 3}, {"name": None, "n": 4}]


@click.command()
@output_options
def show(output: Format) -> None:
    emit(ROWS, ["name", "n"], output)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(show, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_a_table_is_what_you_get() -> None:
    assert run() == run("--table")
    assert r"a\x1b[2J[red]\u202e\n" in run()


def test_json_gives_the_rows_back() -> None:
    assert json.loads(run("--json")) == ROWS
    assert [json.loads(line) for line in run("--nl").splitlines()] == ROWS


def test_csv_has_a_header_and_escapes() -> None:
    assert run("--csv").splitlines() == ["name,n", r"a\x1b[2J[red]\u202e\n,3", ",4"]


@pytest.mark.parametrize("option", ["--json", "--nl", "--csv", "--table"])
def test_nothing_steers_the_terminal(option: str) -> None:
    assert all(line.isprintable() for line in run(option).splitlines())


@pytest.mark.parametrize("option", ["--json", "--nl"])
def test_no_rows_is_valid_output(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROWS", [])
    assert [json.loads(line) for line in run(option).splitlines()] == ([[]] if option == "--json" else [])


@given(st.one_of(st.text(), st.integers(), st.none(), st.binary()))
def test_printable_is_printable(value: Any) -> None:
    assert printable(value).isprintable()
