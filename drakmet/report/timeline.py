# SPDX-License-Identifier: GPL-2.0-or-later
"""What happened when: numbers of events by table, process and time, and some of the events themselves."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from drakmet.report.limits import short
from drakmet.store.schema import quote

if TYPE_CHECKING:
    from drakmet.report.source import Row, Source

BINS = 480
_MOST_LANES = 16
_FIRST = (
    *("process_start", "file_open", "net_connect", "net_datagram", "dns_query", "file_write", "file_rename"),
    *("file_remove", "file_chmod", "file_chown", "net_listen", "net_bind", "process_exit", "process_fork", "file_map"),
)
_STATES = {"process_running", "hole"}
"""What was there already when somebody began to look."""
_COMMON = {"id", "session", "time", "vcpu", "process", "unreadable", "line", "tid", "event"}
_TEXTS = {
    "process_start": ("path", "argv"),
    "file_open": ("access", "path", "requested", "result"),
    "net_connect": ("protocol", "address", "port", "path", "result"),
    "net_datagram": ("protocol", "address", "port", "size"),
    "dns_query": ("name", "qtype"),
    "process_exit": ("status", "signal"),
}


class Cell(NamedTuple):
    """A number of events of a table by a process in one of the timeline's intervals."""

    lane: int
    guest: int | None
    process: int | None
    bin: int
    number: int


class Timeline:
    """The lanes of a file: its tables of things that happen, those of execs, opens and connects first."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.lanes: list[Row] = []
        self.events: list[Row] = []
        self.by_process: Counter[int] = Counter()
        self.cells: list[Cell] = []
        spans = {name: span for name in source.tables if (span := self._span(name)) is not None}
        self.begin = min((begin for begin, _, _ in spans.values()), default=0)
        self.end = max((end for _, end, _ in spans.values()), default=0)
        names = sorted(spans, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name))
        if len(names) > _MOST_LANES:
            left = names[_MOST_LANES:]
            source.told.append(f"timeline: not drawn are {', '.join(left)}")
        for name in names[:_MOST_LANES]:
            self._lane(name, spans[name][2])
        self._coarsen()

    @property
    def model(self) -> Row:
        """The timeline as a report has it; a cell's times are ``begin + bin * (end - begin) / bins``."""
        cells = [cell._asdict() for cell in self.cells]
        return {"begin": self.begin, "end": self.end, "bins": BINS, "lanes": self.lanes, "cells": cells}

    def _span(self, table: str) -> tuple[int, int, int] | None:
        info = self._source.tables[table]
        if not info.event or not info.rows or table in _STATES:
            return None
        sql = (
            f"SELECT min(time) AS low, max(time) AS high, count(*) AS n FROM {quote(table)} WHERE :within AND time > 0"  # noqa: S608 - a table's own name
        )
        row = next(self._source.select(sql))
        # What is told of one moment, as a scan's tables are, is a state and no course of events.
        if row["low"] is None or (row["low"] == row["high"] and table not in _FIRST):
            return None
        return row["low"], row["high"], row["n"]

    def _lane(self, table: str, rows: int) -> None:
        lane = len(self.lanes)
        width = max(self.end - self.begin, 1)
        sql = (
            f"SELECT session, process, min((time - :begin) / :step, {BINS - 1}) AS bin, count(*) AS n"  # noqa: S608
            f" FROM {quote(table)} WHERE :within AND time > 0 GROUP BY 1, 2, 3"
        )
        counted: Counter[tuple[int | None, int | None, int]] = Counter()
        for row in self._source.select(sql, begin=self.begin, step=max(width / BINS, 1.0)):
            process = self._source.process(row["process"])
            counted[self._source.guests.get(row["session"]), process, int(row["bin"])] += row["n"]
            if process is not None:
                self.by_process[process] += row["n"]
        self.cells += [Cell(lane, *key, number) for key, number in counted.items()]
        listed = self._list(table, rows)
        self.lanes.append(
            {"table": table, "doc": short(self._source.tables[table].doc), "rows": rows, "listed": listed}
        )

    def _list(self, table: str, rows: int) -> int:
        """Keep some of a table's events, evenly over time, as far as their ids are; return their number."""
        every = -(-rows // self._source.limits.events)
        names = [column.name for column in self._source.tables[table].columns]
        texts = _TEXTS.get(table) or tuple(name for name in names if name not in _COMMON and name != "raw")
        columns = ", ".join(quote(name) for name in texts if name in names)
        ask = f", {columns}" if columns else ""
        sql = (
            f"SELECT id, session, time, process{ask} FROM {quote(table)}"  # noqa: S608 - the file's own names
            f" WHERE :within AND time > 0 AND id % {every} = 0 LIMIT {self._source.limits.events}"
        )
        count = 0
        for row in self._source.select(sql):
            self.events.append(
                {
                    "table": table,
                    "id": row["id"],
                    "time": row["time"],
                    "guest": self._source.guests.get(row["session"]),
                    "process": self._source.process(row["process"]),
                    "text": _text(row, texts, named=table not in _TEXTS),
                }
            )
            count += 1
        if every > 1:
            self._source.told.append(f"{table}: every {every}th of {rows:,} events is listed, all are counted")
        return count

    def _coarsen(self) -> None:
        """Put processes with the fewest events together until the cells are few enough."""
        most = self._source.limits.cells
        if len(self.cells) <= most:
            return
        ranked = [process for process, _ in self.by_process.most_common()]
        keep = set(ranked)
        while len(self.cells) > most and keep:
            keep = set(ranked[: len(keep) // 2])
            counted: Counter[tuple[int, int | None, int | None, int]] = Counter()
            for lane, guest, process, at, count in self.cells:
                counted[lane, guest, process if process in keep else None, at] += count
            self.cells = [Cell(*key, number) for key, number in counted.items()]
        self._source.told.append(
            f"timeline: of {len(ranked):,} processes the {len(keep):,} busiest are told apart, the others are counted"
            " together"
        )
        wide = 1
        while len(self.cells) > most and wide < BINS:
            wide *= 2
            counted = Counter()
            for lane, guest, process, at, count in self.cells:
                counted[lane, guest, process, at - at % wide] += count
            self.cells = [Cell(*key, number) for key, number in counted.items()]
        if wide > 1:
            self._source.told.append(f"timeline: drawn in {-(-BINS // wide)} steps instead of {BINS}")


def _text(row: Row, columns: tuple[str, ...], *, named: bool) -> str | None:
    parts = []
    for name in columns:
        value: Any = row.get(name)
        if value is None or value == [] or (name == "result" and value == 0):
            continue
        if name == "requested" and row.get("path"):
            continue
        text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        parts.append(f"{name}={text}" if named or name in ("result", "status", "signal") else text)
    return short(" ".join(parts))
