# SPDX-License-Identifier: GPL-2.0-or-later
"""A drakmet file, open for reading: by a person's SQL, while it may be written."""

from __future__ import annotations

import json
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drakmet.errors import StoreError, UsageError
from drakmet.store import faults, functions, schema
from drakmet.store.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType


_COUNTING = 600.0


@dataclass(frozen=True, slots=True)
class ColumnInfo:
    """A column as the file itself describes it."""

    name: str
    type: str
    nullable: bool
    kind: str | None
    doc: str


@dataclass(frozen=True, slots=True)
class TableInfo:
    """A table as the file itself describes it, and how many rows it has."""

    name: str
    doc: str
    event: bool
    columns: tuple[ColumnInfo, ...]
    rows: int


def connect(path: Path | str, *, prepared: int = 128) -> sqlite3.Connection:
    """Open a drakmet file for reading only, with our SQL functions; raise `StoreError` if it is none.

    ``prepared`` is the number of statements that are kept prepared.

    The connection may be handed to another thread, as long as one at a time uses it.
    """
    path = Path(path)
    if not path.is_file():
        raise StoreError(
            "there is no such file" if not path.exists() else "it is not a file",
            where=str(path),
            hint="give a file that `drakmet watch --db FILE` wrote",
        )
    connection = None
    try:
        connection = _open(path, prepared)
        schema.refuse_others(connection, path)
        _refuse_empty(connection, path)
    except BaseException as error:
        if connection:
            connection.close()
        if isinstance(error, sqlite3.Error):
            raise faults.explain(error, path) from error
        raise
    # A file that came from somebody else may define views and triggers; these get none of our functions. SQLite counts
    # its own json_extract among what it then refuses (3.40), so where there are only columns of ours, it may run.
    if not schema.computes_only_ours(connection):
        connection.execute("PRAGMA trusted_schema = OFF")
    functions.register(connection)
    return connection


class Reader:
    """A drakmet file, open for reading only. Raises `StoreError` if it is none.

    ``prepare`` gets the connection before it is put under guard, to attach tables in memory.
    """

    def __init__(self, path: Path | str, prepare: Callable[[sqlite3.Connection], None] | None = None) -> None:
        self.path = Path(path)
        # What a column means is seen while a statement is prepared; one that is prepared already would tell nothing.
        self._connection = connect(path, prepared=0)
        try:
            self._tables = describe(self._connection)
            if prepare:
                prepare(self._connection)
        except BaseException as error:
            self._connection.close()
            if isinstance(error, sqlite3.Error):
                raise faults.explain(error, self.path) from error
            raise
        self._guard = Guard(self._connection)

    @property
    def names(self) -> frozenset[str]:
        """The names of the tables of records."""
        return frozenset(self._tables)

    def tables(self) -> list[TableInfo]:
        """Return the tables of records in the order of the alphabet, with their documentation and numbers of rows."""
        try:
            with self._guard.deadline(_COUNTING):
                return [
                    TableInfo(name, doc, event, columns, self._count(name))
                    for name, (doc, event, columns) in sorted(self._tables.items())
                ]
        except sqlite3.Error as error:
            raise faults.explain(error, self.path) from error

    def select(
        self, sql: str, parameters: Mapping[str, Any] | None = None, *, seconds: float = 60.0
    ) -> tuple[list[str], Iterator[dict[str, Any]]]:
        """Run one SELECT and return the names of its columns and an iterator over its rows.

        A column that is a record's column under its own name has that column's meaning: addresses are given as
        ``0x...`` text, lists as lists, truths as bools. Of two columns with one name, the second gets a number.

        Raises `UsageError` for SQL that is wrong, may not be run or takes longer than ``seconds``, `StoreError` if the
        file cannot be read; the iterator does as well.
        """
        self._guard.forget()
        with self._guard.deadline(seconds):
            try:
                cursor = self._connection.execute(sql, parameters or {})
            except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
                raise self._explain(error, seconds) from error
        if cursor.description is None:
            raise UsageError("that is no SELECT", hint="a query asks; nothing in the file can be changed with it")
        names = _distinct([column[0] for column in cursor.description])
        kinds = [self._kind(column[0]) for column in cursor.description]
        return names, self._rows(cursor, names, kinds, seconds)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _rows(
        self, cursor: sqlite3.Cursor, names: list[str], kinds: list[str | None], seconds: float
    ) -> Iterator[dict[str, Any]]:
        left = seconds
        meant = [(name, kind) for name, kind in zip(names, kinds, strict=True) if kind]
        while True:
            # Whoever takes the rows may take his time; what counts is SQLite's.
            begun = time.monotonic()
            with self._guard.deadline(left):
                try:
                    batch = cursor.fetchmany(500)
                except sqlite3.Error as error:
                    raise self._explain(error, seconds) from error
            left -= time.monotonic() - begun
            if not batch:
                return
            for values in batch:
                row = dict(zip(names, values, strict=True))
                for name, kind in meant:
                    row[name] = _mean(row[name], kind)
                yield row

    def _kind(self, name: str) -> str | None:
        found = set()
        for table, column in self._guard.reads:
            if column == name and table in self._tables:
                found |= {c.kind for c in self._tables[table][2] if c.name == name}
        return found.pop() if len(found) == 1 else None

    def _count(self, table: str) -> int:
        (rows,) = self._connection.execute(f"SELECT count(*) FROM {schema.quote(table)}").fetchone()  # noqa: S608
        return int(rows)

    def _explain(self, error: Exception, seconds: float) -> Exception:
        if self._guard.denied:
            return UsageError(
                f"{self._guard.denied} is not allowed in a query", hint="a query reads; it can change nothing"
            )
        text = str(error)
        if text == "interrupted":
            return UsageError(f"the query took longer than {seconds:g} s", hint="give it more time with --timeout")
        code = faults.code(error) if isinstance(error, sqlite3.Error) else -1
        if code in (-1, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE, sqlite3.SQLITE_TOOBIG):
            return UsageError(f"the query is wrong: {text}", hint="`drakmet tables FILE` shows tables and columns")
        return faults.explain(error, self.path) if isinstance(error, sqlite3.Error) else error


