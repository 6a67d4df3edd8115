# SPDX-License-Identifier: GPL-2.0-or-later
"""How the program drakvuf is run and ended; a stand-in that prints real logs takes its place here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from drakmet.cli.drakvuf import Session, Target
from drakmet.cli.known import known_records
from drakmet.drakvuf import runner
from drakmet.drakvuf.hooks import gaps
from drakmet.errors import DrakmetError, ExitCode, UsageError
from drakmet.sources.base import About
from drakmet.sources.drakvuf import LogFile
from drakmet.store import Reader
from drakvuf.logs import LINUX, unpacked

STAND_IN = [sys.executable, str(Path(__file__).with_name("stand_in.py"))]
PROCMON = next(path for path in LINUX if "procmon" in path.name)


def ask(path: Path, sql: str) -> list[tuple[object, ...]]:
    with Reader(path) as reader:
        return [tuple(row.values()) for row in reader.select(sql)[1]]


def watch(path: Path, seconds: float | None = None, *options: str) -> ExitCode:
    target = Target(About("xen3", "web1"), "xen:web1", None)
    return Session(target, path, known_records(), None).run([*STAND_IN, *options], seconds)


def test_a_log_comes_through_a_pty_byte_for_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_LOG", str(PROCMON))
    with runner.Running(STAND_IN) as running:
        data = b"".join(LogFile(None, running.output).blocks())
        assert running.end() == 0
    assert data == unpacked(PROCMON)
    assert list(running.said) == ["Failed to initialize a plugin"]


def test_a_watch_is_stored_and_what_was_complained_of_is_a_gap(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "arguments"
    monkeypatch.setenv("STAND_IN_LOG", str(PROCMON))
    monkeypatch.setenv("STAND_IN_ARGUMENTS", str(kept))
    monkeypatch.setenv("STAND_IN_WAIT", "yes")
    assert watch(tmp_path / "a.db", 1.0, "-a", "procmon") == ExitCode.PARTLY
    assert json.loads(kept.read_text()) == ["-a", "procmon", "tty=True"]
    assert ask(tmp_path / "a.db", "SELECT count(*) FROM drakvuf_procmon") == [(1354,)]
    # What it prints while it ends is not lost.
    assert ask(tmp_path / "a.db", "SELECT key FROM drakvuf_regmon") == [("last",)]
    assert ask(tmp_path / "a.db", "SELECT trap, gap FROM coverage WHERE gap IS NOT NULL") == [
        ("drakvuf", "Failed to initialize a plugin")
    ]
    assert ask(tmp_path / "a.db", "SELECT outcome FROM session") == [("done",)]
    assert "1355 lines = 1355 records" in capsys.readouterr().out


@pytest.mark.parametrize(("code", "text"), sorted(runner.EXIT_CODES.items()))
def test_each_exit_code_is_explained(
    code: int, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STAND_IN_CODE", str(code))
    ended = watch(tmp_path / "a.db")
    assert ended == (ExitCode.PARTLY if code in (0, 11) else ExitCode.FAILED)
    output = capsys.readouterr().out
    assert text in output
    assert "it has set no hook at all" in output
    reasons = [reason for (reason,) in ask(tmp_path / "a.db", "SELECT gap FROM coverage")]
    assert "it printed nothing: perhaps it has set no hook at all" in reasons


def test_an_unknown_exit_code_and_a_signal_are_told() -> None:
    assert "exit code 42" in runner.explain(42, [])
    assert runner.explain(-9, ["a", "why"]) == "drakvuf was ended by SIGKILL (why)"


def test_a_drakvuf_that_finds_no_xen_says_what_it_lacks() -> None:
    assert "libxen-dev" in runner.explain(1, ["Failed to initialize DRAKVUF: drakvuf_init() failed"])
    assert "libxen-dev" not in runner.explain(1, ["No domain name specified (-d)!"])


def test_ctrl_c_ends_it_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    monkeypatch.setenv("STAND_IN_WAIT", "yes")
    monkeypatch.setenv("STAND_IN_ARGUMENTS", str(ready))
    before = signal.getsignal(signal.SIGINT)

    def press() -> None:
        while signal.getsignal(signal.SIGINT) == before or not ready.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    watch(tmp_path / "a.db")
    assert ask(tmp_path / "a.db", "SELECT count(*) FROM drakvuf_regmon") == [(1,)]
    # It was watched until it ended, whenever its last line was printed.
    armed = "SELECT count(*) FROM coverage JOIN session WHERE gap IS NULL AND coverage.end >= session.begin"
    assert ask(tmp_path / "a.db", armed) == [(1,)]
    assert signal.getsignal(signal.SIGINT) == before


def test_one_that_does_not_heed_sigint_gets_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_WAIT", "long")
    running = runner.Running(STAND_IN, (0.3, 30.0))
    while not running.said:  # before that, SIGINT would end it
        time.sleep(0.05)
    assert running.end() == -signal.SIGTERM


def test_one_that_does_not_end_is_told_of_and_never_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_WAIT", "never")
    running = runner.Running(STAND_IN, (0.3, 0.3))
    while not running.said:
        time.sleep(0.05)
    with pytest.raises(DrakmetError, match=f"process {running.pid}.* still has the guest"):
        running.end()
    os.kill(running.pid, 0)
    os.kill(running.pid, signal.SIGKILL)
    running.end()


def test_one_that_runs_with_the_guest_is_named() -> None:
    words = ["drakvuf", "-c", "read line", "-d", "web7"]
    with subprocess.Popen(words, executable="/bin/sh", stdin=subprocess.PIPE) as other:
        try:
            deadline = time.monotonic() + 10
            while not (found := runner.others("web7", 5)) and time.monotonic() < deadline:
                time.sleep(0.05)  # a process has no words yet while it is being made
            assert found == [f"drakvuf (process {other.pid})"]
            assert runner.others("web8", 5) == []
        finally:
            other.kill()


def test_options_that_are_ours_are_refused() -> None:
    for option in ("-d", "-dweb1", "-o", "-I"):
        with pytest.raises(UsageError, match="cannot be given"):
            runner.check_options(["-a", "procmon", option, "x"])
    runner.check_options(["-a", "procmon", "-F"])
    assert runner.value_of(["-a", "-r", "-r", "x.json"], "-r") == "x.json"
    assert runner.values_of(["-a", "procmon", "-afiletracer", "-t", "-a"], "-a") == ["procmon", "filetracer"]


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="no program"):
        runner.find_program(Path("/nowhere/drakvuf"))


def test_hooks_that_a_kernel_cannot_have_are_gaps() -> None:
    have = {"kernel_clone", "do_exit", "do_send_sig_info"}
    found = {gap.trap: gap for gap in gaps(["procmon", "ebpfmon", "socketmon"], lambda name: name in have or None)}
    assert set(found) == {"procmon:begin_new_exec", "ebpfmon:__do_sys_bpf", "socketmon"}
    assert found["procmon:begin_new_exec"].tables == ("drakvuf_procmon", "process_start")
    assert "for Windows" in found["socketmon"].reason
