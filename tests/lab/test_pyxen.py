# SPDX-License-Identifier: GPL-2.0-or-later
"""The bindings on the emulated Xen host: `pyxen_probe` runs in dom0 against a guest that is at work."""

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
PROBE = Path(__file__).with_name("pyxen_probe.py")
SILENCE = 900
"""Wall seconds without output that the emulator may need for one part of the probe."""


@pytest.fixture(scope="module")
def told(lab_host: Host, busy_guest: Agent) -> list[dict[str, Any]]:
    """What the probe tells, part by part."""
    del busy_guest  # it works by being there
    remote = "/tmp/pyxen_probe.py"  # noqa: S108 - in dom0 of a machine that is this test's own
    lab_host.agent.push([Upload(remote, PROBE.read_bytes())])
    done = lab_host.agent.run(["python3", remote, lab_host.guest_names()[0]], check=True, timeout=SILENCE)
    return [json.loads(line) for line in done.stdout.splitlines()]


def part(told: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return the one result of this name."""
    (found,) = [one for one in told if one["part"] == name]
    return found


def test_the_host_is_understood_and_the_guest_readable(told: list[dict[str, Any]]) -> None:
    assert part(told, "host")["version"].startswith("4.")
    assert part(told, "host")["events"] == 7
    memory = part(told, "memory")
    assert memory["frames"] > 1000
    assert memory["code"] == "0f1f440000"


def test_ten_attaches_in_a_row_see_only_their_own_breakpoints_and_leave_nothing(told: list[dict[str, Any]]) -> None:
    attaches = [one for one in told if one["part"] == "attach"]
    assert len(attaches) == 10
    for one in attaches:
        assert one["seen"].get("odd", 0) == 0, one
        assert one["seen"]["hit"] >= 10, one
        assert (one["pages"], one["limit"], one["stopped"]) == (0, 0, False), one
        assert one["guest_sees"] == "0f1f440000", one
        assert one["paused"] < 0.05, one
    stepped = [one["seen"] for one in attaches if one["way"] == "step"]
    assert all(seen["step"] >= seen["hit"] - 2 for seen in stepped)  # the last ones end with the session
    assert all("step" not in one["seen"] for one in attaches if one["way"] != "step")


def test_executions_of_a_frame_are_reported(told: list[dict[str, Any]]) -> None:
    assert part(told, "execute")["seen"]["execute"] >= 10


def test_a_second_monitor_is_refused_with_what_to_do(told: list[dict[str, Any]]) -> None:
    second = part(told, "second")
    assert second["errno"] == 16
    assert "Another monitor" in second["text"]
    assert second["owner"] is True
    pages = part(told, "pages")
    assert pages["pages"] == 0
    assert pages["last"] <= 1  # every session takes the same frame numbers


def test_a_guest_whose_monitor_was_killed_is_given_back_to_itself(told: list[dict[str, Any]]) -> None:
    killed = part(told, "killed")
    assert killed["running"] > 0
    assert killed["stuck"] < 0.001  # a vCPU that waits uses no time at all
    assert killed["recovered"] > killed["running"] / 4
    assert killed["owner"] is None
    assert (killed["pages"], killed["limit"]) == (0, 0)
    again = part(told, "again")["seen"]
    assert again.get("odd", 0) == 0
    assert again["hit"] >= 10
