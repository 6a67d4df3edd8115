# SPDX-License-Identifier: GPL-2.0-or-later
"""A look at a guest: the sessions that tell of it, and which tables they collected."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from drakmet.errors import UsageError
from drakmet.store.schema import quote

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from drakmet.store import Reader

_OF = re.compile(r":of\((\w+)(?: (\w+))?\)")
LONG = 600.0
"""Seconds that a query of ours may take."""


@dataclass(frozen=True, slots=True)
class Look:
    """Some sessions of one guest in a file."""

    file: Reader
    host: str
    guest: str
    sessions: tuple[int, ...]
    spans: dict[str, dict[int, tuple[int, int]]]
    """By tables the lowest and highest ids of each session's rows; filled when a table is first asked."""

    def rows(self, sql: str) -> Iterator[dict[str, Any]]:
        """Run a SELECT in which ``:of(table)`` or ``:of(table alias)`` stands for the table's rows of the sessions."""
        yield from self.file.select(_OF.sub(self._of, sql), seconds=LONG)[1]

    def _of(self, found: re.Match[str]) -> str:
        table, alias = found[1], f"{found[2]}." if found[2] else ""
        numbers = ", ".join(str(int(number)) for number in self.sessions)
        if table in ("session", "guest"):
            return f"{alias}id IN ({numbers})"
        if table not in self.spans:
            sql = f"SELECT session, min(id) AS low, max(id) AS high FROM {quote(table)} GROUP BY session"  # noqa: S608
            rows = self.file.select(sql, seconds=LONG)[1]
            self.spans[table] = {row["session"]: (row["low"], row["high"]) for row in rows}
        spans = [self.spans[table][number] for number in self.sessions if number in self.spans[table]]
        low, high = min((low for low, _ in spans), default=0), max((high for _, high in spans), default=-1)
        # No index leads to the rows of a session, but they lie more or less together.
        return f"{alias}session IN ({numbers}) AND {alias}id BETWEEN {low} AND {high}"

    def has(self, table: str) -> bool:
        """Tell whether the file has a table."""
        return table in self.file.names

    def collected(self, table: str) -> bool:
        """Tell whether somebody looked for what a table tells: by the coverage, or by rows where no trap is named."""
        if not self.has(table):
            return False
        mentions = list(self._mentions(table))
        if mentions:
            return any(row["gap"] is None for row in mentions)
        sql = f"SELECT 1 AS found FROM {quote(table)} WHERE :of({table}) LIMIT 1"  # noqa: S608 - a known table
        return any(True for _ in self.rows(sql))

    def gaps(self, tables: Collection[str]) -> str | None:
        """Return why not all of some tables' rows may be there, None if all is."""
        found: dict[str, None] = {}
        for table in tables:
            for row in self._mentions(table):
                if row["gap"] is not None or row["missed"]:
                    found[f"{row['trap']}: {row['gap'] or 'it saw not all'}"] = None
        return "; ".join(list(found)[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else "") or None

    def _mentions(self, table: str) -> Iterator[dict[str, Any]]:
        sql = "SELECT trap, gap, missed, tables FROM coverage WHERE :of(coverage) ORDER BY id"
        return (row for row in self.rows(sql) if table in row["tables"])


def history(file: Reader) -> dict[tuple[str, str], list[int]]:
    """Return the sessions of each guest in the order of time, under the names of host and guest."""
    sql = (
        "SELECT s.id, g.name AS guest, coalesce(h.name, '') AS host FROM session s"
        " JOIN guest g ON g.id = s.guest LEFT JOIN host h ON h.id = g.host ORDER BY s.begin, s.id"
    )
    found: dict[tuple[str, str], list[int]] = {}
    for row in file.select(sql, seconds=LONG)[1]:
        found.setdefault((str(row["host"]), str(row["guest"])), []).append(row["id"])
    return found


def looks(file: Reader, sessions: Sequence[int] | None = None) -> dict[tuple[str, str], Look]:
    """Return a look for each guest of the sessions, by the names of host and guest; of None the last session of each.

    Raises `UsageError` for a session that is not in the file.
    """
    all_of = history(file)
    spans: dict[str, dict[int, tuple[int, int]]] = {}
    if sessions is None:
        return {name: Look(file, *name, (numbers[-1],), spans) for name, numbers in all_of.items()}
    wanted = set(sessions)
    if missing := wanted - {number for numbers in all_of.values() for number in numbers}:
        raise UsageError(
            f"there is no session {', '.join(map(str, sorted(missing)))}",
            where=str(file.path),
            hint='drakmet query FILE "SELECT id, utc(begin), source FROM session" lists them',
        )
    chosen = {name: tuple(number for number in numbers if number in wanted) for name, numbers in all_of.items()}
    return {name: Look(file, *name, numbers, spans) for name, numbers in chosen.items() if numbers}
