# SPDX-License-Identifier: GPL-2.0-or-later
"""What was seen and what was not, out of the intervals that were written down."""

import json
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner

from drakmet.cli import cli
from drakmet.errors import StoreError
from drakmet.monitor.coverage import CoverageBook
from drakmet.records import Coverage, CoverageKind, Record
from drakmet.store import Writer
from drakmet.store.coverage import COMPLETE, rests_on, summarise

SECOND = 10**9


def row(
    trap: str,
    begin: float,
    end: float | None,
    kind: CoverageKind = CoverageKind.ARMED,
    missed: int | None = None,
    session: int = 1,
) -> Coverage:
    return Coverage(
        session=session,
        plugin="file",
        trap=trap,
        tables=[f"file_{trap}"],
        begin=int(begin * SECOND),
        end=None if end is None else int(end * SECOND),
        kind=kind.value,
        gap=None if kind == CoverageKind.ARMED else f"because of {kind.value}",
        missed=missed,
    )


def test_a_trap_that_was_armed_all_the_time_is_complete() -> None:
    (trap,) = summarise([row("open", 1, 11)])
    assert trap.complete
    assert (trap.armed, trap.span) == (10 * SECOND, 10 * SECOND)


def test_a_throttled_trap_was_not_armed_meanwhile() -> None:
    rows = [row("open", 0, 4), row("open", 4, 14, CoverageKind.THROTTLED), row("open", 14, 20)]
    (trap,) = summarise(rows)
    assert not trap.complete
    assert (trap.armed, trap.span) == (10 * SECOND, 20 * SECOND)
    assert trap.kinds == ["throttled"]
    assert rests_on(rows, {"file_open"}, 0) == "gaps: 10.0 s of 20.0 s not seen (throttled)"


def test_what_was_missed_while_armed_takes_no_time_away() -> None:
    rows = [row("open", 0, 20), row("open", 0, 20, CoverageKind.LOST_RETURN, missed=3)]
    (trap,) = summarise(rows)
    assert (trap.armed, trap.missed, trap.kinds) == (20 * SECOND, 3, ["lost return"])
    assert rests_on(rows, {"file_open"}, 0) == "gaps: 0.0 s of 20.0 s not seen (lost return)"


def test_only_the_traps_behind_the_tables_count() -> None:
    rows = [row("open", 0, 20), row("close", 0, 20, CoverageKind.NOT_ARMED)]
    assert rests_on(rows, {"file_open"}, 0) == COMPLETE
    assert rests_on(rows, {"file_close"}, 0) == "gaps: 20.0 s of 20.0 s not seen (not armed)"
    assert rests_on(rows, {"net_connect"}, 0) is None


def test_an_interval_without_an_end_lasts_until_now() -> None:
    (trap,) = summarise([row("open", 5, None)], now=9 * SECOND)
    assert trap.armed == 4 * SECOND


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.db"
    with Writer(path) as writer:
        opened = writer.begin_session(host="dom0", guest="web1", source="xen:web1", begin=0)
        # A gap that begins at the same moment stands beside the interval in which it was armed.
        writer.put(row("open", 0, 20))
        writer.put(row("open", 0, 20, CoverageKind.FILTERED))
        writer.put(row("close", 0, 20))
        writer.put(row("map", 0, None, CoverageKind.NOT_ARMED))
        writer.end_session(opened.session, "done", end=20 * SECOND)
    return path


def asked(*arguments: str) -> list[dict[str, object]]:
    result = CliRunner().invoke(cli, ["coverage", *arguments, "--json"], standalone_mode=False)
    assert result.exception is None, result.exception
    return list(json.loads(result.stdout))


def test_the_command_tells_of_each_trap(file: Path) -> None:
    traps = {row["trap"]: row for row in asked(str(file))}
    assert (traps["open"]["armed"], traps["open"]["gaps"]) == (20, "filtered")
    assert (traps["close"]["armed"], traps["close"]["gaps"]) == (20, "none")
    assert (traps["map"]["armed"], traps["map"]["of"], traps["map"]["why"]) == (0, 20, "because of not armed")
    assert {row["trap"] for row in asked(str(file), "--gaps")} == {"open", "map"}
    assert asked(str(file), "--session", "2") == []


def test_the_command_tells_of_each_interval(file: Path) -> None:
    intervals = asked(str(file), "--intervals", "--gaps")
    assert [(row["trap"], row["kind"], row["end"]) for row in intervals] == [
        ("map", "not armed", None),
        ("open", "filtered", "1970-01-01T00:00:20.000Z"),
    ]


def test_an_older_file_is_told_of(file: Path) -> None:
    connection = sqlite3.connect(file)
    connection.executescript(
        "DROP INDEX idx_coverage_session_plugin_trap_begin_kind; ALTER TABLE coverage DROP COLUMN kind"
    )
    connection.close()
    result = CliRunner().invoke(cli, ["coverage", str(file)], standalone_mode=False)
    assert isinstance(result.exception, StoreError)
    assert "tells nothing of coverage" in str(result.exception)


def test_that_the_guest_was_stopped_is_told_and_makes_no_table_incomplete() -> None:
    kept: list[Coverage] = []

    def put(row: Record) -> None:
        assert isinstance(row, Coverage)
        kept.append(row)

    book = CoverageBook(1, put)
    book.armed(("file", "open"), ["file_open"], 10)
    book.paused([(10, 5_000_010)])
    book.close_all(20_000_000)
    (pause,) = [row for row in kept if row.kind == CoverageKind.PAUSED]
    assert (pause.begin, pause.end, pause.missed, pause.tables) == (10, 5_000_010, 0, [])
    assert pause.gap is not None
    assert "5.0 ms" in pause.gap
    assert book.gaps == 0
    assert rests_on(kept, ["file_open"], 0) == COMPLETE
