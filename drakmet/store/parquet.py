# SPDX-License-Identifier: GPL-2.0-or-later
"""Files as Parquet, a file for each table, for what outgrows SQLite. Needs pyarrow (the extra ``parquet``).

Values stay as SQLite keeps them: addresses signed, truths 0 and 1, lists as JSON text. Computed columns are left out.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import TYPE_CHECKING, Any

from drakmet.errors import StoreError, UsageError
from drakmet.store import faults
from drakmet.store.reader import connect
from drakmet.store.schema import quote

if TYPE_CHECKING:
    from pathlib import Path

_TOGETHER = 50_000
_TYPES = {"INTEGER": "int64", "REAL": "float64", "TEXT": "string", "BLOB": "binary"}


def export(database: Path, folder: Path) -> dict[str, int]:
    """Write a file's tables into a folder, and return how many rows each has; raise `StoreError` if that cannot be."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise UsageError("Parquet needs pyarrow", hint="pip install 'drakmet[parquet]'") from error
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.closing(connect(database)) as connection:
            tables = {
                name: _columns(connection, name) for (name,) in connection.execute("SELECT name FROM drakmet_table")
            }
            return {name: _write(connection, name, columns, folder) for name, columns in sorted(tables.items())}
    except sqlite3.Error as error:
        raise faults.explain(error, database) from error
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"Parquet cannot be written: {error}", where=str(folder)) from error


def _columns(connection: sqlite3.Connection, table: str) -> dict[str, str]:
    return dict(connection.execute("SELECT name, type FROM pragma_table_info(?)", (table,)))


def _write(connection: sqlite3.Connection, table: str, columns: dict[str, str], folder: Path) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema([(name, getattr(pa, _TYPES[kind])()) for name, kind in columns.items()])
    cursor = connection.execute(f"SELECT {', '.join(map(quote, columns))} FROM {quote(table)} ORDER BY id")  # noqa: S608
    count = 0
    path = folder / f"{table}.parquet"
    # It holds what guests did: its owner's only, from the first byte.
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file, parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while rows := cursor.fetchmany(_TOGETHER):
            values: list[tuple[Any, ...]] = list(zip(*rows, strict=True))
            arrays = [pa.array(column, field.type) for column, field in zip(values, schema, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
            count += len(rows)
    return count
