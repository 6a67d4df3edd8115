# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest does to the code we have traps in: its own breakpoints, its own patches, floods. All as without us."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from drakmet.lab import transfer

if TYPE_CHECKING:
    from drakmet.lab.client import Agent
    from drakmet.lab.hosts import Host

pytestmark = pytest.mark.lab

HERE = Path(__file__).parent
TIMES = 20
KPROBES = f"""
set -e
mount -t tracefs t /sys/kernel/tracing 2> /dev/null || true
cd /sys/kernel/tracing
echo > trace
echo 'p:entry do_filp_open' > kprobe_events
echo 'p:inside do_filp_open+5' >> kprobe_events
for round in 1 2 3; do
    echo 1 > events/kprobes/entry/enable
    echo 1 > events/kprobes/inside/enable
    for i in $(seq {TIMES}); do cat /etc/probed > /dev/null 2>&1 || true; done
    echo 0 > events/kprobes/inside/enable
    echo 0 > events/kprobes/entry/enable
done
grep -c ' entry:' trace || true  # a tracer empties it
grep -c ' inside:' trace || true
echo do_filp_open > set_ftrace_filter  # before the tracer: all functions at once take the emulated guest minutes
echo function > current_tracer
for i in $(seq {TIMES}); do cat /etc/traced > /dev/null 2>&1 || true; done
echo nop > current_tracer
echo > kprobe_events
"""
FLOOD = """
for one in 1 2 3 4; do
    sh -c 'for i in $(seq 50); do cat /etc/flood > /dev/null 2>&1; done' &
done
wait
"""


class Probe:
    """The probe in dom0 while the guest does something."""

    def __init__(self, host: Host) -> None:
        self.agent, self.name = host.agent, host.guest_names()[0]
        transfer.push(self.agent, [HERE / "guest_probe.py"], "/root/")

    def during(self, guest: Agent, script: str) -> tuple[dict[str, Any], str]:
        """Return what the probe told, and what the guest's script said, while the guest ran it."""
        watch = f"python3 guest_probe.py {self.name} > guest.out 2> guest.err < /dev/null"
        shell = f"cd /root; rm -f enough; {watch}; echo $? > g.code"
        self.agent.run(["rm", "-f", "/root/g.code", "/root/guest.out"])
        self.agent.run(["sh", "-c", f"setsid sh -c '{shell}' > /dev/null 2>&1 &"])
        self.wait_for("grep -q attached /root/guest.out")
        done = guest.run(["sh", "-c", script], timeout=600)
        assert done.returncode == 0, done
        self.agent.run(["touch", "/root/enough"])
        self.wait_for("test -e /root/g.code")
        lines = self.agent.run(["cat", "/root/guest.out"], check=True).stdout.splitlines()
        assert self.agent.run(["cat", "/root/g.code"]).stdout == b"0\n", self.agent.run(["cat", "/root/guest.err"])
        return json.loads(lines[-1]), done.stdout.decode()

    def wait_for(self, condition: str) -> None:
        """Wait until a shell's condition holds in dom0."""
        until = time.monotonic() + 600
        while self.agent.run(["sh", "-c", condition]).returncode:
            failed = self.agent.run(["sh", "-c", "test -e /root/g.code && cat /root/guest.err"])
            assert failed.returncode or not failed.stdout, failed.stdout.decode()
            assert time.monotonic() < until, condition
            time.sleep(0.5)


@pytest.fixture(scope="module")
def probe(lab_host: Host) -> Probe:
    return Probe(lab_host)


def test_kprobes_and_ftrace_on_a_trapped_function_work_and_so_do_we(probe: Probe, lab_guest: Agent) -> None:
    before = lab_guest.run(["dmesg"], check=True).stdout.decode()
    told, said = probe.during(lab_guest, KPROBES)
    entries, insides = (int(line) for line in said.split()[-2:])
    assert entries >= 3 * TIMES
    assert 0 <= entries - insides <= 12  # the shell opens files itself, between one and the other
    assert told["opened"]["/etc/probed"] == 3 * TIMES
    assert told["opened"]["/etc/traced"] == TIMES
    assert told["events"].get("write", 0) > 0
    log = lab_guest.run(["dmesg"], check=True).stdout.decode().removeprefix(before)
    assert not [line for line in log.splitlines() if any(word in line for word in ("BUG", "Oops", "WARNING", "int3"))]
    keep = Path(__file__).parent.parent / "data" / "session.json"
    if not keep.exists():
        keep.write_text(json.dumps({"events": compact(told["seen"])}, indent=1) + "\n")


def compact(seen: list[tuple[int, str, str]]) -> list[list[Any]]:
    """Return the session without its long runs of the same: what matters is what follows what."""
    kept: list[list[Any]] = []
    for vcpu, event, answer in seen:
        if kept[-2:] != [[vcpu, event, answer]] * 2:
            kept.append([vcpu, event, answer])
    return kept


def test_a_flood_of_hits_is_seen_whole(probe: Probe, lab_guest: Agent) -> None:
    told, _ = probe.during(lab_guest, FLOOD)
    assert told["opened"]["/etc/flood"] == 200
