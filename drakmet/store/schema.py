# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables out of record classes: made, documented inside the file, and extended when a class has grown."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from drakmet.errors import StoreError
from drakmet.records import (
    Column,
    Coverage,
    EventRecord,
    Guest,
    Record,
    Session,
    columns,
    computed_columns,
    to_signed,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Sequence

    from sqlite_utils import Database

APPLICATION_ID = 0x64726B6D
"""``drkm`` in ``PRAGMA application_id``: how a file says that drakmet wrote it."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
OUR_COLUMN = re.compile(r"""GENERATED ALWAYS AS \(json_extract\([a-z_]+, '\$\."[A-Za-z0-9_]+"'\)\) VIRTUAL""")
_COMPUTING = re.compile(r"\b(?:AS|CHECK|DEFAULT|GENERATED)\b\s*\(?", re.IGNORECASE)
_RESERVED = ("sqlite_", "drakmet_")
# A second record with the same values here replaces the first: an interval is written when it begins and when it ends.
_KEYS: dict[type[Record], tuple[str, ...]] = {Coverage: ("session", "plugin", "trap", "begin", "kind")}
_FOREIGN_KEYS: dict[type[Record], list[tuple[str, str, str]]] = {
    Guest: [("host", "host", "id")],
    Session: [("guest", "guest", "id")],
}
_PYTHON_TYPES: dict[str, type] = {"INTEGER": int, "REAL": float, "TEXT": str, "BLOB": bytes}
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """How records of one class become rows of its table."""

    record: type[Record]
    name: str
    columns: tuple[Column, ...]
    has_own_id: bool
    insert: str
    replaces: bool
    computed: tuple[Column, ...]
    to_row: Callable[[Any], Sequence[Any]]


def table_of(record: type[Record]) -> Table:
    """Return the table of a record class; raise `StoreError` if its name cannot be a table's."""
    name = record.table
    if not _NAME.fullmatch(name) or name.startswith(_RESERVED):
        raise StoreError(
            f"{name!r} cannot be the name of a table",
            where=f"{record.__module__}.{record.__name__}",
            hint="take small letters, digits and underscores, and another beginning than sqlite_ or drakmet_",
        )
    cols = columns(record)
    return Table(
        record,
        name,
        cols,
        any(column.name == "id" for column in cols),
        _insert(record, name, cols),
        record in _KEYS,
        computed_columns(record),
        _to_row(cols),
    )


def kind(column: Column) -> str | None:
    """Return what a column's values mean beyond their SQL type, as ``drakmet_column.kind`` keeps it."""
    return "address" if column.is_address else "json" if column.is_json else "bool" if column.is_bool else None


def prepare(db: Database, tables: Iterable[Table], *, where: str) -> None:
    """Create the tables that are missing and add the columns that are new; raise `StoreError` for what conflicts.

    Must run inside a transaction. ``where`` names the file in errors.
    """
    known = _documented(db.conn)
    for table in tables:
        existing = _existing(db.conn, table.name)
        if not existing:
            _create(db, table)
        else:
            _extend(db, table, existing, known.get(table.name, {}), where)
        _document(db.conn, table)


def create_house_tables(db: Database) -> None:
    """Create the tables in which a file describes itself."""
    db.table("drakmet_table").create(
        {"name": str, "doc": str, "event": int}, pk="name", not_null={"name", "doc", "event"}, strict=True
    )
    db.table("drakmet_column").create(
        {"table_name": str, "name": str, "position": int, "type": str, "nullable": int, "kind": str, "doc": str},
        pk=("table_name", "name"),
        not_null={"table_name", "name", "position", "type", "nullable", "doc"},
        strict=True,
    )
    db.table("drakmet_quarantine").create(
        {"id": int, "time": int, "table_name": str, "row": str, "reason": str},
        pk="id",
        not_null={"time", "table_name", "row", "reason"},
        strict=True,
    )


def refuse_others(connection: sqlite3.Connection, path: object) -> None:
    """Raise `StoreError` if the file is a database of some other program."""
    (mark,) = connection.execute("PRAGMA application_id").fetchone()
    (objects,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if mark != APPLICATION_ID and (mark or objects):
        raise StoreError(
            "it is another program's SQLite database",
            where=str(path),
            hint="give a name that is free, or a file of ours",
        )


def computes_only_ours(connection: sqlite3.Connection) -> bool:
    """Tell whether nothing in a file's schema runs a function but computed columns as we make them."""
    for kind, sql in connection.execute("SELECT type, sql FROM sqlite_schema WHERE sql IS NOT NULL"):
        if kind not in ("table", "index") or _COMPUTING.search(OUR_COLUMN.sub("", sql)):
            return False
    return True


def signed(address: int) -> int:
    """Return an address column's value as it is kept; raise `OverflowError` for what has more than 64 bits."""
    if address >> 64:
        raise OverflowError(f"{address:#x} is no 64-bit address")
    return to_signed(address)


def json_text(value: object) -> str:
    """Return a list column's value as it is kept."""
    return _encode(value).decode()


def quote(name: str) -> str:
    """Return a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _insert(record: type[Record], name: str, cols: Sequence[Column]) -> str:
    names = ", ".join(quote(column.name) for column in cols)
    sql = f"INSERT INTO {quote(name)} ({names}) VALUES ({', '.join('?' * len(cols))})"  # noqa: S608 - names are checked
    if key := _KEYS.get(record):
        changed = ", ".join(f"{quote(c.name)} = excluded.{quote(c.name)}" for c in cols if c.name not in key)
        sql += f" ON CONFLICT ({', '.join(map(quote, key))}) DO UPDATE SET {changed}"
    return sql


def _to_row(cols: Sequence[Column]) -> Callable[[Any], Sequence[Any]]:
    addresses = [place for place, column in enumerate(cols) if column.is_address]
    lists = [place for place, column in enumerate(cols) if column.is_json]
    if not addresses and not lists:
        return msgspec.structs.astuple

    def convert(record: Any) -> Sequence[Any]:
        row = list(msgspec.structs.astuple(record))
        for place in addresses:
            if row[place] is not None:
                row[place] = signed(row[place])
        for place in lists:
            if row[place] is not None:
                row[place] = json_text(row[place])
        return row

    return convert


def _create(db: Database, table: Table) -> None:
    cols: dict[str, type] = {} if table.has_own_id else {"id": int}
    cols |= {column.name: _PYTHON_TYPES[column.sql_type] for column in table.columns}
    db.table(table.name).create(
        cols,
        pk="id",
        not_null={column.name for column in table.columns if not column.nullable and column.name != "id"},
        foreign_keys=_FOREIGN_KEYS.get(table.record, []),
        strict=True,
    )
    if key := _KEYS.get(table.record):
        db.table(table.name).create_index(key, unique=True)
    for index in getattr(table.record, "indexes", ()):
        db.table(table.name).create_index(index)
    _compute(db.conn, table, ())


def _compute(connection: sqlite3.Connection, table: Table, existing: Iterable[str]) -> None:
    """Add the computed columns that are missing; sqlite-utils knows none."""
    for column in table.computed:
        if column.name not in existing:
            connection.execute(
                f"ALTER TABLE {quote(table.name)} ADD COLUMN {quote(column.name)} {column.sql_type}"
                f" GENERATED ALWAYS AS ({column.expression}) VIRTUAL"
            )


def _extend(
    db: Database, table: Table, existing: dict[str, tuple[str, bool]], kinds: dict[str, str | None], where: str
) -> None:
    for column in table.columns:
        if column.name not in existing:
            # Rows that are there have no value for it, so that NOT NULL is out of question.
            db.table(table.name).add_column(column.name, _PYTHON_TYPES[column.sql_type])
            continue
        was, _ = existing[column.name]
        meant = kinds.get(column.name, kind(column))
        if was != column.sql_type or meant != kind(column):
            raise StoreError(
                f"table {table.name} has {column.name} as {_say(was, meant)}, "
                f"but {table.record.__module__}.{table.record.__name__} wants {_say(column.sql_type, kind(column))}",
                where=where,
                hint="write to another file with --db, or give the plugin's record class or column another name",
            )
    wanted = {column.name: column for column in table.columns}
    loosened = {
        name: False
        for name, (_, required) in existing.items()
        if required and name != "id" and (name not in wanted or wanted[name].nullable)
    }
    if loosened:
        db.table(table.name).transform(not_null=loosened)
    _compute(db.conn, table, existing)
    have = {tuple(index.columns) for index in db.table(table.name).indexes}
    for index in getattr(table.record, "indexes", ()):
        if tuple(index) not in have:
            db.table(table.name).create_index(index)


def _say(sql_type: str, meaning: str | None) -> str:
    return f"{sql_type} ({meaning})" if meaning else sql_type


def _existing(connection: sqlite3.Connection, table: str) -> dict[str, tuple[str, bool]]:
    rows = connection.execute('SELECT name, type, "notnull" FROM pragma_table_xinfo(?)', (table,))
    return {name: (sql_type, bool(required)) for name, sql_type, required in rows}


def _documented(connection: sqlite3.Connection) -> dict[str, dict[str, str | None]]:
    kinds: dict[str, dict[str, str | None]] = {}
    for table, name, meant in connection.execute("SELECT table_name, name, kind FROM drakmet_column"):
        kinds.setdefault(table, {})[name] = meant
    return kinds


def _document(connection: sqlite3.Connection, table: Table) -> None:
    doc = inspect.cleandoc(table.record.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
    event = issubclass(table.record, EventRecord)
    connection.execute(
        "INSERT INTO drakmet_table (name, doc, event) VALUES (?, ?, ?)"
        " ON CONFLICT (name) DO UPDATE SET doc = excluded.doc, event = excluded.event",
        (table.name, doc, event),
    )
    rows: list[tuple[str | int | None, ...]]
    rows = [] if table.has_own_id else [(table.name, "id", 0, "INTEGER", 0, None, "number of the row")]
    rows += [
        (table.name, c.name, place, c.sql_type, int(c.nullable), kind(c), c.doc)
        for place, c in enumerate((*table.columns, *table.computed), start=1)
    ]
    connection.executemany(
        "INSERT INTO drakmet_column (table_name, name, position, type, nullable, kind, doc)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (table_name, name) DO UPDATE SET position = excluded.position, type = excluded.type,"
        " nullable = excluded.nullable, kind = excluded.kind, doc = excluded.doc",
        rows,
    )
