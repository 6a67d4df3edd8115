# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet plugins`` and ``drakmet new plugin`` as a person meets them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from drakmet.cli import plugins as commands
from drakmet.errors import ExitCode, UsageError
from drakmet.plugins import load_file, load_plugins
from drakmet.testing import problems

from .recordings import record

CHECKOUT = Path(__file__).parent.parent.parent
THREE_TRAPS = """
from typing import Annotated
from drakmet import *

class Asked(EventRecord):
    name: Annotated[str | None, "name"]

@hookimpl
def drakmet_traps():
    return [
        Trap(function=("no_such", "do_filp_open"), fetch={"name": "pathname->name"}, record=Asked, name="good"),
        Trap(function="do_filp_open", fetch={"name": "pathname->nmae"}, record=Asked, name="typo"),
        Trap(function="no_such", fetch={"name": "x"}, record=Asked, name="none"),
    ]
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(commands.plugins, [str(argument) for argument in arguments])


def new(*arguments: object) -> Result:
    return CliRunner().invoke(commands.new, ["plugin", *(str(argument) for argument in arguments)])


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "mine"
    path.mkdir(mode=0o755)
    return path


def put(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(text)
    path.chmod(0o644)
    return path


def test_the_bundled_plugins_are_listed() -> None:
    ended = run("--json")
    assert ended.exit_code == ExitCode.CLEAN
    rows = {row["plugin"]: row for row in json.loads(ended.stdout)}
    assert list(rows["execution"]) == ["plugin", "origin", "traps", "tables", "state"]
    assert rows["execution"]["traps"] == 3
    assert rows["execution"]["tables"].startswith("process_start, ")
    assert rows["execution"]["origin"].endswith("execution.py")
    assert {row["state"] for row in rows.values()} == {"loaded"}


def test_a_plugin_that_fails_is_told_and_the_exit_code_with_it(directory: Path) -> None:
    put(directory, "wrong.py", "\n1 / 0")
    ended = run("--plugins-dir", directory, "--nl")
    assert ended.exit_code == ExitCode.PARTLY
    row = json.loads(ended.stdout.splitlines()[-1])
    assert (row["plugin"], row["traps"], row["tables"]) == ("wrong", 0, "")
    assert row["state"] == f"ZeroDivisionError: division by zero ({directory / 'wrong.py'}:2)"
    assert "\\n" not in run("--plugins-dir", directory).stdout


def test_each_trap_is_tried_on_a_guest(tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = put(directory, "own.py", THREE_TRAPS)
    put(directory, "wrong.py", "1 / 0")
    recording = tmp_path / "run.drec"
    record(recording, "6.1", [load_file(own)])
    ended = run("--plugins-dir", directory, "--json", f"replay:{recording}")
    assert ended.exit_code == ExitCode.PARTLY
    rows = {(row["plugin"], row["trap"]): row for row in json.loads(ended.stdout)}
    assert rows["own", "good"] == {
        "plugin": "own", "trap": "good", "function": "do_filp_open", "tables": "asked", "state": "can be set",
    }  # fmt: skip
    assert "filename has no member nmae" in rows["own", "typo"]["state"]
    assert rows["own", "none"]["function"] == "no_such"
    assert "no_such" in rows["own", "none"]["state"]
    assert rows["execution", "exec"]["state"] == "the recording has no trap on begin_new_exec"
    assert rows["wrong", None]["state"].startswith("ZeroDivisionError")


def test_a_guest_that_has_all_is_clean(tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = put(directory, "own.py", THREE_TRAPS.replace("nmae", "name").replace('="no_such"', '="do_filp_open"'))
    recording = tmp_path / "run.drec"
    put(directory, "own.py", good.read_text().replace('"x"', '"pathname->name"'))
    record(recording, "6.1", [load_file(good)])
    monkeypatch.setattr("drakmet.plugins.bundled", lambda: directory)
    ended = run(f"replay:{recording}", "--nl")
    assert [json.loads(line)["trap"] for line in ended.stdout.splitlines()] == ["good", "typo", "none"]
    assert ended.exit_code == ExitCode.CLEAN


def test_a_guest_that_is_not_there() -> None:
    assert isinstance(run("replay:/none.drec").exception, UsageError)
    assert isinstance(run("nonsense").exception, UsageError)


def test_a_new_plugin_works_as_it_is_written(tmp_path: Path) -> None:
    directory = tmp_path / "made" / "here"
    mask = os.umask(0)  # the worst there is: what is written must not be open to all
    try:
        ended = new("my_own", "--directory", directory)
    finally:
        os.umask(mask)
    assert ended.exit_code == ExitCode.CLEAN
    assert {path.name for path in directory.iterdir()} == {"my_own.py", "test_my_own.py"}
    (plugin,) = [one for one in load_plugins([directory]).found if one.name == "my-own"]
    assert plugin.error is None
    assert problems(plugin) == []
    assert [record.table for record in plugin.records] == ["my_own_open"]
    assert [(trap.handler, trap.record) for trap in plugin.traps] == [(None, plugin.records[0])]
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", directory],
        cwd=directory, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "3 passed" in tested.stdout


def test_a_new_plugin_is_in_the_style_of_the_house_and_fits_a_kernel(directory: Path, tmp_path: Path) -> None:
    assert new("my_own", "--directory", directory).exit_code == ExitCode.CLEAN
    config = ["--config", str(CHECKOUT / "pyproject.toml")]
    for command in (["format", "--check", *config], ["check", *config, "--ignore", "INP,S101,D103"]):
        made = subprocess.run(
            [sys.executable, "-m", "ruff", *command, directory], capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, made.stdout + made.stderr
    recording = tmp_path / "run.drec"
    assert {one.table for one in record(recording, "6.12", [load_file(directory / "my_own.py")])} == {
        "process",
        "my_own_open",
    }


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("My-Own", "did you mean 'my_own'?"),
        ("my own", "did you mean 'my_own'?"),
        ("../up", "did you mean 'up'?"),
        ("1st", "a letter first"),
        ("", "a letter first"),
        ("class", "small letters"),
        ("é", "small letters"),
        ("a" * 60, "small letters"),
        ("test_mine", "another name"),
        ("conftest", "another name"),
        ("file", "`drakmet plugins`"),
        ("network_intent", "`drakmet plugins`"),
    ],
)
def test_a_name_that_cannot_be_is_refused(directory: Path, name: str, hint: str) -> None:
    ended = new(name, "--directory", directory)
    assert isinstance(ended.exception, UsageError)
    assert ended.exception.hint is not None
    assert hint in ended.exception.hint
    assert list(directory.parent.rglob("*.py")) == []


@pytest.mark.parametrize("name", ["my_own.py", "test_my_own.py"])
def test_nothing_is_written_over(directory: Path, name: str) -> None:
    put(directory, name, "# mine")
    ended = new("my_own", "--directory", directory)
    assert isinstance(ended.exception, UsageError)
    assert ended.exception.where == str(directory / name)
    assert [path.read_text() for path in directory.iterdir()] == ["# mine"]


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = new("my_own", "--directory", tmp_path / "file" / "below")
    assert isinstance(ended.exception, UsageError)
    assert "Not a directory" in ended.exception.what
