# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's kernel against its package: clean, forged from outside, and traced by the guest itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from drakmet.lab import hosts, transfer
from drakmet.lab.archive import Archive
from drakmet.lab.hosts import Choice, Host
from drakmet.lab.places import find_places
from drakmet.lab.progress import Progress
from drakmet.lab.sync import sync
from drakmet.scan.kernelfiles import KernelFiles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.lab.client import Agent

pytestmark = pytest.mark.lab

NAME = "tests-text"
FILES = "/root/kernel"
_TRACE = """
mount -t tracefs t /sys/kernel/tracing 2> /dev/null || true
cd /sys/kernel/tracing
echo do_filp_open > set_ftrace_filter
echo function > current_tracer
"""
_UNTRACE = "cd /sys/kernel/tracing && echo nop > current_tracer"


@pytest.fixture(scope="module")
def text_host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """Return a host of the kind that has no traps: a scan needs none."""
    places, progress = find_places(), Progress()
    was_up = any(host.name == NAME and host.running for host in hosts.known_hosts(places))
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        host = hosts.up(places, NAME, Choice(kind="svm", guest_vcpus=1), progress)
        sync(places, host, progress)
    yield host
    if not was_up:
        hosts.down(places, NAME)


@pytest.fixture(scope="module")
def text_guest(text_host: Host, tmp_path_factory: pytest.TempPathFactory) -> Agent:
    """Return the way into a guest in which a process sleeps; its kernel's files are in dom0."""
    guest = text_host.guest(text_host.guest_names()[0])
    guest.run(["sh", "-c", "setsid sleep 100000 < /dev/null > /dev/null 2>&1 &"], check=True)
    release = guest.run(["uname", "-r"], check=True).stdout.decode().strip()
    archive = Archive("bookworm", find_places().cache, Progress())
    names = [name for name in archive.depends("linux-image-cloud-amd64") if name.startswith("linux-image-")]
    (package,) = archive.fetch(archive.resolve(names, closure=False))
    (source,) = KernelFiles([package])._sources
    folder = tmp_path_factory.mktemp("kernel") / "kernel"
    (folder / "boot").mkdir(parents=True)
    (folder / "boot" / f"vmlinuz-{release}").write_bytes(next(source.kernels()))
    for name, data in source.modules(modules_of(guest)).items():
        (folder / f"{name}.ko").write_bytes(data)
    transfer.push(text_host.agent, [folder], "/root/")
    transfer.push(text_host.agent, [Path(__file__).with_name("text_probe.py")], "/root/")
    return guest


def modules_of(guest: Agent) -> set[str]:
    """Return the modules that the guest says it has."""
    return set(guest.run(["cut", "-d ", "-f1", "/proc/modules"], check=True).stdout.decode().split())


def probe(host: Host, *stages: str) -> dict[str, dict[str, Any]]:
    """Return what the probe told of each stage."""
    command = ["python3", "/root/text_probe.py", host.guest_names()[0], FILES, *stages]
    done = host.agent.run(command, check=True, timeout=3000)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    for row in rows:
        print(row["stage"], row["paused"], row["cpu"], row["gaps"], *row["kernel_image"], sep="\n  ")
    return {row["stage"]: row for row in rows}


@pytest.fixture(scope="module")
def told(text_host: Host, text_guest: Agent) -> dict[str, dict[str, Any]]:
    """Return what was told of what was forged, and of the guest after all of it was put right."""
    return probe(text_host, "patched", "unlinked", "hidden", "clean")


@pytest.mark.parametrize("stage", ["clean", "hidden"])
def test_a_kernel_that_nobody_touched_is_verified_with_all_its_modules(
    text_guest: Agent, told: dict[str, dict[str, Any]], stage: str
) -> None:
    images = told[stage]["kernel_image"]
    assert {row["verdict"] for row in images} == {"verified"}, images
    assert {row["module"] for row in images} == {None, *modules_of(text_guest)}
    assert next(row["pages"] for row in images if row["module"] is None) > 3000
    assert (told[stage]["kernel_text"], told[stage]["unowned_code"]) == ([], [])
    assert not told["clean"]["hidden_object"]


def test_a_jump_over_a_functions_entry_is_told_with_its_symbol(told: dict[str, dict[str, Any]]) -> None:
    (row,) = told["patched"]["kernel_text"]
    forged = told["patched"]["forged"]
    assert (row["kind"], row["symbol"], row["offset"], row["address"]) == (
        "modified",
        "kernel_power_off",
        0,
        forged["address"],
    )
    assert row["found"].startswith("e9000000")
    (image,) = [row for row in told["patched"]["kernel_image"] if row["verdict"] != "verified"]
    assert (image["module"], image["verdict"]) == (None, "modified")


def test_a_process_that_was_unlinked_is_told(told: dict[str, dict[str, Any]]) -> None:
    forged = told["unlinked"]["forged"]
    (row,) = told["unlinked"]["hidden_object"]
    assert (row["kind"], row["number"], row["missing_in"]) == ("process", forged["pid"], ["list of tasks"])


def test_a_module_that_was_unlinked_is_told_and_its_code_is_compared_all_the_same(
    told: dict[str, dict[str, Any]],
) -> None:
    forged = told["hidden"]["forged"]
    (row,) = told["hidden"]["hidden_object"]
    assert (row["kind"], row["name"], row["missing_in"]) == ("module", forged["name"], ["list"])
    assert forged["name"] in {row["module"] for row in told["hidden"]["kernel_image"]}


def test_what_the_guest_traces_is_told_as_ftrace_and_not_as_a_hook(text_host: Host, text_guest: Agent) -> None:
    text_guest.run(["sh", "-ec", _TRACE], check=True, timeout=900)
    try:
        found = probe(text_host, "clean")["clean"]
    finally:
        text_guest.run(["sh", "-c", _UNTRACE], timeout=900)
    assert {row["verdict"] for row in found["kernel_image"]} == {"verified"}
    assert {(row["symbol"], row["kind"], row["handler"]) for row in found["kernel_text"]} == {
        ("do_filp_open", "ftrace", "function_trace_call")
    }
    assert found["unowned_code"] == []


def test_the_guest_has_noticed_nothing(text_guest: Agent, told: dict[str, dict[str, Any]]) -> None:
    log = text_guest.run(["dmesg"], check=True).stdout.decode()
    assert not [line for line in log.splitlines() if any(word in line for word in ("BUG", "Oops", "WARNING"))]
