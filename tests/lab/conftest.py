# SPDX-License-Identifier: GPL-2.0-or-later
"""One emulated Xen host for all lab tests: one that is up is used and left up, else it is taken down at the end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from lab.guests import opening

from drakmet.lab import hosts
from drakmet.lab.hosts import Choice, Host
from drakmet.lab.places import find_places
from drakmet.lab.progress import Progress
from drakmet.lab.sync import sync

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.lab.client import Agent

NAME = os.environ.get("DRAKMET_LAB_HOST", "tests")
"""Another one may be named, such as one that is up already; whatever that is like, it is used."""


@pytest.fixture(scope="session")
def lab_host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """Return a host with this checkout in its dom0 and one guest to watch."""
    places, progress = find_places(), Progress()
    up = next((host for host in hosts.known_hosts(places) if host.name == NAME and host.running), None)
    # Its stages are shown while they happen: a first build and boot takes minutes.
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        host = up or hosts.up(places, NAME, Choice(guest_vcpus=1), progress)
        sync(places, host, progress)
    yield host
    if up is None:
        hosts.down(places, NAME)


@pytest.fixture(scope="session")
def lab_guest(lab_host: Host) -> Agent:
    """Return the way to run commands in the shared host's first guest."""
    return lab_host.guest(lab_host.guest_names()[0])


@pytest.fixture(scope="module")
def busy_guest(lab_host: Host, lab_guest: Agent) -> Iterator[Agent]:
    """Return the same while something opens files in the guest all the time."""
    with opening(lab_guest, lab_host.choice.guest_vcpus):
        yield lab_guest


UNPROVEN = (
    "test_applications",
    "test_bad_input",
    "test_fleet",
    "test_guest_debugger",
    "test_guest_modules",
    "test_kernel_text",
    "test_our_faults",
    "test_toolstack",
    "test_truth",
)
"""Tests that were not yet seen to pass from begin to end on the emulated host."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is not proven, unless it is asked for."""
    if "DRAKMET_LAB_ALL" not in os.environ:
        skip = pytest.mark.skip(reason="not yet seen to pass whole; DRAKMET_LAB_ALL=1 runs it")
        for item in items:
            if item.path.parent.name == "lab" and item.path.stem in UNPROVEN:
                item.add_marker(skip)
