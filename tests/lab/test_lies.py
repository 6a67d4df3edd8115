# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest whose books and whose code are forged from outside while it is watched: each lie is in the records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from drakmet.lab import transfer

if TYPE_CHECKING:
    from drakmet.lab.client import Agent
    from drakmet.lab.hosts import Host

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def told(lab_host: Host, busy_guest: Agent) -> dict[str, Any]:
    """Return what the probe told."""
    transfer.push(lab_host.agent, [Path(__file__).with_name("lies_probe.py")], "/root/")
    before = busy_guest.run(["dmesg"], check=True).stdout.decode()
    done = lab_host.agent.run(["python3", "/root/lies_probe.py", lab_host.guest_names()[0]], check=True, timeout=1200)
    log = busy_guest.run(["dmesg"], check=True).stdout.decode().removeprefix(before)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"log": log}


def test_page_tables_that_are_not_the_ones_the_cpu_uses_are_told(told: dict[str, Any]) -> None:
    lie = told["told"]["pgd"]
    (row,) = [row for row in told["conflicts"] if row["process"] == lie["process"]]
    assert (row["own_tables"], row["expected"], row["root"]) == (False, told["kernel"], lie["root"])


def test_a_process_that_is_not_in_the_list_of_tasks_is_told(told: dict[str, Any]) -> None:
    lie = told["told"]["list"]
    (row,) = [row for row in told["conflicts"] if row["process"] == lie["process"]]
    assert (row["own_tables"], row["missing_in"]) == (True, ["list of tasks"])


def test_of_nobody_else_anything_is_told(told: dict[str, Any]) -> None:
    liars = {lie["process"] for lie in told["told"].values()}
    assert [row for row in told["conflicts"] if row["process"] not in liars] == []


def test_code_that_was_written_from_outside_is_a_gap_and_the_trap_sees_on(told: dict[str, Any]) -> None:
    assert told["original"] == "0f1f440000"
    assert len(told["changed"]) == 2  # written, and put right again; opens came after each
    assert all(begin < end and "without an event" in gap for begin, end, gap in told["changed"])


def test_the_guest_has_noticed_nothing(told: dict[str, Any]) -> None:
    assert not [line for line in told["log"].splitlines() if any(word in line for word in ("BUG", "Oops", "WARNING"))]
