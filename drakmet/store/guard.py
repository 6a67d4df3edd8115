# SPDX-License-Identifier: GPL-2.0-or-later
"""What SQL from a rule file or a command line may do: read, within limits."""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import time
from typing import TYPE_CHECKING

from drakmet.store.functions import FUNCTIONS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_SQLITE_RECURSIVE = 33  # sqlite3.h; Python names it since 3.12 only
_STEPS = 1_000
_MOST_MEMORY = 512 << 20
_BETWEEN_LOOKS = 0.01
_PATIENCE = 20
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LIMITS = {
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 256 << 10,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 100,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 500,
    sqlite3.SQLITE_LIMIT_ATTACHED: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
# SQLite's own functions without those that load code, change settings, answer differently each time, or can be made to
# run for seconds on their own (printf), where no deadline reaches them.
_SAFE = frozenset(
    (
        *("abs", "avg", "ceil", "ceiling", "char", "coalesce", "concat", "concat_ws", "count", "cume_dist"),
        *("date", "datetime", "dense_rank", "exp", "first_value", "floor", "glob", "group_concat"),
        *("hex", "if", "ifnull", "iif", "instr", "json", "json_array", "json_array_length", "json_each"),
        *("json_extract", "json_group_array", "json_group_object", "json_object", "json_quote", "json_tree"),
        *("json_type", "json_valid", "julianday", "lag", "last_value", "lead", "length", "like", "likelihood"),
        *("likely", "ln", "log", "log10", "log2", "lower", "ltrim", "max", "min", "mod", "nth_value", "ntile"),
        *("nullif", "octet_length", "percent_rank", "pow", "power", "quote", "rank", "replace"),
        *("round", "row_number", "rtrim", "sign", "sqrt", "strftime", "string_agg", "substr", "substring"),
        *("sum", "time", "timediff", "total", "trim", "trunc", "typeof", "unhex", "unicode", "unixepoch"),
        *("unlikely", "upper", "->", "->>"),
    )
)


class Guard:
    """Keeps a connection to reading, and tells what the statement that was prepared last reads.

    ``tables`` names what may be read; without it every table may. ``longest`` is the bytes that a value may have: what
    the file has as well as what SQL makes of it. Denied is everything that SQLite asks for but
    SELECT, READ, recursion and known functions: writes, ATTACH, PRAGMA, virtual tables, loading of extensions.
    """

    def __init__(
        self, connection: sqlite3.Connection, tables: Collection[str] | None = None, *, longest: int = 16 << 20
    ) -> None:
        self.reads: set[tuple[str, str]] = set()
        self.denied: str | None = None
        self._stopped: str | None = None
        self._connection = connection
        self._tables = tables
        self._lifted = False
        self._allowed = _SAFE | FUNCTIONS.keys()
        # SQLite declares these by statements of its own when they are first used, which the authorizer would refuse.
        connection.execute("SELECT 1 FROM json_each('[]'), json_tree('[]')").close()
        for category, limit in {**_LIMITS, sqlite3.SQLITE_LIMIT_LENGTH: longest}.items():
            connection.setlimit(category, limit)
        connection.set_authorizer(self._authorize)

    def forget(self) -> None:
        """Begin anew with what is read and denied; call it before a statement is prepared."""
        self.reads.clear()
        self.denied = None

    @contextlib.contextmanager
    def deadline(self, seconds: float, *, of_work: bool = False) -> Iterator[None]:
        """Interrupt what runs longer or takes too much memory, with the `sqlite3.OperationalError` "interrupted".

        The seconds are the clock's, or the CPU's if they are ``of_work``: then a busy machine changes nothing, and the
        clock stops only what takes many times as long. `why` says which of them it was.
        """
        end = time.monotonic() + seconds * (_PATIENCE if of_work else 1)
        worked = time.thread_time() + seconds if of_work else math.inf
        most = _resident() + _MOST_MEMORY
        looked = time.monotonic()
        self._stopped = None

        def over() -> bool:
            nonlocal looked
            now = time.monotonic()
            if now > end or (of_work and time.thread_time() > worked):
                self._stopped = f"it took longer than {seconds:g} s"
            elif now - looked > _BETWEEN_LOOKS:
                looked = now
                if _resident() > most:
                    self._stopped = f"it took more than {_MOST_MEMORY >> 20} MB of memory"
            return self._stopped is not None

        self._connection.set_progress_handler(over, _STEPS)
        try:
            yield
        finally:
            self._connection.set_progress_handler(None, _STEPS)

    def why(self, error: Exception) -> str | None:
        """Return which limit it was that an error tells of, if it was one of `deadline`."""
        return self._stopped if str(error) == "interrupted" else None

    @contextlib.contextmanager
    def lifted(self) -> Iterator[None]:
        """Allow everything for statements of our own."""
        self._lifted = True
        try:
            yield
        finally:
            self._lifted = False

    def _authorize(self, action: int, first: str | None, second: str | None, _db: str | None, _by: str | None) -> int:
        if self._lifted or action in (sqlite3.SQLITE_SELECT, _SQLITE_RECURSIVE):
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_READ:
            if self._tables is None or first in self._tables:
                # SQLite reports a table of which no column is used, as in count(*), with an empty column.
                self.reads.add((first or "", second or ""))
                return sqlite3.SQLITE_OK
            self.denied = f"reading the table {first}"
            return sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_FUNCTION:
            if (second or "").lower() in self._allowed:
                return sqlite3.SQLITE_OK
            self.denied = f"the function {second}()"
            return sqlite3.SQLITE_DENY
        self.denied = self.denied or f"{_ACTIONS.get(action, 'that')}"
        return sqlite3.SQLITE_DENY


def _resident() -> int:
    """Return the bytes of memory that this process holds, 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as statm:  # noqa: PTH123 - asked often
            return int(statm.read().split()[1]) * _PAGE
    except OSError:
        return 0


_ACTIONS = {
    getattr(sqlite3, f"SQLITE_{name.replace(' ', '_')}"): name
    for name in (
        *("ALTER TABLE", "ANALYZE", "ATTACH", "DELETE", "DETACH", "INSERT", "PRAGMA", "REINDEX", "SAVEPOINT"),
        *("TRANSACTION", "UPDATE", "CREATE INDEX", "CREATE TABLE", "CREATE TRIGGER", "CREATE VIEW", "CREATE VTABLE"),
        *("CREATE TEMP INDEX", "CREATE TEMP TABLE", "CREATE TEMP TRIGGER", "CREATE TEMP VIEW", "DROP INDEX"),
        *("DROP TABLE", "DROP TRIGGER", "DROP VIEW", "DROP VTABLE", "DROP TEMP TABLE", "DROP TEMP VIEW"),
    )
}
