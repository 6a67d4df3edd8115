# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests at work: a load for each vCPU, and a guest of a test's own that has two."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from drakmet.lab.hosts import create_guest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.lab.client import Agent
    from drakmet.lab.hosts import Host

PAIR, PAIR_NUMBER, PAIR_MEMORY = "pair", 8, 192
BOOT = 900
"""Wall seconds that a guest may need to boot beside another."""


@contextmanager
def opening(guest: Agent, vcpus: int) -> Iterator[None]:
    """Have something open files all the time, on each vCPU."""
    work = "while [ ! -e /root/rest ]; do cat /etc/hostname; sleep 0.1; done"
    guest.run(["rm", "-f", "/root/rest"], check=True)
    for vcpu in range(vcpus):
        start = f"setsid taskset -c {vcpu} sh -c '{work}' < /dev/null > /dev/null 2>&1 &"
        guest.run(["sh", "-c", start], check=True)
    try:
        yield
    finally:
        guest.run(["touch", "/root/rest"], check=True)


@contextmanager
def pair(host: Host) -> Iterator[Agent]:
    """Boot another guest, `PAIR`, which has two vCPUs; it is gone at the end."""
    host.agent.run(["xl", "destroy", PAIR])
    choice = replace(host.choice, guest_memory=PAIR_MEMORY, guest_vcpus=2)
    create_guest(replace(host, choice=choice), PAIR, PAIR_NUMBER)
    guest = host.agent.guest(f"10.77.{PAIR_NUMBER}.2")
    try:
        until = time.monotonic() + BOOT
        while not guest.answers(10):
            assert time.monotonic() < until, "the guest did not boot"
            time.sleep(1)
        yield guest
    finally:
        host.agent.run(["xl", "destroy", PAIR])
