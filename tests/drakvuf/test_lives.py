# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes keep their identity however many come and go beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drakmet.drakvuf.processes import Processes

if TYPE_CHECKING:
    from drakmet.records import Process

MANY = 70_000  # more than are kept


def test_a_process_that_lives_long_is_the_same_after_many_that_did_not() -> None:
    put: list[Process] = []
    processes = Processes(1, 1, put.append)
    processes.made(1, 0, "/sbin/init", 0)
    for pid in range(2, MANY):
        processes.made(pid, 1, "/bin/short", pid)
        processes.ended(pid, pid, final=True)
    assert processes.known(1, MANY) == 1
    assert {row.parent for row in put[1:]} == {1}
    assert len(processes._lives) < MANY


def test_a_parent_is_known_though_its_child_takes_its_place() -> None:
    put: list[Process] = []
    processes = Processes(1, 1, put.append)
    pid = 0
    while len(processes._lives) < 65_536:
        pid += 1
        processes.made(pid, 0, "/bin/all", pid)
    processes.made(pid + 1, 1, "/bin/child", pid)  # the oldest, which has to go
    assert put[-1].parent == 1


def test_a_pid_that_ends_twice_was_two_processes() -> None:
    put: list[Process] = []
    processes = Processes(1, 1, put.append)
    first = processes.known(7, 1)
    assert processes.ended(7, 2, final=False)  # told to end
    assert not processes.ended(7, 3, final=True)  # its memory goes
    assert not processes.ended(7, 3, final=True)  # the same line again
    assert processes.known(7, 4) == first  # what the kernel closes
    assert processes.ended(7, 5, final=True)
    assert processes.strange(7)
    assert processes.known(7, 5) != first