def describe(connection: sqlite3.Connection) -> dict[str, tuple[str, bool, tuple[ColumnInfo, ...]]]:
    """Return documentation, whether it is of events, and columns, of each of a file's tables."""
    columns: dict[str, list[ColumnInfo]] = {}
    for table, name, sql_type, nullable, kind, doc in connection.execute(
        "SELECT table_name, name, type, nullable, kind, doc FROM drakmet_column ORDER BY table_name, position"
    ):
        columns.setdefault(table, []).append(ColumnInfo(name, sql_type, bool(nullable), kind, doc))
    return {
        name: (doc, bool(event), tuple(columns.get(name, ())))
        for name, doc, event in connection.execute("SELECT name, doc, event FROM drakmet_table")
    }


def _refuse_empty(connection: sqlite3.Connection, path: Path) -> None:
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'drakmet_table'").fetchone():
        raise StoreError("drakmet wrote nothing into it", where=str(path), hint="give another file")


def _open(path: Path, prepared: int) -> sqlite3.Connection:
    uri = path.absolute().as_uri() + "?mode=ro"
    try:
        return _try(uri, prepared)
    except sqlite3.OperationalError:
        # WAL needs a shared-memory file beside the database. On a read-only disk there can be none, nor a writer.
        if path.with_name(path.name + "-wal").exists():
            raise
        return _try(uri + "&immutable=1", prepared)


def _try(uri: str, prepared: int) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri, uri=True, timeout=5.0, isolation_level=None, check_same_thread=False, cached_statements=prepared
    )
    try:
        connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _distinct(names: list[str]) -> list[str]:
    seen: dict[str, int] = {}
    distinct = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        distinct.append(name if seen[name] == 1 else f"{name}:{seen[name]}")
    return distinct


def _mean(value: Any, kind: str) -> Any:
    if kind == "address":
        return functions.hex_address(value)
    if kind == "bool":
        return bool(value) if isinstance(value, int) else value
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value
