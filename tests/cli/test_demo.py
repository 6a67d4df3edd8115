# SPDX-License-Identifier: GPL-2.0-or-later
"""The shipped recording of a real intrusion, from guest memory to findings."""

import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner
from rules.kinds import of_events

from drakmet.cli.demo import INTRUSION, RECORDING, demo
from drakmet.errors import ExitCode, UsageError


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    database = tmp_path_factory.mktemp("demo") / "demo.db"
    result = CliRunner().invoke(demo, ["--replay", "--db", str(database)], catch_exceptions=False)
    assert result.exit_code == ExitCode.FINDINGS, result.output
    return database, result.output


def test_each_rule_fires_on_the_recording(replayed: tuple[Path, str]) -> None:
    connection = sqlite3.connect(replayed[0])
    fired = {rule for (rule,) in connection.execute("SELECT DISTINCT rule FROM finding")}
    connection.close()
    assert of_events() - fired == set()


def test_it_says_where_the_database_is_and_what_to_ask(replayed: tuple[Path, str]) -> None:
    database, output = replayed
    assert f"The database: {database}" in output
    assert f"drakmet query {database}" in output
    assert database.stat().st_mode & 0o077 == 0


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    database = tmp_path / "mine.db"
    database.write_text("mine")
    result = CliRunner().invoke(demo, ["--replay", "--db", str(database)])
    assert isinstance(result.exception, UsageError)
    assert database.read_text() == "mine"


def test_what_is_shipped_is_small_and_complete() -> None:
    assert RECORDING.stat().st_size < 2 << 20
    script = INTRUSION.read_text()
    assert [rule for rule in of_events() if f"{rule}()" not in script] == []
