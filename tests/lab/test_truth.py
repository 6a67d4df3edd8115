# SPDX-License-Identifier: GPL-2.0-or-later
"""What the bundled plugins store of a guest on Xen, against what strace and the programs in it tell, byte for byte."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from lab.guests import PAIR, opening, pair
from lab.watching import stored, watching
from truth.compare import differences
from truth.machine import TOOLS, programs

from drakmet.lab.client import Upload
from drakmet.text import escape_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.lab.client import Agent
    from drakmet.lab.hosts import Host

pytestmark = pytest.mark.lab

HERE = Path(__file__).parent
EXECS = int(os.environ.get("DRAKMET_TRUTH_EXECS", "100"))
"""Programs to start in all; two hundred were seen right, too."""
MOST_PAUSED = 50_000_000
"""Nanoseconds that the guest may be stopped to attach, and to detach."""


def of(records: list[Any], table: str) -> list[Any]:
    return [record for record in records if record.table == table]


def whole(records: list[Any]) -> None:
    """See that nothing was lost, and that nothing went wrong on the way."""
    assert of(records, "plugin_fault") == []
    assert [one for one in of(records, "coverage") if one.gap is not None and one.kind != "guest paused"] == []


@pytest.fixture(scope="module")
def guest(lab_host: Host) -> Iterator[Agent]:
    """Return the way into a guest whose two vCPUs work at once."""
    with pair(lab_host) as booted:
        yield booted


@pytest.fixture(scope="module")
def straced(lab_host: Host, guest: Agent, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return records, strace's files by thread, and the folder that was the work's root."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        pytest.skip(f"needs {', '.join(missing)}")
    work = tmp_path_factory.mktemp("straced")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(programs(work), ".")
    guest.push(
        [
            Upload("/root/truth.tar", packed.getvalue()),
            Upload("/root/straced.sh", (HERE / "straced.sh").read_bytes(), 0o755),
        ]
    )
    with watching(lab_host.agent, PAIR, "--no-rules") as watched:
        guest.run(["unshare", "-m", "sh", "/root/straced.sh"], check=True, timeout=600)
    told = guest.run(["tar", "-C", "/root/truth.told", "-cf", "-", "."], check=True).stdout
    truth = {}
    with tarfile.open(fileobj=io.BytesIO(told)) as tar:
        for member in tar:
            if member.isfile():
                truth[int(member.name.rpartition(".")[2])] = tar.extractfile(member).read().decode()  # type: ignore[union-attr]
    assert watched.code == 0, watched.said
    return stored(lab_host.agent, work / "watched.db"), truth, work / "root"


def test_every_call_that_strace_saw_is_stored_once(straced: Any) -> None:
    records, truth, root = straced
    seen, found = differences(records, truth, root)
    assert found == []
    assert seen["open"] > 150
    assert seen["exec"] > 30
    assert seen["connect"] > 10


def test_nothing_strace_saw_was_lost_on_the_way(straced: Any) -> None:
    whole(straced[0])


@pytest.fixture(scope="module")
def stormed(lab_host: Host, guest: Agent, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return records of a time when every vCPU started programs, and what the programs that did so told."""
    guest.push([Upload("/root/storm.py", (HERE / "storm.py").read_bytes(), 0o755)])
    each = "".join(f"taskset -c {n} python3 /root/storm.py {n + 1} {EXECS // 2} > /root/storm.{n} & " for n in (0, 1))
    with watching(lab_host.agent, PAIR, "--no-rules") as watched:
        guest.run(["sh", "-c", each + "wait"], check=True, timeout=900)
    lines = guest.run(["sh", "-c", "cat /root/storm.?"], check=True).stdout.splitlines()
    assert watched.code == 0, watched.said
    target = tmp_path_factory.mktemp("stormed") / "watched.db"
    return stored(lab_host.agent, target), [json.loads(line) for line in lines]


def test_no_arguments_are_wrong_where_programs_start_without_end(stormed: Any) -> None:
    records, told = stormed
    assert len(told) >= EXECS
    spawners = {one["pid"] for one in told}
    had = [
        (one.pid, tuple(one.argv))
        if one.argv is not None
        else (one.pid, "unreadable" if "argv" in (one.unreadable or "") else None)
        for one in of(records, "process_start")
        if one.pid in spawners
    ]
    wanted = [(one["pid"], tuple(escape_bytes(bytes.fromhex(part)) for part in one["argv"])) for one in told]
    missing, invented = Counter(wanted) - Counter(had), Counter(had) - Counter(wanted)
    assert ([_short(one) for one in missing], [_short(one) for one in invented]) == ([], [])


def test_the_paths_and_exits_of_those_programs_are_right(stormed: Any) -> None:
    records, told = stormed
    pids = Counter(one["pid"] for one in told)
    started = [one for one in of(records, "process_start") if one.pid in pids]
    assert {one.path for one in started} == {"/usr/bin/true", "/usr/bin/dash", "/usr/bin/env"}
    ended = Counter((one.pid, one.status) for one in of(records, "process_exit") if one.pid in pids)
    assert ended == Counter({(pid, 0): 1 for pid in pids})
    forked = Counter(one.child_pid for one in of(records, "process_fork") if one.child_pid in pids)
    assert forked == Counter(dict.fromkeys(pids, 1))


def test_nothing_of_that_was_lost_on_the_way(stormed: Any) -> None:
    whole(stormed[0])


def test_ten_watches_in_a_row_leave_nothing_while_both_vcpus_work(lab_host: Host, guest: Agent) -> None:
    lab_host.agent.push([Upload("/root/monitor_probe.py", (HERE / "monitor_probe.py").read_bytes())])
    with opening(guest, 2):
        done = lab_host.agent.run(["python3", "/root/monitor_probe.py", PAIR, "10"], check=True, timeout=900)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == 10
    for one in told:
        assert one["outcome"] == "done"
        assert one["after"] == told[0]["after"], one
        assert one["opens"] == one["right"] == one["hits"], one
        assert max(one["paused"]) <= MOST_PAUSED, one
    assert sum(one["hits"] for one in told) > 0


def _short(one: tuple[Any, ...]) -> str:
    return repr(one)[:200]
