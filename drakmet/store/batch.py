# SPDX-License-Identifier: GPL-2.0-or-later
"""Many records of one class into their table, with as little work a record as Python's sqlite3 allows.

What a row costs is mostly what surrounds SQLite, counted as instructions with 12 columns and batches of 1,000: 21,500
for `executemany` over the records as they are, 16,000 as it is done here.

- Columns are turned at once, not values row by row, and a column that is null in the whole batch is left out.
- ``None`` and ``bool`` are no exact int, float or str, so sqlite3 looks for an adapter for each such value, and fails
  slowly (with an exception it makes and drops) unless it finds one.
- A statement takes several rows: resetting and stepping it is a third of a row's cost.
"""

from __future__ import annotations

import itertools
import sqlite3
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import astuple

from drakmet.records import to_unsigned
from drakmet.store.schema import json_text, quote, signed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from drakmet.records import Record
    from drakmet.store.schema import Table

Kept = dict[str, "Sequence[Any]"]
"""Columns as SQLite keeps them, without those that are null in all rows."""

_NOTHING = type(None)
# SQLite makes a float of an int in a REAL column, and 0.0 of -0.0: what it keeps of floats is for it to say.
_EXACT: dict[str, frozenset[type]] = {
    "INTEGER": frozenset({int, _NOTHING}),
    "TEXT": frozenset({str, _NOTHING}),
    "BLOB": frozenset({bytes, _NOTHING}),
    "REAL": frozenset({_NOTHING}),
}
_TOGETHER = 16
_FEW = 4
_MOST_STATEMENTS = 64

# For the whole process; both say what sqlite3 does anyway, only sooner.
sqlite3.register_adapter(bool, int)
sqlite3.register_adapter(type(None), {None: None}.get)


class Inserter:
    """Stores records of one class."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._names = [quote(column.name) for column in table.columns]
        self._turn: dict[int, Callable[[Iterable[Any]], list[Any]]] = {}
        for place, column in enumerate(table.columns):
            if column.is_address:
                self._turn[place] = _addresses
            elif column.is_json:
                self._turn[place] = _lists
            elif column.is_bool:
                self._turn[place] = _truths
        self._statements: dict[tuple[tuple[int, ...], int], str] = {}

    def insert(self, connection: sqlite3.Connection, records: Sequence[Record]) -> Kept | None:
        """Insert the records in their order; raise what sqlite3 raises for a row that it cannot take.

        Return the columns that are not null as SQLite keeps them; None if only SQLite knows.
        """
        if len(records) < _FEW or self.table.replaces:
            connection.executemany(self.table.insert, map(self.table.to_row, records))
            return None
        return self._insert(connection, zip(*map(astuple, records), strict=True), len(records))

    def insert_columns(
        self, connection: sqlite3.Connection, columns: Mapping[str, Sequence[Any]], rows: int
    ) -> Kept | None:
        """Insert rows that are given column by column; what is left out is null. Return what `insert` returns."""
        nothing = [None] * rows
        every = (columns.get(column.name, nothing) for column in self.table.columns)
        return self._insert(connection, every, rows, kept=True)

    def records_of(self, columns: Mapping[str, Sequence[Any]]) -> list[Record]:
        """Return the records whose rows are given column by column, as they are kept."""
        meant = {
            column.name: to_unsigned if column.is_address else msgspec.json.decode
            for column in self.table.columns
            if column.is_address or column.is_json
        }
        rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
        return [
            self.table.record(**{n: meant[n](v) if n in meant and v is not None else v for n, v in row.items()})
            for row in rows
        ]

    def _insert(
        self, connection: sqlite3.Connection, every: Iterable[Sequence[Any]], rows: int, *, kept: bool = False
    ) -> Kept | None:
        places: list[int] = []
        columns: list[Sequence[Any]] = []
        for place, column in enumerate(every):
            # The first value is looked at first, as comparing a column of numbers with None is slow.
            if column[0] is None and column.count(None) == rows:
                continue
            turn = None if kept else self._turn.get(place)
            places.append(place)
            columns.append(turn(column) if turn else column)
        width, chosen = len(places), tuple(places)
        values = itertools.chain.from_iterable(zip(*columns, strict=True))
        together = rows // _TOGETHER * _TOGETHER
        if together:
            # The same iterator so many times makes zip take that many values for each of its tuples.
            several = [itertools.islice(values, together * width)] * (_TOGETHER * width)
            connection.executemany(self._statement(chosen, _TOGETHER), zip(*several, strict=True))
        if together < rows:
            connection.executemany(self._statement(chosen, 1), zip(*[values] * width, strict=True))
        for place, column in zip(places, columns, strict=True):
            if not _EXACT[self.table.columns[place].sql_type].issuperset(map(type, column)):
                return None
        return {self.table.columns[place].name: column for place, column in zip(places, columns, strict=True)}

    def _statement(self, places: tuple[int, ...], rows: int) -> str:
        sql = self._statements.get((places, rows))
        if sql is None:
            names = ", ".join(self._names[place] for place in places)
            row = f"({', '.join('?' * len(places))})"
            sql = f"INSERT INTO {quote(self.table.name)} ({names}) VALUES {', '.join([row] * rows)}"  # noqa: S608
            if len(self._statements) >= _MOST_STATEMENTS:
                self._statements.clear()
            self._statements[places, rows] = sql
        return sql


def _addresses(column: Iterable[Any]) -> list[Any]:
    return [None if value is None else signed(value) for value in column]


def _lists(column: Iterable[Any]) -> list[Any]:
    return [None if value is None else json_text(value) for value in column]


def _truths(column: Iterable[Any]) -> list[Any]:
    # The plus makes an int of a bool, and a TypeError of what is no number.
    return [value if value is None else +value for value in column]
