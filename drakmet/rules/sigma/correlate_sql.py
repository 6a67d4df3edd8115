# SPDX-License-Identifier: GPL-2.0-or-later
"""The SQL of correlations. Each looks back from a new event, in the events of one session: those of one guest.

Tables have no index by time. So in the table of the new event the rows stored around it are looked at, and in another
those of the processes of the session.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drakmet.rules.sigma.convert import Part
    from drakmet.rules.sigma.correlate import Correlation

AROUND = 20_000
"""How many rows before and after the new one are looked at in its table."""


def counting(asked: Correlation) -> tuple[list[str], str]:
    """Return the tables that are judged and the SQL of a count of events, or of different values."""
    asked = _merged(asked)
    tables = _tables(asked.parts)

    def query(place: int) -> str:
        now = asked.parts[place]
        looked = "\n    UNION ALL\n    ".join(
            _before(asked, other, place, "now.time - :within", "now.time") for other in range(len(asked.parts))
        )
        if asked.values:
            counted = f"SELECT count(DISTINCT value) FROM (\n    {looked}\n  )"  # noqa: S608 - as below
        else:
            # What is more than enough is not counted.
            counted = f"SELECT count(*) FROM (SELECT 1 FROM (\n    {looked}\n  ) LIMIT :least)"  # noqa: S608 - as below
        return f"{_now(asked, place, tables, now)}\nWHERE ({counted}) >= :least"

    return tables, "\nUNION ALL\n".join(query(place) for place in range(len(asked.parts)))


def in_order(asked: Correlation) -> tuple[list[str], str]:
    """Return the table that is judged, the last one's, and the SQL of a sequence."""
    last = len(asked.parts) - 1
    tables = [asked.parts[last].source.table]

    def nested(place: int, until: str) -> str:
        inner = _before(asked, place, last, "now.time - :within", until)
        further = f"\n  WHERE {nested(place - 1, f'before_{place}.time')}" if place else ""
        return f"EXISTS (SELECT 1 FROM (\n    {inner}\n  ) AS before_{place}{further})"  # noqa: S608 - as below

    return tables, f"{_now(asked, last, tables, asked.parts[last])}\nWHERE {nested(last - 1, 'now.time')}"


def in_any_order(asked: Correlation) -> tuple[list[str], str]:
    """Return the tables that are judged and the SQL of events that come together, each time from the last of them."""
    tables = _tables(asked.parts)

    def query(place: int) -> str:
        others = [
            f"EXISTS (\n    {_before(asked, other, place, 'now.time - :within', 'now.time')}\n  )"
            for other in range(len(asked.parts))
            if other != place
        ]
        return f"{_now(asked, place, tables, asked.parts[place])}\nWHERE " + "\n  AND ".join(others)

    return tables, "\nUNION ALL\n".join(query(place) for place in range(len(asked.parts)))


def _merged(asked: Correlation) -> Correlation:
    """Return a count with parts of one table made one, so that an event which is both counts once."""
    kept: dict[tuple[object, ...], int] = {}
    parts: list[Part] = []
    groups, values = [], []
    for place, part in enumerate(asked.parts):
        value = asked.values[place] if asked.values else None
        key = (part.source.table, part.system, tuple(asked.groups[place]), value)
        alone = " AND ".join([*part.source.where, f"({part.sql})"])
        if key in kept:
            before = parts[kept[key]]
            parts[kept[key]] = replace(before, sql=f"{before.sql}\n    OR ({alone})")
            continue
        kept[key] = len(parts)
        parts.append(replace(part, source=replace(part.source, where=()), sql=f"({alone})"))
        groups.append(asked.groups[place])
        values += [value] if value is not None else []
    return replace(asked, parts=parts, groups=groups, values=values)


def _tables(parts: Sequence[Part]) -> list[str]:
    return list(dict.fromkeys(part.source.table for part in parts))


def _now(asked: Correlation, place: int, tables: Sequence[str], part: Part) -> str:
    """Return the select of new events of a part, under the name ``now``."""
    if len(tables) == 1:
        ids = "now.id"
    else:
        ids = ", ".join(f"{'now.id' if table == part.source.table else 'NULL'} AS {table}_id" for table in tables)
    names = [f"group_{number}" for number in range(len(asked.groups[place]))]
    told = " || ', ' || ".join(f"coalesce(now.{name}, '?')" for name in names) or "'all'"
    named = zip(asked.groups[place], names, strict=True)
    columns = "".join(f", {_column(part, field)} AS {name}" for field, name in named)
    inner = _select(part, part.source.table, f"s.id, s.session, s.time{columns}", [])
    return f"SELECT {ids}, {told} AS grouped\nFROM (\n  {inner}\n) AS now"


def _before(asked: Correlation, other: int, place: int, since: str, until: str) -> str:
    """Return the select of earlier events of a part, with the groups of ``now``."""
    part = asked.parts[other]
    table, same = part.source.table, part.source.table == asked.parts[place].source.table
    where = ["s.session = now.session", f"s.time BETWEEN {since} AND {until}"]
    where += [f"s.id BETWEEN now.id - {AROUND} AND now.id + {AROUND}"] if same else ["p.session = now.session"]
    where += [f"{_column(part, field)} IS now.group_{number}" for number, field in enumerate(asked.groups[other])]
    what = f"{_column(part, asked.values[other])} AS value" if asked.values else "s.id, s.time"
    return _select(part, f"main.{table}", what, where, by_process=not same)


def _select(part: Part, table: str, what: str, where: Sequence[str], *, by_process: bool = False) -> str:
    # A cross join keeps SQLite to the order, in which each process' events are found by the index.
    joined = (
        f"process AS p CROSS JOIN {table} AS s ON s.process = p.id"
        if by_process
        else f"{table} AS s LEFT JOIN process AS p ON p.id = s.process"
    )
    every = "\n    AND ".join([*where, *part.source.where, f"({part.sql})"])
    return f"SELECT {what}\n  FROM {joined}\n  WHERE {every}"  # noqa: S608 - written by us, run under a Guard


def _column(part: Part, field: str) -> str:
    known = part.source.fields.get(field)
    return known.sql if known else "s.session"
