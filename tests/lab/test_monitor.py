# SPDX-License-Identifier: GPL-2.0-or-later
"""The monitor on the emulated Xen host: `monitor_probe` runs in dom0 against a guest that is at work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from drakmet.lab.client import Upload

if TYPE_CHECKING:
    from drakmet.lab.client import Agent
    from drakmet.lab.hosts import Host

pytestmark = pytest.mark.lab
PROBE = Path(__file__).with_name("monitor_probe.py")
TIMES = 10
SILENCE = 900
"""Wall seconds without output that the emulator may need for one part of the probe."""
MOST = 50_000_000
"""Nanoseconds that the guest may be stopped to attach, and to detach."""


@pytest.fixture(scope="module")
def told(lab_host: Host, busy_guest: Agent) -> list[dict[str, Any]]:
    """What the probe tells of each watch."""
    del busy_guest  # it works by being there
    remote = "/tmp/monitor_probe.py"  # noqa: S108 - in dom0 of a machine that is this test's own
    lab_host.agent.push([Upload(remote, PROBE.read_bytes())])
    done = lab_host.agent.run(["python3", remote, lab_host.guest_names()[0], str(TIMES)], check=True, timeout=SILENCE)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_it_watches_ten_times_in_a_row_and_leaves_nothing(told: list[dict[str, Any]]) -> None:
    assert len(told) == TIMES
    for one in told:
        assert one["outcome"] == "done"
        assert one["after"] == told[0]["after"], one
        assert not one["after"]["paused"]


def test_every_open_is_told_of_once(told: list[dict[str, Any]]) -> None:
    assert sum(one["hits"] for one in told) > 0
    for one in told:
        assert one["opens"] == one["right"] == one["hits"], one


def test_the_guest_is_stopped_for_a_moment_only(told: list[dict[str, Any]]) -> None:
    for one in told:
        assert max(one["paused"]) <= MOST, one
