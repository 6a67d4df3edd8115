# SPDX-License-Identifier: GPL-2.0-or-later
"""Lists that rules look things up in: TOML files that become the tables ``lists.NAME``."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING

import msgspec

from drakmet.errors import RuleError
from drakmet.rules.format import Value, fits_sqlite, read_text, toml_line
from drakmet.store.schema import quote

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable
    from pathlib import Path

    from drakmet.errors import DrakmetError

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_MAX_FILE = 64 << 20
_MOST_COLUMNS = 100


class List(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A list as its file says it: ``values`` for one column of that name, or ``rows`` with columns of their own.

    With ``extend`` the file adds to the list of the same name in a directory before it; else it takes its place.
    """

    title: str
    values: list[Value] = []
    rows: list[dict[str, Value]] = []
    references: list[str] = []
    extend: bool = False

    def table(self) -> tuple[list[str], list[tuple[Value | None, ...]]]:
        """Return the columns and rows."""
        if not self.rows:
            return ["value"], [(value,) for value in dict.fromkeys(self.values)]
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        return columns, [tuple(row.get(name) for name in columns) for row in self.rows]


def load_lists(directories: Iterable[Path], errors: list[DrakmetError] | None = None) -> dict[str, List]:
    """Read ``lists/*.toml`` of rule directories, later ones over earlier.

    Raises `RuleError` if one is wrong; with ``errors`` that goes there instead, and the file is left out.
    """
    lists: dict[str, List] = {}
    for directory in directories:
        for path in sorted((directory / "lists").glob("*.toml")):
            try:
                fresh = _load(path)
            except RuleError as error:
                if errors is None:
                    raise
                errors.append(error)
                continue
            before = lists.get(path.stem)
            if fresh.extend and before:
                fresh = List(
                    title=fresh.title, values=[*before.values, *fresh.values], rows=[*before.rows, *fresh.rows]
                )
            lists[path.stem] = fresh
    return lists


def attach_lists(connection: sqlite3.Connection, lists: dict[str, List]) -> None:
    """Make the lists tables of the schema ``lists`` on a connection, in memory."""
    connection.execute("ATTACH ':memory:' AS lists")
    for name, content in lists.items():
        columns, rows = content.table()
        table = f"lists.{quote(name)}"
        connection.execute(f"CREATE TABLE {table} ({', '.join(map(quote, columns))})")
        connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})", rows)  # noqa: S608
        # The column that look-ups go by stands first.
        connection.execute(f"CREATE INDEX lists.{quote('by_' + name)} ON {quote(name)} ({quote(columns[0])})")


def _load(path: Path) -> List:
    if not _NAME.fullmatch(path.stem):
        raise RuleError("a list's file name must be a table's name", where=str(path), hint="such as mining_pools")
    text = read_text(path, _MAX_FILE)
    try:
        content = msgspec.convert(tomllib.loads(text), List)
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        line = f":{toml_line(error, text)}" if isinstance(error, tomllib.TOMLDecodeError) else ""
        raise RuleError(f"no list: {error}", where=f"{path}{line}") from error
    if content.values and content.rows:
        raise RuleError("a list has values or rows, not both", where=str(path))
    columns, rows = content.table()
    if not all(fits_sqlite(value) for row in rows for value in row):
        raise RuleError("a number in the list has more than 64 bits", where=str(path))
    if len(columns) > _MOST_COLUMNS:
        raise RuleError(f"a list with more than {_MOST_COLUMNS} columns", where=str(path))
    return content
