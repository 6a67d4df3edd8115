# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet fleet`` over a fake fleet: real Ansible, the real bundle, real scans of files; hosts that fail."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from fleet.fake import core, here, write_inventory

from drakmet.cli.fleet import fleet
from drakmet.fleet import scanning
from drakmet.fleet.bundle import Bundle, make_bundle
from drakmet.fleet.errors import FleetError
from drakmet.store.verifier import verify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result


pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="Ansible reaches other hosts by ssh")


@dataclass
class Fleet:
    """A folder with an inventory and a run over it."""

    folder: Path
    first: Result

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def rows(self, sql: str) -> list[Any]:
        with closing(sqlite3.connect(self.run / "fleet.db")) as connection:
            return connection.execute(sql).fetchall()


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(fleet, [str(one) for one in arguments])


@contextmanager
def one_bundle(folder: Path) -> Iterator[None]:
    """Have the bundle made once: the files it is made of may be edited meanwhile, and then it is another."""
    bundle = kept(folder / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanning, "make_bundle", lambda *_: bundle)
        yield


@cache
def kept(folder: Path) -> Bundle:
    return make_bundle(folder)


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    folder = tmp_path_factory.mktemp("fleet")
    hosts = {
        "good": here(folder / "good", core(folder, "5.10"), core(folder, "6.1")),
        "half": here(folder / "half", core(folder, "6.12"), f"image:{folder}/later.core"),
        "no xen here": here(folder / "none"),
        "down": {"ansible_host": "127.0.0.1", "ansible_port": 1},
    }
    inventory = write_inventory(folder / "fleet.json", hosts)
    with one_bundle(folder):
        first = call("scan", "-i", inventory, "--run", folder / "run", "--retries", "0", "--json")
    return Fleet(folder, first)


def test_every_host_is_a_row_and_what_could_be_read_is_there(scanned: Fleet) -> None:
    lines = [json.loads(line) for line in scanned.first.stdout.splitlines()]
    assert scanned.first.exit_code == 3, scanned.first.output
    outcomes = {line["name"]: line["outcome"] for line in lines if line["table"] == "host"}
    assert outcomes == {"good": "gaps", "half": "partly", "no xen here": "no xen", "down": "down"}
    reasons = {line["name"]: line["reason"] for line in lines if line["table"] == "host"}
    assert "Connection refused" in reasons["down"]
    assert "control_d" in reasons["no xen here"]
    assert lines[-1] | {"run": "", "database": ""} == {
        "table": "summary", "run": "", "database": "", "hosts": 4, "missing": 3,
        "findings": len(lines) - 5, "rule_faults": {}, "exit_code": 3,
    }  # fmt: skip


def test_rules_see_host_and_guest(scanned: Fleet) -> None:
    found = scanned.rows(
        "SELECT h.name, s.source FROM finding f JOIN session s ON s.id = f.session JOIN guest g ON g.id = s.guest"
        " JOIN host h ON h.id = g.host JOIN process p ON p.id = f.process AND p.session = f.session"
        " WHERE f.rule = 'running-program-from-memory'"
    )
    assert {(host, Path(source).name) for host, source in found} == {
        ("good", "5.10.core"), ("good", "6.1.core"), ("half", "6.12.core"),
    }  # fmt: skip


def test_merged_rows_are_chained_and_name_what_they_came_from(scanned: Fleet) -> None:
    verdict = verify(scanned.run / "fleet.db")
    assert not verdict.faults
    ((digest, head),) = scanned.rows("SELECT sha256, head FROM fleet_host WHERE name = 'good'")
    assert len(digest) == len(head) == 64
    assert (scanned.run / "results/good/1.db.gz").is_file()
    assert not list((scanned.run / "incoming").iterdir())
    assert (scanned.run / "fleet.db").stat().st_mode & 0o077 == 0


def test_the_bundle_stays_on_the_host_and_the_result_does_not(scanned: Fleet) -> None:
    (left,) = [path for path in (scanned.folder / "good").iterdir() if path.name not in (".cache", "lock")]
    assert left.name.startswith("bundle-")
    assert left.stat().st_mode & 0o077 == 0


def test_going_on_does_what_is_left_and_nothing_again(scanned: Fleet) -> None:
    (scanned.folder / "6.12.core").rename(scanned.folder / "later.core")
    hosts = json.loads((scanned.folder / "fleet.json").read_text())["xen"]["hosts"]
    hosts["down"] = here(scanned.folder / "up", core(scanned.folder, "6.1"))
    write_inventory(scanned.folder / "fleet.json", hosts)
    before = scanned.rows("SELECT id, source FROM session ORDER BY id")
    with one_bundle(scanned.folder):
        second = call("scan", "--resume", scanned.run)
    assert second.exit_code == 3, second.output
    after = scanned.rows("SELECT id, source FROM session ORDER BY id")
    assert after[: len(before)] == before
    # What was read is not read again: of the host that was partly read, only the guest that was not.
    assert sorted(Path(source).name for _, source in after[len(before) :]) == ["6.1.core", "later.core"]
    status = call("status", scanned.run, "--json")
    assert status.exit_code == 3
    told = [(row["name"], row["outcome"], row["guests"], row["failed_guests"]) for row in json.loads(status.stdout)]
    assert sorted(told) == [
        ("down", "gaps", 1, 0), ("good", "gaps", 2, 0), ("half", "gaps", 2, 0), ("no xen here", "no xen", None, None),
    ]  # fmt: skip
    assert not verify(scanned.run / "fleet.db").faults


def test_a_wrong_inventory_is_said_and_nothing_is_begun(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text("all: [this is no: inventory")
    result = call("scan", "-i", wrong, "--run", tmp_path / "run")
    assert isinstance(result.exception, FleetError)
    assert result.exception.exit_code == 4
    assert "inventory" in str(result.exception)
    assert not (tmp_path / "run").exists()


def test_a_locale_that_ansible_refuses_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    result = call("hosts", "-i", write_inventory(tmp_path / "one.json", {"a": here(tmp_path / "a", "image:x")}), "--nl")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["outcome"] == "ok"
    assert not (tmp_path / "a").exists(), "nothing is brought"


def test_no_run_is_said(tmp_path: Path) -> None:
    for command in (("status", tmp_path), ("scan", "--resume", tmp_path)):
        result = call(*command)
        assert isinstance(result.exception, FleetError)
        assert "no run" in str(result.exception)
