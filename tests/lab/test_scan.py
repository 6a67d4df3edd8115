# SPDX-License-Identifier: GPL-2.0-or-later
"""Scans of a running guest on a host without altp2m, against what the guest says before and after."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from drakmet.lab import hosts
from drakmet.lab.hosts import Choice, Host
from drakmet.lab.places import find_places
from drakmet.lab.progress import Progress
from drakmet.lab.sync import sync

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from drakmet.lab.client import Agent

pytestmark = pytest.mark.lab

NAME = "tests-scan"
REMOTE = "/root/scan.db"
_STEADY = "setsid sh -c 'exec 7</etc/hostname; cd /root; exec sleep 100000' </dev/null >/dev/null 2>&1 &"
_CENSUS = r"""
for p in /proc/[0-9]*; do
    pid=${p#/proc/}
    exe=$(readlink $p/exe) || continue
    echo "process $pid $(sed 's/.*) . //' $p/stat | cut -d' ' -f1) $exe $(readlink $p/cwd)"
    [ $pid = $PPID ] && continue  # whoever started this has descriptors for it
    for f in $p/fd/*; do echo "file $pid ${f##*/} $(readlink $f)"; done
done
sed 's/ .* Live / /;s/^/module /' /proc/modules
for t in tcp tcp6 udp udp6; do tail -n +2 /proc/net/$t | awk -v t=$t '{print "socket", t, $2, $3, $10}'; done
awk '{print "mount", $1, $5}' /proc/self/mountinfo
"""


_FOUND = {
    "process": "SELECT p.pid, p.ppid, r.path, r.cwd FROM process_running r JOIN process p ON p.id = r.process"
    " WHERE r.session = {}",
    "file": "SELECT p.pid, fd, path FROM open_file f JOIN process p ON p.id = f.process WHERE f.session = {}",
    "module": "SELECT name, printf('0x%016x', address) FROM kernel_module WHERE session = {}",
    "mount": "SELECT mount, path FROM mount_point WHERE session = {}",
}


@pytest.fixture(scope="module")
def scan_host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """Return a host of the kind that has no traps, with this checkout in its dom0."""
    places, progress = find_places(), Progress()
    was_up = any(host.name == NAME and host.running for host in hosts.known_hosts(places))
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        host = hosts.up(places, NAME, Choice(kind="svm", guest_vcpus=1), progress)
        sync(places, host, progress)
    yield host
    if not was_up:
        hosts.down(places, NAME)


@pytest.fixture(scope="module")
def steady_guest(scan_host: Host) -> Agent:
    """Return the way into a guest in which something runs on."""
    guest = scan_host.guest(scan_host.guest_names()[0])
    guest.run(["sh", "-c", _STEADY], check=True)
    return guest


def census(guest: Agent) -> dict[str, set[tuple[str, ...]]]:
    """Return what the guest says is there, by kind."""
    found: dict[str, set[tuple[str, ...]]] = {}
    for line in guest.run(["sh", "-c", _CENSUS], check=True).stdout.decode().splitlines():
        kind, *rest = line.split(" ", 4)
        found.setdefault(kind, set()).add(tuple(rest))
    return found


def rows(database: Path) -> dict[str, set[tuple[str, ...]]]:
    """Return what the last scan found, in the same form."""

    def ask(sql: str) -> set[tuple[str, ...]]:
        return {tuple("" if value is None else str(value) for value in row) for row in connection.execute(sql)}

    with closing(sqlite3.connect(database)) as connection:
        (last,) = connection.execute("SELECT max(id) FROM session").fetchone()
        return {kind: ask(sql.format(last)) for kind, sql in _FOUND.items()}


@pytest.mark.parametrize("live", [False, True])
def test_a_scan_is_what_the_guest_says(scan_host: Host, steady_guest: Agent, tmp_path: Path, live: bool) -> None:
    before = census(steady_guest)
    command = ["drakmet", "scan", f"xen:{scan_host.guest_names()[0]}", "--db", REMOTE, "--json", "--no-rules"]
    ended = scan_host.agent.run([*command, *(["--live"] if live else [])])
    after = census(steady_guest)
    told = [json.loads(line) for line in ended.stdout.decode().splitlines()]
    (guest,) = [row for row in told if row["table"] == "guest"]
    assert (ended.returncode, guest["outcome"]) in ((0, "done"), (3, "done")), ended.stderr.decode()
    if live:
        assert guest["paused"] is None
    else:
        assert guest["gaps"] == []
        assert 0 < guest["paused"] < 200e6
    scan_host.agent.pull(REMOTE, tmp_path / "scan.db")
    found = rows(tmp_path / "scan.db")
    for kind in ("process", "file", "module", "mount"):
        # What was there both times must have been there in between; what was there never must not.
        assert (before[kind] & after[kind]) - found[kind] == set(), kind
        assert len(before[kind] & after[kind]) > 2, kind
    steady = next(pid for pid, _, exe, cwd in found["process"] if cwd == "/root" and re.search("sleep|busybox", exe))
    assert (steady, "7", "/etc/hostname") in found["file"]
    # Mounts below the first root, which the guest's programs left, are there and nobody shows them.
    assert found["module"] <= before["module"] | after["module"]


def test_a_guest_that_runs_again_is_not_paused(scan_host: Host, steady_guest: Agent) -> None:
    shown = scan_host.agent.run(["xl", "list", scan_host.guest_names()[0]], check=True).stdout.decode()
    assert "p" not in shown.splitlines()[1].split()[-2]
    assert steady_guest.run(["true"]).returncode == 0


def test_all_guests_and_one_that_is_none(scan_host: Host) -> None:
    ended = scan_host.agent.run(["drakmet", "scan", "--all", "--db", REMOTE, "--json", "--no-rules"])
    told = [json.loads(line) for line in ended.stdout.decode().splitlines()]
    assert {row["uri"] for row in told if row["table"] == "guest"} == {f"xen:{one}" for one in scan_host.guest_names()}
    ended = scan_host.agent.run(["drakmet", "scan", "xen:nobody", "--db", REMOTE])
    assert ended.returncode == 2
    assert b"there is no guest 'nobody'" in ended.stderr
    ended = scan_host.agent.run(["drakmet", "scan", "xen:nobody", f"xen:{scan_host.guest_names()[0]}", "--db", REMOTE])
    assert ended.returncode == 3
