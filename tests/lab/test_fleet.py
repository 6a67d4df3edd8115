# SPDX-License-Identifier: GPL-2.0-or-later
"""A fleet of three emulated Xen hosts, reached by SSH: one dies, one loses a guest, the disk of one is full.

It boots three hosts (QEMU) beside the shared one. Hosts that are up may be named in DRAKMET_LAB_FLEET, with commas.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from lab.operators import inner_host

from drakmet.lab import hosts
from drakmet.lab.hosts import Choice, Host
from drakmet.lab.places import find_places
from drakmet.lab.progress import Progress
from drakmet.lab.ssh import inventory, open_ssh
from drakmet.store.verifier import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.lab

NAMES = os.environ.get("DRAKMET_LAB_FLEET", "fleet1,fleet2,fleet3").split(",")
KERNELS = ("6.12", "6.1", "5.10")
FOLDER = "/var/cache/drakmet-fleet"
# A disk of its own: one that takes dom0's whole memory for its files makes other things fail as well.
SMALL = f"mkdir -p {FOLDER} && mount -t tmpfs -o size=70m,mode=700 fleet {FOLDER}"
FILL = f"dd if=/dev/zero of={FOLDER}/fill bs=1M count=69"
# Its list of guests was made when the file of the result is there.
DESTROY = f"until ls {FOLDER}/result-*.db; do sleep 0.05; done; xl destroy web2"


def up(name: str, kernel: str) -> Host:
    choice = Choice("svm", guest_kernel=kernel, guests=2, guest_memory=160, guest_vcpus=1, dom0_memory=640)
    return hosts.up(find_places(), name, choice, Progress())


@pytest.fixture(scope="module")
def fleet(request: pytest.FixtureRequest) -> Iterator[list[Host]]:
    before = {host.name for host in hosts.known_hosts(find_places()) if host.running}
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled(), ThreadPoolExecutor(len(NAMES)) as pool:
        started = list(pool.map(up, NAMES, KERNELS))
    yield started
    for name in set(NAMES) - before:
        hosts.down(find_places(), name)


def write_inventory(fleet: list[Host], path: Path) -> Path:
    path.write_text(inventory([open_ssh(find_places(), host, Progress()) for host in fleet]))
    return path


def scan(*arguments: object, react: Callable[[str], object]) -> tuple[int, list[dict[str, Any]]]:
    """Run a scan of a fleet; ``react`` gets each line of its progress. Return its exit code and its rows."""
    command = [sys.executable, "-m", "drakmet", "fleet", "scan", "--json", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        for line in process.stderr:
            react(line)
        rows = [json.loads(line) for line in process.stdout]
    return process.returncode, rows


def of_table(rows: list[dict[str, Any]], table: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["table"] == table]


def test_a_run_ends_with_what_it_can_have_and_is_completed_later(fleet: list[Host], tmp_path: Path) -> None:
    dying, losing, full = fleet
    run = tmp_path / "run"

    def hurt(line: str) -> None:
        sys.stderr.write(line)
        if line.startswith(f"fleet: {dying.name}: has what is needed"):
            os.kill(dying.pid, signal.SIGKILL)
        elif line.startswith(f"fleet: {losing.name}: has what is needed"):
            threading.Thread(target=losing.agent.run, args=(["sh", "-c", DESTROY],)).start()
        elif line.startswith(f"fleet: {full.name}: Python"):
            full.agent.run(["sh", "-c", FILL], check=True)

    full.agent.run(["sh", "-c", SMALL], check=True)
    given = ("--run", run, "--deadline", "900")
    code, rows = scan("-i", write_inventory(fleet, tmp_path / "one.json"), "--retries", 0, *given, react=hurt)
    told = {row["name"]: row for row in of_table(rows, "host")}
    assert code == 3, told
    assert told[dying.name]["outcome"] == "down"
    assert told[full.name]["outcome"] == "full"
    # The guest went before its turn came, or while it was read.
    assert told[losing.name]["outcome"] in ("partly", "gaps")
    assert all(row["reason"] for row in told.values() if row["outcome"] not in ("done", "gaps"))
    with contextlib.closing(sqlite3.connect(run / "fleet.db")) as connection:
        first = connection.execute("SELECT id, source FROM session WHERE outcome = 'done' ORDER BY id").fetchall()
    assert first

    full.agent.run(["rm", f"{FOLDER}/fill"], check=True)
    hosts.create_guest(losing, "web2", 2)
    fleet[0] = up(dying.name, KERNELS[0])
    # It is another machine at another port, with another key: the inventory is told so, as its owner would.
    write_inventory(fleet, tmp_path / "one.json")
    code, rows = scan("--resume", run, "--retries", 2, react=sys.stderr.write)
    told = {row["name"]: row for row in of_table(rows, "host")}
    assert {row["outcome"] for row in told.values()} <= {"done", "gaps"}, told
    assert code in (0, 1, 3), code
    assert not verify(run / "fleet.db").faults
    with contextlib.closing(sqlite3.connect(run / "fleet.db")) as connection:
        after = connection.execute("SELECT id, source FROM session WHERE outcome = 'done' ORDER BY id").fetchall()
        read = connection.execute(
            "SELECT h.name, count(DISTINCT s.source), count(DISTINCT t.release) FROM session AS s"
            " JOIN guest AS g ON g.id = s.guest JOIN host AS h ON h.id = g.host"
            " JOIN guest_state AS t ON t.session = s.id WHERE s.outcome = 'done' GROUP BY h.name"
        ).fetchall()
    assert after[: len(first)] == first, "what was read is not read again"
    assert {name: releases for name, _, releases in read} == dict.fromkeys(NAMES, 1)
    assert {name: guests for name, guests, _ in read if name != losing.name} == {dying.name: 2, full.name: 2}


def test_a_host_behind_another_is_scanned_by_a_user_who_becomes_root(fleet: list[Host], tmp_path: Path) -> None:
    host = fleet[1]
    inventory, secret = inner_host(host, open_ssh(find_places(), host, Progress()), tmp_path, ["xen:web1"])
    as_root, vault = ("--become", "--become-method", "su"), ("--vault-password-file", secret)
    for name, options, outcome, said in (
        ("locked", as_root, "not reached", "no vault secrets found"),
        ("nobody", vault, "no access", FOLDER),
        ("run", (*as_root, *vault), None, None),
    ):
        given = ("-i", inventory, "--run", tmp_path / name, "--retries", 0, "--timeout", 120, "--no-rules")
        code, rows = scan(*given, *options, react=sys.stderr.write)
        (told,) = of_table(rows, "host")
        if outcome is None:
            assert told["outcome"] in ("done", "gaps"), told
            assert (code, told["guests"]) in ((0, 1), (3, 1))
        else:
            assert (code, told["outcome"]) == (4, outcome), told
            assert said in told["reason"], told


def test_a_host_whose_key_changed_is_not_spoken_to(
    fleet: list[Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ansible keeps connections open for a minute, and goes on with one of the run before without looking at keys.
    monkeypatch.setenv("ANSIBLE_SSH_CONTROL_PATH_DIR", str(tmp_path / "cp"))
    access = [open_ssh(find_places(), host, Progress()) for host in fleet[:2]]
    # The first one's port is told to be the second one's: what answers there has another key.
    path = tmp_path / "two.json"
    known = tmp_path / "known"
    other = access[1].known_hosts.read_text().replace(f":{access[1].port} ", f":{access[0].port} ")
    known.write_text(other)
    text = inventory(access[:1]).replace(str(access[0].known_hosts), str(known))
    path.write_text(text)
    code, rows = scan("-i", path, "--run", tmp_path / "run", "--retries", 0, react=sys.stderr.write)
    (host,) = of_table(rows, "host")
    assert code == 4
    assert host["outcome"] == "host key"
    assert "HOST IDENTIFICATION HAS CHANGED" in host["reason"]
