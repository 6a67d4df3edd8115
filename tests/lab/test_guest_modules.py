# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's own modules change a trapped function: a livepatch takes its place, its frame is mapped elsewhere."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from lab.dom0 import READY, Dom0
from lab.guest_modules import build, load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.lab.client import Agent
    from drakmet.lab.hosts import Host

pytestmark = pytest.mark.lab

TIMES = 20
LIVEPATCH = "/sys/kernel/livepatch/patch"


@pytest.fixture(scope="module")
def dom0(lab_host: Host, lab_guest: Agent) -> Iterator[Dom0]:
    """Return dom0, with the shared guest at work."""
    work = "while [ ! -e /root/leave ]; do cat /etc/hostname; sleep 0.5; done"
    lab_guest.run(["sh", "-c", f"rm -f /root/leave; setsid sh -c '{work}' < /dev/null > /dev/null 2>&1 &"], check=True)
    yield Dom0(lab_host, lab_host.guest_names()[0], lab_guest)
    lab_guest.run(["touch", "/root/leave"], check=True)


@pytest.fixture(autouse=True)
def quiet(dom0: Dom0) -> None:
    """Begin each test without a watch."""
    dom0.quiet()


def opens(dom0: Dom0, path: str) -> None:
    """Open a file that does not exist."""
    dom0.guest.run(["sh", "-c", f"for i in $(seq {TIMES}); do cat {path} 2> /dev/null; done; true"], timeout=READY)


def seen(dom0: Dom0, path: str) -> int:
    """Return how many opens of it are in the file that was fetched last."""
    ((count,),) = dom0.rows(f"SELECT count(*) FROM file_open WHERE requested = '{path}'")  # noqa: S608
    return int(count)


def log_of(guest: Agent) -> list[str]:
    """Return what the guest's kernel has said."""
    return guest.run(["dmesg"], check=True, timeout=READY).stdout.decode().splitlines()


def troubles(lines: list[str]) -> list[str]:
    """Return the lines that tell of trouble; that a module is not of its own is none."""
    return [line for line in lines if any(word in line for word in ("BUG", "Oops", "WARNING", "rcu_", "int3"))]


def test_a_livepatch_of_a_trapped_function_works_and_so_does_the_trap(dom0: Dom0) -> None:
    before, known = dom0.state(), len(log_of(dom0.guest))
    module = build(dom0.agent, dom0.name, "patch")
    dom0.watch()
    assert load(dom0.guest, "patch", module) == 0
    settled = "i=0; while [ $(cat {}) = 1 ] && [ $i -lt 200 ]; do sleep 0.2; i=$((i+1)); done; cat {}"
    done = dom0.guest.run(["sh", "-c", settled.format(*[f"{LIVEPATCH}/transition"] * 2)], timeout=READY)
    assert done.stdout == b"0\n"
    opens(dom0, "/etc/patched")
    gone = (
        f"echo 0 > {LIVEPATCH}/enabled; i=0; while [ -e {LIVEPATCH} ] && [ $i -lt 200 ]; do sleep 0.2; i=$((i+1)); done"
    )
    dom0.guest.run(["sh", "-c", f"{gone}; rmmod patch"], check=True, timeout=READY)
    opens(dom0, "/etc/unpatched")
    assert dom0.stop() == (0, "done")
    assert (seen(dom0, "/etc/patched"), seen(dom0, "/etc/unpatched")) == (TIMES, TIMES)
    assert not [gap for gap in dom0.gaps() if "code" in gap]
    lines = log_of(dom0.guest)[known:]
    (last,) = [line for line in lines if "patch: gone after" in line]
    assert int(last.split("after ")[1].split()[0]) >= TIMES
    assert troubles(lines) == []
    assert dom0.state() == before


def test_a_trapped_frame_that_is_mapped_twice_elsewhere_and_nowhere(dom0: Dom0) -> None:
    before, known = dom0.state(), len(log_of(dom0.guest))
    module = build(dom0.agent, dom0.name, "remap")
    dom0.watch()
    assert load(dom0.guest, "remap", module) == errno.EAGAIN  # it is not meant to stay
    opens(dom0, "/etc/remapped")
    assert dom0.stop() == (0, "done")
    lines = log_of(dom0.guest)[known:]
    said = [line.split("remap: ")[1] for line in lines if "remap: " in line]
    nop = "0f 1f 44 00 00"
    assert said == [
        f"0 bytes differ, entry {nop}", f"written, entry {nop}", "elsewhere", "back", "mapped again",
    ]  # fmt: skip
    assert seen(dom0, "/etc/remapped") == TIMES
    gaps = dom0.gaps()
    assert "its code is in another frame of the guest than it was" in gaps
    assert any("its code is no longer mapped" in gap for gap in gaps), gaps
    assert troubles(lines) == []
    assert dom0.alive()
    assert dom0.state() == before
