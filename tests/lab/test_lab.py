# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab itself: a real Xen with a dom0 that does as it is told, and a guest worth watching."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from drakmet.lab import transfer
from drakmet.lab.hosts import Host, status

if TYPE_CHECKING:
    from pathlib import Path

    from drakmet.lab.client import Agent

pytestmark = pytest.mark.lab


def test_a_command_in_dom0_gives_its_output_and_its_exit_code(lab_host: Host) -> None:
    done = lab_host.agent.run(["sh", "-c", "cat; echo oops >&2; exit 7"], stdin=b"given")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"given", b"oops\n")
    assert lab_host.agent.run(["no-such-program"]).returncode == 127


def test_xen_runs_the_guest_and_dom0_has_this_drakmet(lab_host: Host) -> None:
    guests = {guest["name"] for guest in status(lab_host)["guests"]}
    assert guests == set(lab_host.guest_names())
    seen = lab_host.agent.run(["python3", "-c", "import drakmet; print(drakmet.__file__)"], check=True).stdout
    assert seen == b"/opt/drakmet/src/drakmet/__init__.py\n"


def test_files_go_in_and_come_out_as_they_were(lab_host: Host, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "data").write_bytes(bytes(range(256)) * 1000)
    transfer.push(lab_host.agent, [folder], "/root/in/")
    transfer.pull(lab_host.agent, "/root/in/folder", tmp_path / "back")
    assert (tmp_path / "back" / "below" / "data").read_bytes() == (folder / "below" / "data").read_bytes()


def test_the_guest_has_kaslr_types_and_no_way_out(lab_guest: Agent) -> None:
    text = lab_guest.run(["grep", "-m1", "-w", "_text", "/proc/kallsyms"], check=True).stdout.split()[0]
    assert int(text, 16) != 0xFFFFFFFF81000000
    assert lab_guest.run(["test", "-r", "/sys/kernel/btf/vmlinux"]).returncode == 0
    assert lab_guest.run(["nc", "-z", "-w", "3", "192.0.2.1", "80"]).returncode != 0


def test_the_workload_tells_what_it_did_and_does_the_same_again(lab_guest: Agent) -> None:
    def told(kind: str) -> list[dict[str, object]]:
        lines = lab_guest.run(["workload", "--seed", "5", "--only", kind], check=True).stdout.splitlines()
        return [{k: v for k, v in json.loads(line).items() if k not in ("pid", "child")} for line in lines]

    for kind in ("exec", "script", "file", "unix"):
        assert told(kind)
        assert told(kind) == told(kind)
    assert {line["action"] for line in told("tcp,udp,dns,fork")} == {"connect", "datagram", "dns", "fork", "exit"}
