# SPDX-License-Identifier: GPL-2.0-or-later
"""The file that code pages are kept in: its tables, how it is made, and how one of another version is refused.

An ``origin`` is what was read (a package, a file, a root, an image), a ``file`` what it holds at which path, a ``code``
the pages of all files that are equal. So a library that two versions of a package have in common, or that was read from
a package and from a disk, takes its pages once.
"""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, Final

from drakmet.errors import StoreError
from drakmet.identity import changes

if TYPE_CHECKING:
    from pathlib import Path

VERSION: Final = 3
_APPLICATION: Final = 0x64726B69  # "drki"
_SCHEMA: Final = """
CREATE TABLE origin (id INTEGER PRIMARY KEY, tree INTEGER, kind TEXT NOT NULL, location TEXT NOT NULL UNIQUE,
                     size INTEGER NOT NULL, mtime INTEGER NOT NULL, digest BLOB) STRICT;
CREATE TABLE package (id INTEGER PRIMARY KEY, name TEXT, version TEXT, architecture TEXT, source TEXT,
                      source_version TEXT, UNIQUE (name, version, architecture)) STRICT;
CREATE TABLE code (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, build_id TEXT, pages INTEGER NOT NULL) STRICT;
CREATE TABLE file (id INTEGER PRIMARY KEY, origin INTEGER NOT NULL, package INTEGER, code INTEGER NOT NULL,
                   path TEXT NOT NULL) STRICT;
CREATE INDEX file_origin ON file (origin);
CREATE INDEX file_code ON file (code);
CREATE TABLE page (hash BLOB, code INTEGER, number INTEGER, PRIMARY KEY (hash, code, number)) WITHOUT ROWID, STRICT;
"""
"""The tables of pages; `drakmet.identity.changes` adds its own."""


def connect(path: Path, *, create: bool) -> sqlite3.Connection:
    """Open a database, or make one; `StoreError` if it is none or of another version."""
    if not path.exists():
        if not create:
            raise StoreError("there is no such file", where=str(path), hint="make one: drakmet identity build")
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except OSError as error:
            raise StoreError(f"it cannot be made: {error.strerror}", where=str(path)) from error
    try:
        connection = sqlite3.connect(path, isolation_level=None)
    except sqlite3.Error as error:
        raise StoreError(f"it cannot be opened: {error}", where=str(path)) from error
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if create and not application and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            connection.executescript(
                f"BEGIN; {_SCHEMA} {changes.SCHEMA}"
                f" PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {VERSION}; COMMIT;"
            )
            application, version = _APPLICATION, VERSION
    except sqlite3.Error as error:
        connection.close()
        raise StoreError(f"not an identity database: {error}", where=str(path)) from error
    if application != _APPLICATION:
        connection.close()
        raise StoreError("not an identity database", where=str(path), hint="make one: drakmet identity build")
    if version != VERSION:
        connection.close()
        age = "an older" if version < VERSION else "a newer"
        raise StoreError(
            f"an identity database of version {version}, made by {age} drakmet",
            where=str(path),
            hint=f"this one reads version {VERSION}: build it anew, in another file, from the same sources",
        )
    # 64 MiB, and as much of the file as is there without copying: look-ups are all over it.
    connection.executescript("PRAGMA cache_size = -65536; PRAGMA mmap_size = 4294967296;")
    return connection
