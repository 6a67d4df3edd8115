# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: S108  # the paths are the guest's
"""The bundled plugins over a real kernel under QEMU, against what strace saw of the same run, byte for byte."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from drakmet.plugins import load_plugins

if TYPE_CHECKING:
    from truth.machine import Run

pytestmark = pytest.mark.lab

TOOLS = ("qemu-system-x86_64", "strace", "busybox", "gcc", "cpio")


def kernels() -> list[Path]:
    """Return the vmlinuz files that DRAKMET_TRUTH_KERNELS names; without it these tests are left out.

    They drive a kernel through an emulator's debugger, which once in some runs steps over an exit twice: good for
    comparing by hand, not yet for every run.
    """
    return [Path(one) for one in os.environ.get("DRAKMET_TRUTH_KERNELS", "").split(":") if one]


@pytest.fixture(scope="module", params=kernels(), ids=lambda path: path.name)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    from truth.machine import Run

    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    found = load_plugins()
    assert found.failed == []
    return Run(tmp_path_factory.mktemp("truth"), request.param, found.plugins)


def of(run: Run, table: str) -> list[Any]:
    return [record for record in run.records if record.table == table]


def test_nothing_is_missing_twice_or_invented(run: Run) -> None:
    from truth.compare import differences

    seen, found = differences(run.records, run.truth, run.work / "root")
    assert found == []
    assert seen["open"] > 150
    assert seen["exec"] > 30
    assert seen["connect"] > 10


def test_everything_was_readable_and_no_handler_failed(run: Run) -> None:
    assert of(run, "plugin_fault") == []
    assert run.lost == 0
    assert [one for one in run.records if getattr(one, "unreadable", None)] == []


def test_bytes_written_are_told(run: Run) -> None:
    closed = {one.path: one.bytes_written for one in of(run, "file_close")}
    assert closed["/tmp/written"] == 5 * 1000 + 96
    assert (closed["/tmp/vectors"], closed["/tmp/copied"], closed["/tmp/sent"]) == (None, None, None)


def test_odd_programs_are_told_apart(run: Run) -> None:
    started = of(run, "process_start")
    (hidden,) = [one for one in started if one.memfd]
    assert (hidden.path, hidden.deleted) == ("/memfd:hidden", True)
    (gone,) = [one for one in started if one.deleted and not one.memfd]
    assert gone.path == "/tmp/removed"
    (other,) = [one for one in started if one.euid != one.uid]
    assert (other.path, other.uid, other.euid) == ("/tmp/setuid", 0, 1000)
    assert [one.script for one in started if one.script] == ["/tmp/script", "/tmp/nested", "/tmp/script"]


def test_names_are_asked_for(run: Run) -> None:
    assert {one.name for one in of(run, "dns_query")} >= {"pool.example.test", "name.example.test"}


def test_renames_have_both_names(run: Run) -> None:
    renamed = [(one.path, one.new_path, one.result) for one in of(run, "file_rename")]
    assert ("/tmp/sent", "/tmp/was sent", 0) in renamed
    assert ("/tmp/piped", "/tmp/moved", 0) in renamed
