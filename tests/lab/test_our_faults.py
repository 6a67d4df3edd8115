# SPDX-License-Identifier: GPL-2.0-or-later
"""What our side does wrong while a guest is watched, on the emulated host: each with what becomes of guest and file."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lab.dom0 import ENDED, READY, Dom0

from drakmet.lab import transfer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.lab.client import Agent
    from drakmet.lab.hosts import Host

pytestmark = pytest.mark.lab

PLUGIN = "--plugins-dir /root/bad"
WATCHES = "pgrep -f 'drakmet watc[h]'"
GROUP = "/sys/fs/cgroup/bad"
BOUNDED = f"""
mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup
echo +memory > /sys/fs/cgroup/cgroup.subtree_control
mkdir -p {GROUP}
echo 240M > {GROUP}/memory.max
echo $$ > {GROUP}/cgroup.procs
"""
LOCK = """
import sqlite3, sys, time
other = sqlite3.connect(sys.argv[1], isolation_level=None)
other.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
"""


class Faulty(Dom0):
    """A watch with the plugin that misbehaves when the guest opens files of certain names."""

    def bad(self, what: str) -> None:
        """Have the guest open such a file; the plugin misbehaves then."""
        self.guest.run(["sh", "-c", f"cat /bad/{what} 2> /dev/null"], timeout=READY)

    def begin(self, **options: Any) -> dict[str, Any]:
        """Start a watch with it, at work; return what the guest was like before."""
        before = self.state()
        self.watch(PLUGIN, plugin="bad_plugin", **options)
        self.goes_on()
        return before

    def code(self) -> int:
        """Return the exit code of the watch when it has ended."""
        self.wait_for("test -e /root/w.code", ENDED)
        return int(self.run("cat", "/root/w.code"))

    def freed(self, before: dict[str, Any]) -> None:
        """See that the guardian gave the guest back as it was, within two seconds."""
        self.wait_for("! pgrep -f drakmet.guardia[n]", ENDED)
        assert self.alive()
        assert self.state() == before

    def sql(self, sql: str) -> list[str]:
        """Ask the file in dom0, with what is not yet in its main part."""
        return self.run("sqlite3", f"/root/{self.database}", sql).split("\n")[:-1]

    def open_session(self) -> None:
        """See that the session has records, and no end: it says that it was not ended."""
        assert int(self.sql("SELECT count(*) FROM bad_open")[0]) > 0
        assert self.sql("SELECT outcome IS NULL, end IS NULL FROM session") == ["1|1"]

    def lock(self, seconds: float) -> None:
        """Have another program lock the file for some seconds."""
        self.run("sh", "-c", "rm -f /root/lock.out")
        command = f"python3 /root/lock.py /root/{self.database} {seconds} > /root/lock.out 2>&1"
        self.run("sh", "-c", f"setsid {command} < /dev/null &")
        self.wait_for("grep -q locked /root/lock.out", READY)


@pytest.fixture(scope="module")
def dom0(lab_host: Host, lab_guest: Agent) -> Iterator[Faulty]:
    """Return dom0 with the plugin, and the shared guest at work, not too hard."""
    made = Faulty(lab_host, lab_host.guest_names()[0], lab_guest)
    made.run("mkdir", "-p", "/root/bad")
    transfer.push(lab_host.agent, [Path(__file__).with_name("bad_plugin.py")], "/root/bad/")
    made.agent.run(["tee", "/root/lock.py"], stdin=LOCK.encode(), check=True)
    work = "while [ ! -e /root/leave ]; do cat /etc/hostname; sleep 0.5; done"
    lab_guest.run(["sh", "-c", f"rm -f /root/leave; setsid sh -c '{work}' < /dev/null > /dev/null 2>&1 &"], check=True)
    yield made
    lab_guest.run(["touch", "/root/leave"], check=True)


@pytest.fixture(autouse=True)
def quiet(dom0: Faulty) -> None:
    """Begin each test without a watch."""
    dom0.quiet()


@pytest.fixture(scope="module")
def lived_through(dom0: Faulty) -> dict[str, Any]:
    """Return what a watch stored in which a handler raised or was slow, the clock jumped, the file was locked."""
    dom0.quiet()
    before = dom0.begin()
    dom0.bad("raise")
    dom0.goes_on()
    begun = time.monotonic()
    dom0.bad("slow")
    answered = time.monotonic() - begun
    dom0.goes_on()
    for by in (3600, -7200):
        dom0.run("sh", "-c", f"date -u -s @$(($(date +%s) + {by}))")
        dom0.goes_on()
    dom0.run("sh", "-c", "date -u -s @$(($(date +%s) + 3600))")
    dom0.lock(2)
    dom0.goes_on()
    code, outcome = dom0.stop()
    return {
        "code": code,
        "outcome": outcome,
        "answered": answered,
        "gaps": dom0.rows("SELECT kind, gap, begin, end FROM coverage WHERE gap IS NOT NULL"),
        "faults": dom0.rows("SELECT plugin, error FROM plugin_fault"),
        "coverage": dom0.rows("SELECT begin, end FROM coverage WHERE plugin = 'bad_plugin'"),
        "opens": [name for (name,) in dom0.rows("SELECT requested FROM bad_open")],
        "lost": dom0.run("sh", "-c", "grep -c lost /root/w.err || true"),
        "before": before,
        "after": dom0.state(),
        "alive": dom0.alive(),
    }


def test_a_handler_that_raises_is_told_of_and_the_watch_goes_on(lived_through: dict[str, Any]) -> None:
    assert [fault for fault in lived_through["faults"] if "as it was told" in fault[1]]
    assert [gap for kind, gap, *_ in lived_through["gaps"] if kind == "plugin error"]
    assert (lived_through["code"], lived_through["outcome"]) == (3, "done")


def test_a_handler_slower_than_a_second_delays_nobody_who_was_answered(lived_through: dict[str, Any]) -> None:
    assert "/bad/slow" in lived_through["opens"]
    assert not [gap for kind, gap, *_ in lived_through["gaps"] if kind == "monitor away"]


def test_a_clock_that_is_set_is_a_gap_and_no_interval_ends_before_it_begins(lived_through: dict[str, Any]) -> None:
    jumps = {gap for kind, gap, *_ in lived_through["gaps"] if kind == "clock set"}
    by = sorted(float(jump.split(" by ")[1].split()[0]) * (-1 if " back " in jump else 1) for jump in jumps)
    assert len(by) == 3, jumps
    assert all(abs(told - meant) < 5 for told, meant in zip(by, (-7200, 3600, 3600), strict=True)), jumps
    assert all(begin <= end for begin, end in lived_through["coverage"])


def test_a_lock_of_two_seconds_loses_nothing(lived_through: dict[str, Any]) -> None:
    assert lived_through["lost"].strip() == "0"


def test_the_guest_is_as_before_all_that(lived_through: dict[str, Any]) -> None:
    assert lived_through["alive"]
    assert lived_through["after"] == lived_through["before"]


def test_a_watch_that_the_kernel_kills_for_its_groups_memory_leaves_the_guest_as_it_was(dom0: Faulty) -> None:
    before = dom0.begin(before=BOUNDED)
    dom0.bad("hoard")
    assert dom0.code() == 137
    assert "oom_kill 1" in dom0.run("cat", f"{GROUP}/memory.events").splitlines()
    dom0.freed(before)
    dom0.open_session()


def test_a_watch_that_the_kernel_kills_for_the_hosts_memory_leaves_the_guest_as_it_was(dom0: Faulty) -> None:
    before = dom0.begin()
    # Little is left to it, or taking it all would be longer than the guardian's patience.
    dom0.run(
        "sh",
        "-c",
        "head -c $(($(awk '/MemAvailable/ {print int($2 / 1024)}' /proc/meminfo) - 150))M /dev/zero > /root/ballast",
    )
    try:
        dom0.bad("hoard")
        assert dom0.code() == 137
    finally:
        dom0.run("rm", "/root/ballast")
    killed = dom0.run("sh", "-c", "dmesg | grep 'Out of memory: Killed process' | tail -1")
    assert "(drakmet)" in killed or "(python3" in killed, killed
    dom0.freed(before)
    dom0.open_session()


def test_a_plugin_that_crashes_the_interpreter_leaves_the_guest_as_it_was(dom0: Faulty) -> None:
    before = dom0.begin()
    dom0.bad("crash")
    assert dom0.code() == 128 + 11
    dom0.freed(before)
    dom0.open_session()


def test_a_plugin_that_loops_loses_the_guest_to_the_guardian_and_says_so(dom0: Faulty) -> None:
    before = dom0.begin()
    dom0.bad("loop")
    assert dom0.ended()[0] == 3
    assert any("the guardian freed the guest" in gap for gap in dom0.gaps())
    assert dom0.alive()
    assert dom0.state() == before


def test_a_watch_that_is_stopped_for_a_minute_keeps_the_guest_for_seconds_and_tells_of_the_gap(dom0: Faulty) -> None:
    before = dom0.begin()
    told = dom0.run(
        "sh",
        "-c",
        f"cat /proc/uptime; kill -STOP $({WATCHES}); while pgrep -f drakmet.guardia[n] > /dev/null && "
        "xenstore-ls /tool/drakmet | grep -q pid; do sleep 0.2; done; cat /proc/uptime",
    )
    stopped, freed = (float(line.split()[0]) for line in told.splitlines())
    assert freed - stopped < 10  # five seconds without a sign of life, and the looks
    assert dom0.alive()
    dom0.run("sh", "-c", f"sleep {60 - (freed - stopped):.0f}; kill -CONT $({WATCHES})")
    code, outcome = dom0.ended()
    assert (code, outcome.startswith("the guardian freed the guest")) == (3, True)
    ((begin, end),) = dom0.rows("SELECT max(begin), max(end) FROM coverage WHERE kind = 'monitor away'")
    assert end is not None
    assert begin <= end
    assert dom0.alive()
    assert dom0.state() == before


def test_a_full_disk_ends_the_watch_in_order_and_says_what_is_lost(dom0: Faulty) -> None:
    dom0.run(
        "sh", "-c", "mkdir -p /root/small; mountpoint -q /root/small || mount -t tmpfs -o size=3m none /root/small"
    )
    try:
        before = dom0.begin(database="small/w.db")
        dom0.run("sh", "-c", "dd if=/dev/zero of=/root/small/rest bs=4k 2> /dev/null || true")
        assert dom0.code() == 4
        said = dom0.run("cat", "/root/w.err")
        assert "the disk is full" in said
        assert dom0.alive()
        assert dom0.state() == before
        dom0.run("rm", "/root/small/rest")
        assert int(dom0.sql("SELECT count(*) FROM bad_open")[0]) > 0
    finally:
        dom0.run("umount", "-l", "/root/small")


def test_a_place_that_is_read_only_is_refused_before_the_guest_is_touched(dom0: Faulty) -> None:
    dom0.run("sh", "-c", "mkdir -p /root/fixed; mount -t tmpfs -o ro,size=1m none /root/fixed")
    try:
        before = dom0.state()
        dom0.start(database="fixed/w.db")
        assert dom0.code() == 4
        assert "watching" not in dom0.run("cat", "/root/w.err")
        assert dom0.state() == before
    finally:
        dom0.run("umount", "-l", "/root/fixed")


def test_a_lock_that_lasts_ends_the_watch_in_order_with_nothing_lost(dom0: Faulty) -> None:
    before = dom0.begin()
    dom0.lock(14)
    assert dom0.code() == 4
    assert "another program holds a lock" in dom0.run("cat", "/root/w.err")
    assert dom0.alive()
    assert dom0.state() == before
    told = dom0.run("drakmet", "coverage", "/root/w.db", "--json", check=False)
    assert json.loads(told.splitlines()[0])
