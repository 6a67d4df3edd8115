# SPDX-License-Identifier: GPL-2.0-or-later
"""`drakmet watch` where it cannot work: told why and what to do, and nothing is left behind."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from identity.tiny import build

from drakmet import cli
from drakmet.cli.demo import RECORDING
from drakmet.cli.watch import replay
from drakmet.errors import ExitCode

NOBODY = ("--uid", "4711")
"""Nothing that this user did is in the recording: no finding comes before what the test is about."""
RAISING = """
from drakmet import Trap, hookimpl

def on_open(hit):
    raise ValueError("no good")

@hookimpl
def drakmet_traps():
    return [Trap(function="do_filp_open", fetch={}, handler=on_open)]
"""
ON_XEN = Path("/proc/xen/privcmd").exists() or Path("/dev/xen/privcmd").exists()


@pytest.mark.skipif(ON_XEN, reason="this machine runs Xen")
@pytest.mark.parametrize("command", ["watch", "record"])
def test_without_xen_it_says_what_is_missing_and_leaves_no_file(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    option = "--db" if command == "watch" else "-o"
    monkeypatch.setattr("sys.argv", ["drakmet", command, "xen:web1", option, str(tmp_path / "none")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 4
    assert "xen" in capsys.readouterr().err.lower()
    assert list(tmp_path.iterdir()) == []


def replayed(directory: Path, *options: str) -> tuple[int, str]:
    """Return the exit code of a replay of the shipped recording, and all it said."""
    given = [str(RECORDING), "--db", str(directory / "replayed.db"), *options]
    result = CliRunner().invoke(replay, given, catch_exceptions=False)
    return result.exit_code, result.output


def test_a_broken_rule_is_left_out_with_its_line_and_the_run_is_partly_done(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("id = 3 [\n")
    code, said = replayed(tmp_path, *NOBODY, "--rules", str(tmp_path / "broken.toml"))
    assert code == ExitCode.PARTLY
    assert "broken.toml:1: not TOML" in said


@pytest.mark.parametrize(
    ("text", "told"), [("import nothing_of_this_name", "left out"), (RAISING, "ValueError: no good")]
)
def test_a_broken_plugin_is_told_of_and_the_run_is_partly_done(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "broken.py").write_text(text)
    options = ("--plugin", "broken", "--no-rules", "--plugins-dir", str(tmp_path))
    code, said = replayed(tmp_path, *(options if "hookimpl" in text else options[2:] + NOBODY))
    assert code == ExitCode.PARTLY
    assert told in said
    assert "broken.py" in said


def test_without_executed_pages_nothing_is_named_and_the_coverage_says_so(tmp_path: Path) -> None:
    build(tmp_path).__exit__()
    code, _ = replayed(tmp_path, *NOBODY, "--no-rules", "--identity", str(tmp_path / "pages.db"))
    assert code == ExitCode.PARTLY
    with closing(sqlite3.connect(tmp_path / "replayed.db")) as connection:
        query = "SELECT kind, gap FROM coverage WHERE plugin = 'identity' AND trap = 'applications'"
        assert connection.execute(query).fetchall() == [("not armed", "the recording has no executed pages")]
        assert connection.execute("SELECT count(*) FROM application").fetchone() == (0,)
