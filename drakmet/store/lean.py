# SPDX-License-Identifier: GPL-2.0-or-later
"""Has a connection write to tables without computing their computed columns.

SQLite computes every column of a row that is put in, those that it never stores as well: 0.2 us for each key of JSON,
which is more than all else that a row of DRAKVUF's costs. The columns are of no use to who only writes. So the one
connection that writes gets to know its tables without them, while the file, and everyone else, has them all the time.
As they are not stored, rows are the same. If anyone changes the schema, SQLite reads it anew, and all is as it was.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from typing import TYPE_CHECKING

from drakmet.store.schema import OUR_COLUMN, quote

if TYPE_CHECKING:
    from collections.abc import Iterable

_COLUMN = re.compile(r', "[a-z0-9_]+" [A-Z]+ ' + OUR_COLUMN.pattern)
_SET = "UPDATE sqlite_schema SET sql = ? WHERE type = 'table' AND name = ?"


def forget_computed(connection: sqlite3.Connection, tables: Iterable[str]) -> int:
    """Have a connection forget the computed columns of some tables; return of how many it did.

    Must run inside a transaction. A table with an index or trigger of somebody else's is left as it is, as these may
    want the columns; and all are, where SQLite does not let its schema be written.
    """
    every = {name: _told(connection, name) for name in tables}
    full = {name: sql for name, sql in every.items() if sql is not None and _COLUMN.search(sql)}
    if not full:
        return 0
    connection.execute("SAVEPOINT drakmet_lean")
    try:
        connection.execute("PRAGMA writable_schema = ON")
        connection.executemany(_SET, [(_COLUMN.sub("", sql), name) for name, sql in full.items()])
        # What is in memory is dropped, and read again as it is just now.
        connection.execute("PRAGMA writable_schema = RESET")
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        lean = sum(_is_lean(connection, name) for name in full)
        connection.execute("PRAGMA writable_schema = ON")
        connection.executemany(_SET, [(sql, name) for name, sql in full.items()])
    except sqlite3.Error:
        connection.execute("ROLLBACK TO drakmet_lean")
        lean = 0
    finally:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("PRAGMA writable_schema = OFF")
        connection.execute("RELEASE drakmet_lean")
    return lean


def _told(connection: sqlite3.Connection, name: str) -> str | None:
    """Return how a table was made; None if anything else hangs on it."""
    sql = "SELECT type, sql FROM sqlite_schema WHERE tbl_name = ?"
    rows = connection.execute(sql, (name,)).fetchall()
    return rows[0][1] if [kind for kind, _ in rows] == ["table"] else None


def _is_lean(connection: sqlite3.Connection, name: str) -> bool:
    sql = f"SELECT count(*) FROM pragma_table_xinfo({quote(name)}) WHERE hidden > 1"  # noqa: S608 - names are checked
    (computed,) = connection.execute(sql).fetchone()
    return not computed
