# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest's toolstack does while the guest is watched: each ends in a right record, a right exit and no leak."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lab.dom0 import ENDED, READY, Dom0

from drakmet.lab import transfer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from drakmet.lab.hosts import Host

pytestmark = pytest.mark.lab

NAME, NUMBER = "t1", 9
CONFIG = f"""
name="{NAME}"
type="pvh"
kernel="/lab/guest/boot/guest.elf"
memory=192
vcpus=2
disk=["format=raw,vdev=xvda,access=ro,script=/lab/block,target=/dev/lab-guest"]
vif=["mac=00:16:3e:4c:00:{NUMBER:02x},script=/lab/vif"]
on_crash="preserve"
on_reboot="restart"
altp2m="external"
"""


class Toolstack(Dom0):
    """A guest of its own, to do everything to."""

    def __init__(self, host: Host) -> None:
        super().__init__(host, NAME, host.agent.guest(f"10.77.{NUMBER}.2"))
        self.run("xl", "destroy", NAME, check=False)
        self.without = self.settled(lambda now: now["guest"] is None)["host"]
        """How many event channels dom0 has while this guest is not there."""

    def boot(self) -> None:
        """Have the guest run, at work."""
        if self.state()["guest"] is None:
            self.agent.run(["tee", f"/etc/xen/{NAME}.cfg"], stdin=CONFIG.encode(), check=True)
            self.run("xl", "create", f"/etc/xen/{NAME}.cfg")
        self.work()

    def work(self) -> None:
        """Have the guest open files all the time."""
        until = time.monotonic() + READY
        while not self.guest.answers(5) and time.monotonic() < until:
            time.sleep(1)
        loop = "while :; do cat /etc/hostname; sleep 1; done"
        start = (
            f"test -e /run/at-work || {{ touch /run/at-work; setsid sh -c '{loop}' < /dev/null > /dev/null 2>&1 & }}"
        )
        self.guest.run(["sh", "-c", start], check=True)

    def settled(self, right: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the state as soon as it is right, or as it is after a long time: toolstack and balloon are slow."""
        until = time.monotonic() + ENDED
        while not right(state := self.state()) and time.monotonic() < until:
            time.sleep(1)
        return state


@pytest.fixture(scope="module")
def dom0(lab_host: Host) -> Iterator[Toolstack]:
    """Return the toolstack, with a guest of its own to do everything to."""
    transfer.push(lab_host.agent, [Path(__file__).with_name("foreign_probe.py")], "/root/")
    made = Toolstack(lab_host)
    yield made
    made.run("xl", "destroy", NAME, check=False)


@pytest.fixture
def running(dom0: Toolstack) -> Toolstack:
    dom0.quiet()
    dom0.boot()
    return dom0


def clean(dom0: Toolstack, before: dict[str, Any]) -> None:
    """No note, no domain that cannot die, no event channel of it in dom0, and a guest that lives on is as it was."""
    after = dom0.settled(
        lambda now: (
            not now["journals"]
            and len(now["domains"]) <= len(before["domains"])
            and (now["guest"] is not None or now["host"] == dom0.without)
        )
    )
    assert after["journals"] == []
    if after["guest"] is None:
        assert after["host"] == dom0.without
    elif after["domains"] == before["domains"]:
        assert (after["guest"], after["host"]) == (before["guest"], before["host"])
    assert len(after["domains"]) <= len(before["domains"])


def test_a_guest_that_is_paused_resized_and_gets_fewer_vcpus_is_watched_on(running: Toolstack) -> None:
    before = running.state()
    running.watch()
    running.goes_on()
    running.run("xl", "pause", NAME)
    assert running.state()["guest"]["paused"]
    running.run("xl", "unpause", NAME)
    running.goes_on()
    running.run("xl", "vcpu-set", NAME, "1")
    running.goes_on()
    running.run("xl", "vcpu-set", "--ignore-host", NAME, "2")
    # Nobody in the guest brings up what is plugged in; a vCPU that is must be in the view like the others.
    plugged = "until echo 1 > /sys/devices/system/cpu/cpu1/online; do sleep 1; done; taskset -c 1 cat /etc/plugged"
    running.guest.run(["sh", "-c", plugged], timeout=ENDED)
    running.wait_for("grep /etc/plugged /root/w.out | grep -q '\"vcpu\": *1'", ENDED)
    running.goes_on()
    running.run("xl", "mem-set", NAME, "160")
    running.goes_on()
    running.run("xl", "mem-set", NAME, "192")
    running.goes_on()
    assert running.stop() == (0, "done")
    pages = before["guest"]["pages"]
    after = running.settled(lambda now: abs(now["guest"]["pages"] - pages) <= 64)
    assert after["journals"] == []
    assert after["guest"]["rings"] == 0
    assert abs(after["guest"]["pages"] - pages) <= 64  # the balloon's own doing
    assert after["guest"]["limit"] == before["guest"]["limit"]


def test_a_second_monitor_is_refused_and_the_first_sees_on(running: Toolstack) -> None:
    before = running.state()
    running.watch()
    second = running.agent.run(
        ["drakmet", "watch", f"xen:{NAME}", "--plugin", "file", "--for", "5", "--db", "/root/second.db"], timeout=READY
    )
    assert second.returncode == 4
    assert b"another drakmet (process" in second.stderr
    foreign = running.agent.run(["python3", "/root/foreign_probe.py", NAME], timeout=READY)
    assert b"xc_monitor_enable failed" in foreign.stderr
    rescue = running.agent.run(["drakmet", "rescue", NAME], timeout=READY)
    assert rescue.returncode == 4
    assert b"is watched" in rescue.stderr
    running.goes_on()
    assert running.stop() == (0, "done")
    clean(running, before)


@pytest.mark.parametrize("how", ["save", "reboot", "crash", "shutdown", "destroy"])
def test_a_guest_that_goes_ends_the_watch_in_order(running: Toolstack, how: str) -> None:
    before = running.state()
    running.watch()
    running.goes_on()
    if how == "crash":
        running.guest.run(["sh", "-c", "(sleep 1; echo c > /proc/sysrq-trigger) > /dev/null 2>&1 &"])
    elif how == "save":
        running.run("xl", "save", NAME, "/root/saved", check=False)
    else:
        running.run("xl", how, NAME)
    code, outcome = running.ended()
    assert (code, outcome) == (0, "guest gone")
    assert running.session()[1] > 0
    clean(running, before)
    if how == "save":
        running.run("xl", "restore", "/root/saved")
        running.run("rm", "/root/saved")  # dom0's disk is its memory
        assert running.state()["guest"]["rings"] == 0
        assert running.alive()
    if how == "crash":
        running.run("xl", "destroy", NAME)
        clean(running, before)
