# SPDX-License-Identifier: GPL-2.0-or-later
"""The findings of a report, the gravest first, each with the rows it rests on."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from drakmet.report.limits import short
from drakmet.store.schema import quote

if TYPE_CHECKING:
    from drakmet.report.source import Row, Source

LEVELS = ("critical", "high", "medium", "low", "informational")
_MOST_ROWS = 6
_ORDER = "CASE level " + " ".join(f"WHEN '{level}' THEN {place}" for place, level in enumerate(LEVELS)) + " ELSE 9 END"


def levels(source: Source) -> dict[int | None, dict[str, int]]:
    """Return the number of findings of each level by guests, those of all under None."""
    counted: dict[int | None, Counter[str]] = {None: Counter()}
    if source.has("finding"):
        for row in source.select("SELECT session, level, count(*) AS n FROM finding WHERE :within GROUP BY 1, 2"):
            for guest in {source.guests.get(row["session"]), None}:
                counted.setdefault(guest, Counter())[_level(row["level"])] += row["n"]
    return {guest: {one: found[one] for one in LEVELS if found[one]} for guest, found in counted.items()}


def by_process(source: Source) -> Counter[int]:
    """Return the number of findings of each process."""
    counted = Counter[int]()
    if source.has("finding"):
        for row in source.select("SELECT process, count(*) AS n FROM finding WHERE :within GROUP BY 1"):
            process = source.process(row["process"])
            if process is not None:
                counted[process] += row["n"]
    return counted


def findings(source: Source) -> list[Row]:
    """Return the findings; ``coverage`` is null where it is not known whether everything was seen."""
    found = []
    for row in source.some("finding", f"{_ORDER}, time, id", source.limits.findings):
        process = source.process(row["process"])
        found.append(
            {
                "id": row["id"],
                "session": row["session"],
                "guest": source.guests.get(row["session"]),
                "time": row["time"],
                "rule": short(row["rule"]),
                "level": _level(row["level"]),
                "title": short(row["title"]),
                "message": short(row["message"]),
                "process": process,
                "coverage": short(row["coverage"]),
                "rests_on": [_resting(source, table, number) for table, number in _pairs(row["rests_on"])],
            }
        )
    return found


def _told(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _level(level: Any) -> str:
    return level if level in LEVELS else LEVELS[-1]


def _pairs(text: Any) -> list[tuple[str, int]]:
    try:
        pairs = json.loads(text) if isinstance(text, str) else text
        return [(str(table), int(number)) for table, number in pairs[:_MOST_ROWS]]
    except (ValueError, TypeError):
        return []


def _resting(source: Source, table: str, number: int) -> Row:
    text = None
    if source.has(table):
        sql = f"SELECT * FROM {quote(table)} WHERE id = :number"  # noqa: S608 - a table of the file
        row = next(source.select(sql, within=False, number=number), None)
        if row is not None:
            left = ("id", "session", "time", "raw")
            text = short(", ".join(f"{k}: {_told(v)}" for k, v in row.items() if v is not None and k not in left))
    return {"table": short(table), "id": number, "text": text}
