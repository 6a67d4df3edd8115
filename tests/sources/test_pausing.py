# SPDX-License-Identifier: GPL-2.0-or-later
"""A pause ends whatever becomes of the process that asked for it."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

from drakmet.sources.pausing import guarded_pause

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = """
import os, sys, signal, time
from drakmet.sources.pausing import guarded_pause
class Noting:
    def pause(self, domid): self.say("paused")
    def unpause(self, domid): self.say("unpaused")
    def say(self, what):
        with open(sys.argv[1], "a") as file: print(what, file=file)
with guarded_pause(Noting(), 7):
    if sys.argv[2] == "group": os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), int(sys.argv[2]))
    time.sleep(20)
"""


class Noting:
    """Notes what is done to the domain, by whichever process."""

    def __init__(self, log: Path, *, refuses: bool = False) -> None:
        self.log, self.refuses = log, refuses

    def pause(self, domid: int) -> None:
        if self.refuses:
            raise OSError(domid)
        self.say("paused")

    def unpause(self, domid: int) -> None:
        self.say("unpaused")

    def say(self, what: str) -> None:
        with self.log.open("a") as file:
            file.write(what + "\n")


@pytest.mark.parametrize("end", [str(int(signal.SIGKILL)), str(int(signal.SIGTERM)), "group"])
def test_who_is_killed_leaves_nobody_paused(tmp_path: Path, end: str) -> None:
    log = tmp_path / "log"
    child = os.fork()
    if not child:
        os.setsid()
        os.execv(sys.executable, [sys.executable, "-c", SCRIPT, str(log), end])  # noqa: S606 - no shell is wanted
    os.waitpid(child, 0)
    until = time.monotonic() + 10
    while time.monotonic() < until and log.read_text().splitlines() != ["paused", "unpaused"]:
        time.sleep(0.02)
    assert log.read_text().splitlines() == ["paused", "unpaused"]


def test_an_orderly_end_and_an_error_undo_it_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with guarded_pause(Noting(log), 7):
        assert log.read_text() == "paused\n"
    assert log.read_text() == "paused\nunpaused\n"
    with pytest.raises(ValueError, match="no"), guarded_pause(Noting(log), 7):
        raise ValueError("no")
    assert log.read_text() == "paused\nunpaused\n" * 2


def test_a_pause_that_is_refused_is_not_undone(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="7"), guarded_pause(Noting(tmp_path / "log", refuses=True), 7):
        pass
    assert not (tmp_path / "log").exists()
