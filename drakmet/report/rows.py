# SPDX-License-Identifier: GPL-2.0-or-later
"""The rows of a stored file one after the other, in the order of time, for those who write them down elsewhere."""

from __future__ import annotations

import heapq
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from drakmet.errors import UsageError
from drakmet.store.schema import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from drakmet.store import Reader

Row = dict[str, Any]
_LONG = 86_400.0
_PROCESSES = 1 << 16


class Rows:
    """A stored file, or one ``session`` of it."""

    def __init__(self, reader: Reader, session: int | None = None) -> None:
        self._reader = reader
        self._session = session
        described = reader.tables()
        self.events = [table.name for table in described if table.event]
        self.tables = [table.name for table in described]
        self.columns = {table.name: [column.name for column in table.columns] for table in described}
        self._filled = {table.name for table in described if table.rows}
        self.process = lru_cache(_PROCESSES)(self._process)
        self.guest = lru_cache(1024)(self._guest)

    def of(self, table: str) -> Iterator[Row]:
        """Yield the rows of a table in their order; `UsageError` if there is no such table."""
        if table not in self.columns:
            raise UsageError(f"there is no table {table} in it", hint=f"there are: {', '.join(sorted(self.columns))}")
        if table not in self._filled:
            return
        where = " WHERE session = :session" if self._session is not None and "session" in self.columns[table] else ""
        # Computed columns are told in what they are computed from.
        sql = f"SELECT * FROM {quote(table)}{where} ORDER BY id"  # noqa: S608 - a name from the file's own list
        parameters = {"session": self._session} if where else None
        _, rows = self._reader.select(sql, parameters, seconds=_LONG)
        yield from rows

    def merged(self, tables: Iterable[str]) -> Iterator[tuple[str, Row]]:
        """Yield tables' rows together, each table's in their own order, by their times."""
        streams = [self._named(table, "time") for table in tables if table in self._filled]
        for _, table, row in heapq.merge(*streams, key=lambda one: one[0]):
            yield table, row

    def in_lines(self, tables: Iterable[str]) -> Iterator[tuple[str, Row]]:
        """Yield the rows of imported logs' tables together, log by log and in the order of the lines."""
        streams = [self._named(table, "session", "line") for table in tables if table in self._filled]
        for _, table, row in heapq.merge(*streams, key=lambda one: one[0]):
            yield table, row

    def _named(self, table: str, *keys: str) -> Iterator[tuple[tuple[int, ...], str, Row]]:
        for row in self.of(table):
            yield tuple(row.get(key) or 0 for key in keys), table, row

    def _one(self, sql: str, number: int | None) -> Row | None:
        if number is None:
            return None
        return next(self._reader.select(sql, {"number": number}, seconds=_LONG)[1], None)

    def _process(self, number: int | None) -> Row | None:
        return self._one("SELECT * FROM process WHERE id = :number", number)

    def _guest(self, session: int | None) -> Row | None:
        sql = (
            "SELECT g.*, h.name AS host_name FROM session s JOIN guest g ON g.id = s.guest JOIN host h ON h.id = g.host"
            " WHERE s.id = :number"
        )
        return self._one(sql, session)
