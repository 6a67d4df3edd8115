# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows that come late: which rows have to be judged again because something before them was stored after them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from drakmet.store.schema import quote

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping

_BLOCK = 4_096
_MOST_RANGES = 64


@dataclass(frozen=True, slots=True)
class Span:
    """Row numbers of a table: above ``low``, up to ``high``."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Times:
    """A span of time, both ends in it, in nanoseconds."""

    since: int
    until: int

    def hull(self, other: Times) -> Times:
        """Return the span that has both in it."""
        return Times(min(self.since, other.since), max(self.until, other.until))


ALWAYS = Times(-(2**63), 2**63 - 1)


class Arrivals:
    """The times of the rows that were judged, by guest and by blocks of row numbers.

    Without it each late row would mean a look at the whole table, as tables have no index on time.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._guests: dict[int, int] = {}
        self._blocks: dict[str, dict[int, dict[int, Times]]] = {}
        self._latest: dict[tuple[str, int], int] = {}
        self._begin: dict[str, int] = {}

    def fresh(self, table: str, span: Span) -> dict[int, Times]:
        """Return the times of new rows by guest."""
        found: dict[int, Times] = {}
        for _, guest, times in self._hulls(table, span, blocks=False):
            found[guest] = times.hull(found[guest]) if guest in found else times
        return found

    def keep(self, table: str, span: Span) -> None:
        """Remember that rows were judged."""
        self._begin.setdefault(table, span.low)
        blocks = self._blocks.setdefault(table, {})
        for block, guest, times in self._hulls(table, span, blocks=True):
            guests = blocks.setdefault(block, {})
            guests[guest] = times.hull(guests[guest]) if guest in guests else times
            self._latest[table, guest] = max(times.until, self._latest.get((table, guest), times.until))

    def judged(self, table: str, fresh: Iterable[Mapping[int, Times]], reach: int) -> list[tuple[Span, Times]]:
        """Return where judged rows lie at the times of fresh ones, or up to ``reach`` nanoseconds after."""
        found: list[tuple[Span, Times]] = []
        for guests in fresh:
            for guest, times in guests.items():
                if self._latest.get((table, guest), ALWAYS.since) >= times.since:
                    wanted = Times(times.since, min(times.until + reach, ALWAYS.until))
                    found += [(span, wanted) for span in self._ranges(table, guest, wanted)]
        if len(found) > _MOST_RANGES:
            hull = Span(min(span.low for span, _ in found), max(span.high for span, _ in found))
            return [(hull, Times(min(t.since for _, t in found), max(t.until for _, t in found)))]
        return found

    def _ranges(self, table: str, guest: int, wanted: Times) -> list[Span]:
        ranges: list[Span] = []
        for block, guests in self._blocks.get(table, {}).items():
            times = guests.get(guest)
            if times is None or times.until < wanted.since or times.since > wanted.until:
                continue
            span = Span(max(block * _BLOCK - 1, self._begin[table]), (block + 1) * _BLOCK - 1)
            if ranges and ranges[-1].high == span.low:
                span = Span(ranges.pop().low, span.high)
            ranges.append(span)
        return ranges

    def _hulls(self, table: str, span: Span, *, blocks: bool) -> list[tuple[int, int, Times]]:
        if span.high <= span.low:
            return []
        block = f"id / {_BLOCK}" if blocks else "0"
        sql = (
            f"SELECT {block}, session, min(time), max(time) FROM main.{quote(table)}"  # noqa: S608 - a checked name
            " WHERE id > ? AND id <= ? GROUP BY 1, 2 ORDER BY 1"
        )
        rows = self._connection.execute(sql, (span.low, span.high)).fetchall()
        return [(number, self._guest(session), Times(first, last)) for number, session, first, last in rows]

    def _guest(self, session: int) -> int:
        if session not in self._guests:
            self._guests.update(self._connection.execute("SELECT id, guest FROM session"))
            # A session that the file does not describe is nobody's but its own.
            self._guests.setdefault(session, -session)
        return self._guests[session]
