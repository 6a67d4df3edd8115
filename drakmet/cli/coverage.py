# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet coverage``: what a file's sessions saw and what they did not."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from drakmet.cli.output import Format, emit, output_options
from drakmet.errors import StoreError
from drakmet.store.coverage import read_coverage, summarise
from drakmet.store.reader import connect

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from drakmet.records import Coverage
    from drakmet.store.coverage import TrapCoverage

SUMMARY = ("session", "plugin", "trap", "armed", "of", "missed", "gaps", "why")
_INTERVALS = ("session", "plugin", "trap", "begin", "end", "kind", "missed", "reason", "tables")


@click.command(short_help="Say what was seen, and each gap with its reason.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--session", type=int, help="only this session")
@click.option("--gaps", is_flag=True, help="only traps, or intervals, that did not see everything")
@click.option("--intervals", is_flag=True, help="each interval by itself, times in UTC")
@output_options
def coverage(file: Path, session: int | None, gaps: bool, intervals: bool, output: Format) -> None:
    """Say what was seen, and each gap with its reason.

    A line a trap: how many seconds it was armed, of how many it was meant to be, how many hits are known to be lost,
    and what kinds of gaps there were. The guest does nothing while it is paused, so that the pauses to attach and to
    detach, which are columns of the table session, are no gaps.

    \b
    Example:
      drakmet coverage run.db
      drakmet coverage run.db --gaps --intervals
      drakmet coverage run.db --json
    """
    connection = connect(file)
    try:
        rows = read_coverage(connection, session)
        now = _last(connection)
    except sqlite3.OperationalError as error:
        hint = "watch again with this drakmet, or read the file with the one that wrote it"
        raise StoreError(
            "it tells nothing of coverage that this drakmet can read", where=str(file), hint=hint
        ) from error
    finally:
        connection.close()
    if intervals:
        emit(_each(rows, only_gaps=gaps), _INTERVALS, output)
    else:
        found = [trap for trap in summarise(rows, now) if not gaps or not trap.complete]
        emit(summary_rows(found), SUMMARY, output)


def summary_rows(traps: Iterable[TrapCoverage]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table with the columns `SUMMARY`; times in seconds."""
    for trap in traps:
        yield {
            "session": trap.session,
            "plugin": trap.plugin,
            "trap": trap.trap,
            "armed": round(trap.armed / 1e9, 3),
            "of": round(trap.span / 1e9, 3),
            "missed": trap.missed,
            "gaps": ", ".join(trap.kinds) or "none",
            "why": "; ".join(trap.reasons),
        }


def _each(rows: Iterable[Coverage], *, only_gaps: bool) -> Iterator[dict[str, Any]]:
    for row in sorted(rows, key=lambda row: (row.session, row.begin, row.plugin, row.trap)):
        if not only_gaps or row.gap is not None:
            yield {
                "session": row.session,
                "plugin": row.plugin,
                "trap": row.trap,
                "begin": _clock(row.begin),
                "end": None if row.end is None else _clock(row.end),
                "kind": row.kind,
                "missed": row.missed,
                "reason": row.gap,
                "tables": ", ".join(row.tables),
            }


def _last(connection: sqlite3.Connection) -> int:
    (last,) = connection.execute("SELECT coalesce(max(end), 0) FROM main.session").fetchone()
    return int(last)


def _clock(nanoseconds: int) -> str:
    whole, part = divmod(nanoseconds, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{part // 1_000_000:03}Z"
