# SPDX-License-Identifier: GPL-2.0-or-later
"""Scans of a running guest on a host without altp2m, against what the guest says before and after."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

import pytest
from lab.scan_census import KINDS, REMOTE, census, differences, scanned

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

NAME = os.environ.get("DRAKMET_LAB_SCAN", "tests-scan")
"""A host that is up may be named."""
_STEADY = "setsid sh -c 'exec 7</etc/hostname; cd /root; exec sleep 100000' </dev/null >/dev/null 2>&1 &"


@pytest.fixture(scope="module")
def scan_host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """Return a host of the kind that has no traps, with this checkout in its dom0."""
    places, progress = find_places(), Progress()
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        up = [host for host in hosts.known_hosts(places) if host.name == NAME and host.running]
        host = up[0] if up else hosts.up(places, NAME, Choice(kind="svm", guest_vcpus=1), progress)
        sync(places, host, progress)
    yield host
    if not up:
        hosts.down(places, NAME)


@pytest.fixture(scope="module")
def steady_guest(scan_host: Host) -> Agent:
    """Return the way into a guest in which something runs on."""
    guest = scan_host.guest(scan_host.guest_names()[0])
    guest.run(["sh", "-c", _STEADY], check=True)
    return guest


@pytest.mark.parametrize("live", [False, True])
def test_a_scan_is_what_the_guest_says(scan_host: Host, steady_guest: Agent, tmp_path: Path, live: bool) -> None:
    before = census(steady_guest)
    code, guest, found = scanned(scan_host, scan_host.guest_names()[0], tmp_path, *(["--live"] if live else []))
    after = census(steady_guest)
    assert (code, guest["outcome"]) in ((0, "done"), (3, "done")), guest
    if live:
        assert guest["paused"] is None
    else:
        assert guest["gaps"] == []
        assert 0 < guest["paused"] < 200e6
    assert differences(before, found, after) == []
    assert all(len(before[kind] & after[kind]) > 1 for kind in KINDS), before
    steady = next(pid for pid, _, exe, cwd in found["process"] if cwd == "/root" and re.search("sleep|busybox", exe))
    assert (steady, "7", "/etc/hostname") in found["file"]


def test_a_guest_that_its_toolstack_has_paused_is_read_and_stays_paused(
    scan_host: Host, steady_guest: Agent, tmp_path: Path
) -> None:
    name = scan_host.guest_names()[0]
    before = census(steady_guest)
    scan_host.agent.run(["xl", "pause", name], check=True)
    try:
        _, guest, found = scanned(scan_host, name, tmp_path)
        shown = scan_host.agent.run(["xl", "list", name], check=True).stdout.decode()
    finally:
        scan_host.agent.run(["xl", "unpause", name], check=True)
    assert "p" in shown.splitlines()[1].split()[-2], shown
    assert (guest["outcome"], guest["gaps"]) == ("done", [])
    assert differences(before, found, census(steady_guest)) == []


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
