# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest survives whatever its monitor dies of, and whenever."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from drakmet.lab import transfer

if TYPE_CHECKING:
    from drakmet.lab.client import Agent
    from drakmet.lab.hosts import Host

pytestmark = pytest.mark.lab

PROBES = Path(__file__).parent
SEED = os.environ.get("DRAKMET_FAULT_SEED", "1")
KILLS = os.environ.get("DRAKMET_FAULT_KILLS", "100")
PAGES = os.environ.get("DRAKMET_FAULT_PAGES", "0")
"""So many more with execute traps armed, which need seconds each. Not in CI yet: it was not seen to pass."""
ALIVE, DONE, ENDED = 2.0, 1.0, 5.0
"""Virtual seconds after the death: until the guest goes on; until all is taken back; and at the very latest."""


@pytest.fixture(scope="module")
def deaths(lab_host: Host, busy_guest: Agent) -> list[dict[str, Any]]:
    """Return what the campaign told, a death each."""
    transfer.push(lab_host.agent, [PROBES / "fault_probe.py"], "/root/")
    command = ["python3", "/root/fault_probe.py", lab_host.guest_names()[0], SEED]
    lines = lab_host.agent.run([*command, KILLS], check=True).stdout.splitlines()
    lines += lab_host.agent.run([*command, "4", "exec"], check=True).stdout.splitlines()
    if PAGES != "0":
        lines += lab_host.agent.run([*command, PAGES, "pages"], check=True).stdout.splitlines()
    return [json.loads(line) for line in lines]


def test_deaths_come_at_every_kind_of_instant(deaths: list[dict[str, Any]]) -> None:
    killed = [one for one in deaths if "kill" in one and one["status"] != 0]
    assert len(killed) >= int(KILLS) * 3 // 4  # a random instant may lie behind the end of the watch
    stages = {"before": 0, "attached": 0, "ran": 0}
    for one in killed:
        stages["ran" if "r" in one["said"] else "attached" if "a" in one["said"] else "before"] += 1
    assert all(stages.values()), stages
    assert {one["way"] for one in killed if one["delay"] is None} > {"SIGKILL", "SIGSEGV"}


def test_the_guest_goes_on_after_each(deaths: list[dict[str, Any]]) -> None:
    late = [one for one in deaths if "kill" in one and (one["beat"] is None or one["beat"] > ALIVE)]
    assert late == []


def test_the_guardian_is_done_within_a_second(deaths: list[dict[str, Any]]) -> None:
    """One in a hundred was seen to take 2.6 s, where the guest had not been touched yet and went on at once."""
    freed = sorted(one["freed"] for one in deaths if "kill" in one)
    assert freed[len(freed) * 95 // 100] <= DONE
    assert freed[-1] <= ENDED
    assert [one for one in deaths if "kill" in one and one["freed"] > DONE and one["beat"] > DONE] == []


def test_nothing_is_left_behind_by_any(deaths: list[dict[str, Any]]) -> None:
    """Frames, memory limit, page-table pool, pauses, event channels, notes; and the kernel's text is as it was."""
    changed = [one for one in deaths if one.get("changed")]
    assert changed == []


def test_no_watch_failed_but_by_its_death(deaths: list[dict[str, Any]]) -> None:
    assert [one for one in deaths if "!" in one.get("said", "")] == []
    wholes = [one["whole"] for one in deaths if "whole" in one]
    assert [whole["status"] for whole in wholes] == [0] * (2 + (PAGES != "0"))
