# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's programs run into breakpoints of their own, and all of its vCPUs into ours at once: all as without us."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from lab.test_guest_does import Probe

if TYPE_CHECKING:
    from drakmet.lab.client import Agent
    from drakmet.lab.hosts import Host

pytestmark = pytest.mark.lab

TIMES = 20
BASE = 0x400000
CODE = bytes.fromhex("cc bf07000000 b83c000000 0f05")  # int3; exit(7)
SIGTRAP = 128 + 5


def program(code: bytes) -> bytes:
    """Return a program for Linux on x86-64 of one segment (elf.h)."""
    size = 64 + 56 + len(code)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, BASE + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, BASE, BASE, size, size, 4096) + code


@pytest.fixture(scope="module")
def probe(lab_host: Host) -> Probe:
    return Probe(lab_host)


def test_a_programs_own_breakpoint_ends_it_as_it_would_without_us(probe: Probe, lab_guest: Agent) -> None:
    lab_guest.run(["tee", "/run/breaks"], stdin=program(CODE), check=True)
    lab_guest.run(["chmod", "755", "/run/breaks"], check=True)
    assert lab_guest.run(["sh", "-c", "/run/breaks; echo $?"]).stdout.split()[-1] == str(SIGTRAP).encode()
    each = "/run/breaks 2> /dev/null; echo $?; cat /etc/broke 2> /dev/null || true"  # there is no such file
    told, said = probe.during(lab_guest, f"for i in $(seq {TIMES}); do {each}; done")
    assert [int(line) for line in said.split()] == [SIGTRAP] * TIMES
    assert told["opened"]["/etc/broke"] == TIMES
    assert told["events"]["reinjected"] >= TIMES


def test_a_flood_from_every_vcpu_at_once_is_seen_whole(probe: Probe, lab_host: Host, lab_guest: Agent) -> None:
    vcpus = lab_host.choice.guest_vcpus
    flood = " ".join(
        f"taskset -c {one % vcpus} sh -c 'for i in $(seq 50); do cat /etc/flood > /dev/null 2>&1; done' &"
        for one in range(2 * vcpus)
    )
    told, _ = probe.during(lab_guest, f"{flood} wait")
    assert told["opened"]["/etc/flood"] == 100 * vcpus
    assert {vcpu for vcpu, _, _ in told["seen"]} >= set(range(vcpus))
