# SPDX-License-Identifier: GPL-2.0-or-later
"""The guardian and the rescue on the emulated host: who dies, who is stopped, and what becomes of the guest."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lab.dom0 import READY, Dom0

from drakmet.lab import transfer

if TYPE_CHECKING:
    from drakmet.lab.client import Agent
    from drakmet.lab.hosts import Host

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def dom0(lab_host: Host, busy_guest: Agent) -> Dom0:
    """Return dom0, with the shared guest at work."""
    transfer.push(lab_host.agent, [Path(__file__).with_name("foreign_probe.py")], "/root/")
    return Dom0(lab_host, lab_host.guest_names()[0], busy_guest)


@pytest.fixture(autouse=True)
def quiet(dom0: Dom0) -> None:
    """Begin each test without a watch."""
    dom0.quiet()


def rescue(dom0: Dom0, *options: str) -> tuple[int, dict[str, Any]]:
    """Run the command; return its exit code and what it told."""
    done = dom0.agent.run(["drakmet", "rescue", dom0.name, "--json", *options], timeout=READY)
    return done.returncode, json.loads(done.stdout)


def test_a_whole_process_group_that_is_killed_leaves_the_guardian_to_free_the_guest(dom0: Dom0) -> None:
    before = dom0.state()
    dom0.watch()
    dom0.goes_on()
    dom0.run("sh", "-c", "kill -9 -$(ps -o pgid= -p $(pgrep -f 'drakmet watc[h]') | tr -d ' ')")
    dom0.wait_for("! pgrep -f drakmet.guardia[n]", 60)
    assert dom0.alive()
    assert dom0.state() == before
    assert rescue(dom0, "--dry-run")[0] == 0


def test_without_its_guardian_a_watch_ends_in_order_and_says_so(dom0: Dom0) -> None:
    before = dom0.state()
    dom0.watch()
    dom0.goes_on()
    dom0.run("sh", "-c", "kill -9 $(pgrep -f drakmet.guardia[n])")
    assert dom0.ended() == (3, "the guardian is gone")
    assert dom0.gaps() == {"the guardian is gone"}
    assert dom0.alive()
    assert dom0.state() == before


def test_a_monitor_that_is_stopped_for_long_loses_the_guest_and_learns_it(dom0: Dom0) -> None:
    before = dom0.state()
    dom0.watch()
    dom0.goes_on()
    dom0.run("sh", "-c", "kill -STOP $(pgrep -f 'drakmet watc[h]')")
    dom0.wait_for("! pgrep -f drakmet.guardia[n] || ! xenstore-ls /tool/drakmet | grep -q pid", 120)
    time.sleep(1)
    assert dom0.alive()
    dom0.run("sh", "-c", "kill -CONT $(pgrep -f 'drakmet watc[h]')")
    code, outcome = dom0.ended()
    assert code == 3
    assert outcome.startswith("the guardian freed the guest")
    # Where it was stopped in the middle of a handler, a second gap names that place: it may have been the busy one.
    gaps = dom0.gaps()
    assert outcome in gaps
    assert all(gap.startswith("FreedError: ") for gap in gaps - {outcome})
    assert dom0.alive()
    assert dom0.state() == before


def test_a_dead_drakmet_without_guardian_is_found_and_its_guest_rescued(dom0: Dom0) -> None:
    before = dom0.state()
    dom0.watch("--no-guardian")
    dom0.goes_on()
    dom0.run("sh", "-c", "kill -9 $(pgrep -f 'drakmet watc[h]')")
    time.sleep(2)
    assert not dom0.alive()
    code, told = rescue(dom0, "--dry-run")
    assert code == 1
    found = told["found"]
    assert (found["ring"], found["listener"], found["altp2m"], found["noted_by"] is None) == (True, None, True, False)
    assert found["held"]
    assert found["frames"]
    assert not dom0.alive()
    code, told = rescue(dom0)
    assert (code, told["left"]["stale"]) == (0, False)
    assert dom0.alive()
    assert dom0.state() == before


def test_another_monitors_guest_is_rescued_though_nothing_was_noted(dom0: Dom0) -> None:
    before = dom0.state()
    done = dom0.agent.run(["python3", "/root/foreign_probe.py", dom0.name], timeout=READY)
    assert done.returncode == -9 or done.returncode == 137, done
    assert not dom0.alive()
    code, told = rescue(dom0, "--dry-run")
    found = told["found"]
    assert code == 1
    assert (found["ring"], found["altp2m"], found["noted_by"], len(found["frames"])) == (True, True, None, 5)
    assert found["limit"] > found["right_limit"]
    code, told = rescue(dom0)
    assert (code, told["left"]["stale"]) == (0, False)
    assert dom0.alive()
    after = dom0.state()
    assert after["guest"] == before["guest"]


def test_a_living_foreign_monitor_is_named_and_left_alone(dom0: Dom0) -> None:
    dom0.run("sh", "-c", f"setsid python3 /root/foreign_probe.py {dom0.name} stay > /root/stay.out 2>&1 < /dev/null &")
    dom0.wait_for("grep -q attached /root/stay.out", READY)
    pid = dom0.run("cat", "/root/stay.out").split()[1]
    done = dom0.agent.run(["drakmet", "rescue", dom0.name], timeout=READY)
    assert done.returncode == 4
    assert f"process {pid}".encode() in done.stderr
    dom0.run("kill", "-9", pid)
    time.sleep(1)
    assert rescue(dom0)[0] == 0
    assert dom0.alive()
