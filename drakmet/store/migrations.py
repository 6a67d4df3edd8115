# SPDX-License-Identifier: GPL-2.0-or-later
"""Steps from an older file to today's. Never change one that was released: add another.

Columns of records are no steps: `drakmet.store.schema` adds them when a record class has grown.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

from sqlite_utils import Database, Migrations

from drakmet.errors import StoreError
from drakmet.store import schema
from drakmet.store.chain import create_chain_tables

if TYPE_CHECKING:
    from pathlib import Path

_steps = Migrations("drakmet")


@_steps(name="0001 a file describes itself")
def _describe(db: Database) -> None:
    schema.create_house_tables(db)


@_steps(name="0002 rows are chained by hash")
def _chain(db: Database) -> None:
    create_chain_tables(db)


def migrate(connection: sqlite3.Connection, path: Path | str) -> Database:
    """Bring a file that may be empty, or old, to today's form; raise `StoreError` if a newer drakmet wrote it.

    The connection must be in autocommit mode. Must run inside a transaction, so that a fault leaves the file as it was.
    """
    # Plugins of sqlite-utils that happen to be installed have no business in our files.
    db = Database(connection, execute_plugins=False)
    connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    with contextlib.closing(sqlite3.connect(":memory:")) as empty:
        ours = {step.name for step in _steps.pending(Database(empty, execute_plugins=False))}
    if newer := sorted({step.name for step in _steps.applied(db)} - ours):
        raise StoreError(
            f"it was written by a newer drakmet (step {newer[0]!r} is not known here)",
            where=str(path),
            hint="update drakmet, or write to another file",
        )
    _steps.apply(db)
    return db
