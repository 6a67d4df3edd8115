# SPDX-License-Identifier: GPL-2.0-or-later
"""What may happen on our side, with the real thing: a file that cannot be written, memory that is at its end."""

from __future__ import annotations

import json
import resource
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from drakmet.errors import ExitCode, StoreError
from drakmet.records import PluginFault
from drakmet.store import Writer
from monitor.scene import Opened
from monitor.test_live import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet.traps import Hit

MIB = 1 << 20


def full(writer: Writer, _path: Path) -> None:
    (pages,) = writer._connection.execute("PRAGMA page_count").fetchone()
    writer._connection.execute(f"PRAGMA max_page_count = {pages}")


def read_only(writer: Writer, _path: Path) -> None:
    writer._connection.execute("PRAGMA query_only = 1")


def locked(_writer: Writer, path: Path) -> sqlite3.Connection:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    return other


@pytest.mark.parametrize(
    ("break_it", "says"),
    [(full, "the disk is full"), (read_only, "cannot be written"), (locked, "another program holds a lock")],
)
def test_a_file_that_cannot_be_written_ends_the_watch_and_leaves_the_guest(
    break_it: Callable[[Writer, Path], sqlite3.Connection | None],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("drakmet.store.writer._PATIENCE", 0.0)
    path = tmp_path / "watch.db"
    watch = Watch()
    writer = Writer(path, [Opened])
    broken = False
    other: sqlite3.Connection | None = None
    writer.put(Opened(session=1, time=1, requested="before"))
    writer.flush()

    def tick() -> bool:
        nonlocal broken, other
        for row in watch.way.sink.rows:
            if isinstance(row, Opened):
                writer.put(row)
        watch.way.sink.rows.clear()
        writer.flush()
        if not broken:
            broken, other = True, break_it(writer, path)
        return True

    watch.tick = tick
    with pytest.raises(StoreError, match=says) as caught:
        watch.run(None)
    assert caught.value.exit_code is ExitCode.FAILED
    assert caught.value.hint
    assert watch.leave() == {}
    if other is not None:
        other.close()
        writer.close()
        assert writer.lost == 0  # the lock is gone: all is stored
    else:
        with pytest.raises(StoreError, match=says):
            writer.close()
        assert writer.lost > 0
    with sqlite3.connect(path) as kept:
        (first,) = kept.execute("SELECT requested FROM opened ORDER BY time LIMIT 1").fetchone()
    kept.close()
    assert first == "before"


HOARD = """
import json, sys
from monitor.test_our_side import hoard
print(json.dumps(hoard(int(sys.argv[1]))))
"""


def hoard(most: int) -> dict[str, object]:
    """Watch with a handler that allocates until there is no more, at each hit; return how that went."""
    taken = []

    def handler(_hit: Hit) -> None:
        pile = []
        try:
            while True:
                pile.append(bytearray(8 * MIB))
        finally:
            taken.append(len(pile))

    watch = Watch(handler)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + most, used + most))
    outcome = watch.run(0.3)
    faults = watch.way.sink.of(PluginFault)
    return {"outcome": outcome, "taken": taken[:3], "fault": faults[0].error, "left": watch.leave()}


def test_a_plugin_that_allocates_without_end_ends_at_the_limit_and_the_watch_goes_on() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOARD, str(256 * MIB)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode()
    told = json.loads(done.stdout)
    assert told["outcome"] == "done"
    assert told["left"] == {}
    assert min(told["taken"]) > 1  # what it took it gave back with the error
    assert "MemoryError" in told["fault"]
