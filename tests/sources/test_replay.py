# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording of a real guest gives the same records each time, and the plugins no trouble."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import pytest

import drakmet
from drakmet.errors import UsageError
from drakmet.monitor import Filters, Monitor
from drakmet.plugins import load_plugins
from drakmet.records import Coverage, CoverageKind, Record
from drakmet.sources import open_source

DEMO = Path(drakmet.__file__).parent / "demo" / "demo.drec"
URI = f"replay:{DEMO}"


class Rows:
    """A sink."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, bytes]] = []
        self.coverage: list[Coverage] = []

    def put(self, record: Record) -> None:
        self.rows.append((record.table, msgspec.json.encode(record)))
        if isinstance(record, Coverage):
            self.coverage.append(record)

    def flush(self) -> None:
        pass


def replay(filters: Filters | None = None) -> Rows:
    rows = Rows()
    source = open_source(URI)
    with Monitor(source, load_plugins().without_execute_traps().plugins, [rows], filters=filters) as monitor:
        monitor.attach()
        assert monitor.run() == "done"
    assert monitor.statistics.errors == 0
    source.close()
    return rows


@pytest.fixture(scope="module")
def once() -> Rows:
    return replay()


def test_two_replays_are_the_same_byte_for_byte(once: Rows) -> None:
    assert replay().rows == once.rows


def test_it_holds_what_the_plugins_are_for(once: Rows) -> None:
    tables = Counter(table for table, _ in once.rows)
    for table in ("process", "process_start", "process_fork", "process_exit", "file_open", "net_connect"):
        assert tables[table] > 0, table
    assert not tables["plugin_fault"]


def test_every_trap_has_its_coverage_from_begin_to_end(once: Rows) -> None:
    assert once.coverage
    last = {(row.plugin, row.trap, row.begin): row for row in once.coverage}
    assert all(row.end is not None and row.end >= row.begin for row in last.values())


def test_a_filter_leaves_only_what_fits(once: Rows) -> None:
    few = replay(Filters(names=("no-program-has-this-name",)))
    assert len(few.rows) < len(once.rows)
    told = [row for row in few.coverage if row.kind == CoverageKind.FILTERED]
    assert {row.trap for row in told} == {row.trap for row in few.coverage if row.plugin != "monitor"}
    assert "only processes with name no-program-has-this-name" in str(told[0].gap)
    gaps = {(row.plugin, row.trap, row.kind) for row in once.coverage if row.kind != CoverageKind.ARMED}
    # The recording is older than the check of who runs, and has not the types that it takes.
    assert gaps == {("monitor", "identity", CoverageKind.NOT_ARMED)}


def test_a_recording_is_not_recorded_again(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be recorded again"):
        Monitor(open_source(URI), [], [], record=tmp_path / "again.drec")
