# SPDX-License-Identifier: GPL-2.0-or-later
"""What cannot be watched, or not wholly: told with what to do and the documented exit code, and the guest runs on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from lab.dom0 import Dom0

from drakmet.lab.client import Upload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.lab.client import Agent
    from drakmet.lab.hosts import Host

pytestmark = pytest.mark.lab

WALL = 900
"""Seconds that a watch of a few may need on a busy machine."""
WITHOUT_ALTP2M = """
name="plain"
type="pvh"
kernel="/lab/guest/boot/guest.elf"
memory=64
vcpus=1
"""
WITHOUT_TYPES = """
import os, subprocess, sys
from drakmet.sources.xen import XenSource
source = XenSource(sys.argv[1])
kernel = source.kernel()
types = kernel.gpa(kernel.address("__start_BTF"))
window = source.map([types >> 12])
magic = slice(types & 4095, (types & 4095) + 2)
kept = bytes(window.buffer[magic])
window.buffer[magic] = bytes(2)
try:
    environment = {**os.environ, "XDG_CACHE_HOME": "/root/bad.cache"}
    done = subprocess.run(["drakmet", "watch", f"xen:{sys.argv[1]}", "--db", "/root/bad.db"], env=environment)
finally:
    window.buffer[magic] = kept
    window.close()
    source.close()
sys.exit(done.returncode)
"""
RAISING = """
from drakmet import Trap, hookimpl

def on_open(hit):
    raise ValueError("no good")

@hookimpl
def drakmet_traps():
    return [Trap(function="do_filp_open", fetch={"path": "pathname->name"}, handler=on_open)]
"""
FULL = """
cd /root
mkdir -p small
mount -t tmpfs -o size=2m small small
watch="drakmet watch xen:{name} --no-rules --for 300 --db small/w.db"
($watch > /dev/null 2> small.err; echo $? > small.code) &
until grep -q watching small.err || test -e small.code; do sleep 0.2; done
dd if=/dev/zero of=small/rest bs=4096 2> /dev/null
wait
umount small
cat small.err >&2
exit $(cat small.code)
"""


@pytest.fixture(scope="module")
def dom0(lab_host: Host, busy_guest: Agent) -> Iterator[Dom0]:
    found = Dom0(lab_host, lab_host.guest_names()[0], busy_guest)
    found.quiet()
    yield found
    found.run("sh", "-c", "rm -rf /root/small.* /root/bad.*; umount /root/small; xl destroy plain", check=False)


@pytest.fixture(autouse=True)
def guest_runs_on(dom0: Dom0) -> Iterator[None]:
    """See after each test that the guest works and lacks nothing."""
    before = dom0.state()["guest"]
    yield
    assert dom0.alive()
    assert dom0.state()["guest"] == before


def told(dom0: Dom0, *command: str) -> tuple[int, str]:
    """Return a command's exit code and what it said on standard error."""
    done = dom0.agent.run(["sh", "-c", 'rm -f bad.db*; exec "$@"', "sh", *command], timeout=WALL)
    return done.returncode, done.stderr.decode()


def test_a_guest_that_is_not_there(dom0: Dom0) -> None:
    code, said = told(dom0, "drakmet", "watch", "xen:nobody", "--db", "bad.db")
    assert code == 2
    assert "there is no guest 'nobody'" in said
    assert dom0.name in said or "xl list" in said
    assert dom0.agent.run(["test", "-e", "bad.db"]).returncode == 1


def test_a_guest_without_altp2m(dom0: Dom0) -> None:
    dom0.agent.run(["tee", "/etc/xen/plain.cfg"], stdin=WITHOUT_ALTP2M.encode(), check=True)
    dom0.run("xl", "create", "-p", "/etc/xen/plain.cfg")
    code, said = told(dom0, "drakmet", "watch", "xen:plain", "--db", "bad.db")
    dom0.run("xl", "destroy", "plain")
    assert code == 2
    assert "without altp2m" in said
    assert 'altp2m="external"' in said


def test_not_root(dom0: Dom0) -> None:
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    code, said = told(dom0, *nobody, "drakmet", "watch", f"xen:{dom0.name}", "--db", "bad.db")
    assert code == 4
    assert "as root" in said


@pytest.mark.skipif(
    "DRAKMET_LAB_ALL" not in os.environ, reason="looks for symbols in all of an emulated guest: minutes"
)
def test_a_kernel_without_types(dom0: Dom0) -> None:
    code, said = told(dom0, "python3", "-c", WITHOUT_TYPES, dom0.name)
    assert code == 4
    assert "the kernel's types cannot be read" in said
    assert "CONFIG_DEBUG_INFO_BTF" in said


def test_a_broken_rule_and_broken_plugins(dom0: Dom0) -> None:
    """What works goes on."""
    dom0.run("mkdir", "-p", "/root/bad.plugins")
    dom0.agent.push(
        [
            Upload("/root/bad.toml", b"id = 3 [\n"),
            Upload("/root/bad.plugins/raising.py", RAISING.encode()),
            Upload("/root/bad.plugins/lacking.py", b"import nothing_of_this_name\n"),
        ]
    )
    options = (
        "--rules",
        "/root/bad.toml",
        "--plugins-dir",
        "/root/bad.plugins",
        "--plugin",
        "raising",
        "--plugin",
        "lacking",
    )
    code, said = told(dom0, "drakmet", "watch", f"xen:{dom0.name}", "--db", "bad.db", "--for", "3", *options)
    assert code == 3, said
    assert "left out: /root/bad.toml:1: not TOML" in said
    assert "plugin lacking is left out" in said
    assert "nothing_of_this_name" in said
    faults = dom0.run("drakmet", "query", "bad.db", "SELECT count(*) AS n FROM plugin_fault WHERE plugin = 'raising'")
    assert int(faults.split()[-1]) > 0, faults


def test_a_full_disk(dom0: Dom0) -> None:
    code, said = told(dom0, "sh", "-c", FULL.format(name=dom0.name))
    assert code == 4
    assert "the disk is full" in said or "No space left" in said
    assert "make room" in said
