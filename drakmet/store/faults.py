# SPDX-License-Identifier: GPL-2.0-or-later
"""SQLite's errors, said so that a person can act on them."""

from __future__ import annotations

import errno
import sqlite3
from typing import TYPE_CHECKING

from drakmet.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

# Primary result codes of sqlite3.h: the low byte of an extended code.
_ADVICE = {
    sqlite3.SQLITE_FULL: ("the disk is full", "make room, or choose a file on another disk with --db"),
    sqlite3.SQLITE_READONLY: ("it cannot be written", "check the owner and mode of the file and its directory"),
    sqlite3.SQLITE_PERM: ("it cannot be accessed", "check the owner and mode of the file and its directory"),
    sqlite3.SQLITE_CANTOPEN: ("it cannot be opened", "check that the directory exists and that you may write there"),
    sqlite3.SQLITE_BUSY: ("another program holds a lock on it", "end that program, or choose another file with --db"),
    sqlite3.SQLITE_LOCKED: ("another program holds a lock on it", "end that program, or choose another file with --db"),
    sqlite3.SQLITE_NOTADB: ("it is not a SQLite database", "give a file that drakmet wrote, or a name that is free"),
    sqlite3.SQLITE_CORRUPT: ("the database is damaged", "save what is left with `sqlite3 FILE .recover`"),
    sqlite3.SQLITE_IOERR: ("the disk reports an error", "see the kernel's log (dmesg) for the disk"),
    sqlite3.SQLITE_NOMEM: ("there is not enough memory", None),
    sqlite3.SQLITE_TOOBIG: ("a value is larger than SQLite takes", None),
}
_OS_ADVICE = {
    errno.ENOENT: "create its directory first",
    errno.EISDIR: "give the name of a file, not of a directory",
    errno.EACCES: "check the owner and mode of the file and its directory",
    errno.EROFS: "choose a file on a disk that is not mounted read-only",
    errno.ENOSPC: "make room, or choose a file on another disk",
}
ROW_FAULTS = (
    *(sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError, sqlite3.DataError),
    *(OverflowError, ValueError, TypeError, RecursionError),
)
"""What a single row raises that SQLite cannot take; the rows beside it are fine."""

FILE_FAULTS = frozenset(_ADVICE) - {sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_NOMEM}
"""Result codes that tell of the file, not of the SQL that met them."""


def code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code, or -1 where the error came from Python's module itself."""
    value = getattr(error, "sqlite_errorcode", None)
    return -1 if value is None else value & 0xFF


def is_busy(error: sqlite3.Error) -> bool:
    """Tell whether waiting may help."""
    return code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def explain(error: sqlite3.Error | OSError, path: Path | str) -> StoreError:
    """Return the `StoreError` that says what SQLite or the system complains of and what to do about it."""
    if isinstance(error, OSError):
        return StoreError(error.strerror or str(error), where=str(path), hint=_OS_ADVICE.get(error.errno or 0))
    what, hint = _ADVICE.get(code(error), (str(error), None))
    return StoreError(what if what == str(error) else f"{what} ({error})", where=str(path), hint=hint)
