# SPDX-License-Identifier: GPL-2.0-or-later
"""The one writer of a file: takes records at any moment, and stores them in batches."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from drakmet import __version__
from drakmet.errors import StoreError
from drakmet.records import CORE_RECORDS, Record
from drakmet.store import faults, schema
from drakmet.store.batch import Inserter
from drakmet.store.chain import Chain
from drakmet.store.checkpoint import Checkpointer
from drakmet.store.lean import forget_computed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    from drakmet.store.batch import Kept

_BUSY_WAIT = 0.1
_PATIENCE = 5.0
_QUARANTINED = 100_000
_QUARANTINE_TABLE = "drakmet_quarantine"
_QUARANTINE = "INSERT INTO drakmet_quarantine (time, table_name, row, reason) VALUES (?, ?, ?, ?)"
_SEAL = "INSERT INTO drakmet_seal (time, session, seq, digest, key, signature) VALUES (?, ?, ?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class OpenSession:
    """The numbers under which a session's records are written."""

    session: int
    host: int
    guest: int
    next_process: int


class Writer:
    """A drakmet file, open for writing: a `Sink` for records of any class.

    The file is made, or brought up to date, with a table for each class in `CORE_RECORDS` and ``records``; a class that
    comes later gets its table at the next flush, or its records are lost if that cannot be. One Writer at a time may
    have a file; whoever reads is not hindered.

    ``put`` may be called by any thread, everything else by one. ``keep`` is the number of records that are held in
    memory while the file cannot be written; what comes on top is counted in ``lost``. A row that SQLite cannot take
    goes to the table ``drakmet_quarantine`` with the reason, and is counted in ``quarantined``.

    Raises `StoreError` if the file cannot be opened, is not drakmet's, or has a table that conflicts with a class.
    """

    def __init__(self, path: Path | str, records: Iterable[type[Record]] = (), *, keep: int = 500_000) -> None:
        self.path = Path(path)
        self.lost = 0
        self.quarantined = 0
        self.stored = 0
        self._keep = keep
        self._busy_since: float | None = None
        self._tables: dict[type[Record], Inserter] = {}
        self._pending: list[Record] = []
        self._columns: list[tuple[type[Record], Mapping[str, Sequence[Any]]]] = []
        self._refused: list[tuple[int, str, str, str]] = []
        self._chain: Chain | None = None
        # A record costs one call into C here; sorting it to its table waits until the guest runs again.
        self.put = self._pending.append  # type: ignore[assignment, method-assign]
        self._lock = _take(self.path)
        try:
            self._connection = _connect(self.path)
            try:
                self._prepare([*CORE_RECORDS, *records])
            except BaseException:
                self._connection.close()
                raise
        except BaseException as error:
            os.close(self._lock)
            if isinstance(error, sqlite3.Error):
                raise faults.explain(error, self.path) from error
            raise
        self._checkpointer = Checkpointer(self.path, lambda: self.stored)

    def put(self, record: Record) -> None:
        """Take one record, to be stored at the next flush."""
        raise NotImplementedError  # every Writer has list.append under this name

    def flush(self) -> None:
        """Store what was put, all of it or nothing, in one transaction.

        Raises `StoreError` if that cannot be done; the records are kept for the next flush, as many as ``keep`` says.
        A lock that another program holds for a moment is no error.
        """
        if not self._pending and not self._columns and not self._refused:
            return
        batch = self._pending[:]
        rows = len(batch)
        try:
            by_class = self._sort(batch)
            try:
                with self._transaction(*self._touched(by_class)):
                    for inserter, records in by_class.items():
                        self._wrote(inserter, inserter.insert(self._connection, records), len(records))
                    for record, columns in self._columns:
                        rows += (count := len(next(iter(columns.values()))))
                        inserter = self._tables[record]
                        self._wrote(inserter, inserter.insert_columns(self._connection, columns, count), count)
                    self._connection.executemany(_QUARANTINE, self._refused)
            except faults.ROW_FAULTS:
                rows = len(batch)
                for record, columns in self._columns:
                    made = self._tables[record].records_of(columns)
                    by_class.setdefault(self._tables[record], []).extend(made)
                    rows += len(made)
                with self._transaction(_QUARANTINE_TABLE, *self._touched(by_class)):
                    self._insert_each(by_class)
                    self._connection.executemany(_QUARANTINE, self._refused)
        except sqlite3.Error as error:
            self._bound_memory()
            if not faults.is_busy(error) or self._out_of_patience():
                raise faults.explain(error, self.path) from error
        else:
            self._busy_since = None
            del self._pending[: len(batch)]
            self.stored += rows
            self._columns.clear()
            self.quarantined += len(self._refused)
            self._refused.clear()

    def put_columns(self, record: type[Record], columns: Mapping[str, Sequence[Any]]) -> None:
        """Take rows of a class column by column, all of the same length and at least one, for the next flush.

        For bulk loads: it costs a fraction of a record each. The class must be among those the Writer was made with;
        addresses, lists and truths are given as they are kept. The caller's thread is the one that flushes.
        """
        self._columns.append((record, columns))

    def quarantine(self, table: str, row: str, reason: str) -> None:
        """Take what cannot be made a record of, for the next flush."""
        self._refused.append((time.time_ns(), table, row, reason))

    def begin_session(
        self,
        *,
        host: str,
        guest: str,
        source: str,
        begin: int | None = None,
        xen: str | None = None,
        uuid: str | None = None,
        os: str | None = None,
        kernel: str | None = None,
        build_id: str | None = None,
    ) -> OpenSession:
        """Write down that a run over a guest begins, and return the numbers its records have to bear.

        ``begin`` is in nanoseconds since 1970-01-01 UTC, now if it is left out; the other values are the columns of
        `Host`, `Guest` and `Session`. A host or guest that the file knows already keeps its number.
        """
        with self._told(), self._transaction("host", "guest", "session"):
            host_id = self._find_or_add("host", {"name": host, "xen": xen})
            columns = {"host": host_id, "name": guest, "uuid": uuid, "os": os, "kernel": kernel, "build_id": build_id}
            guest_id = self._find_or_add("guest", columns)
            columns = {
                "guest": guest_id,
                "source": source,
                "begin": time.time_ns() if begin is None else begin,
                "drakmet": __version__,
            }
            session = self._add("session", columns)
            (last,) = self._connection.execute("SELECT coalesce(max(id), 0) FROM process").fetchone()
        return OpenSession(session, host_id, guest_id, last + 1)

    def update_session(self, session: int, **columns: Any) -> None:
        """Set columns of a session that are known only now, such as ``paused_attach``."""
        names = ", ".join(f"{schema.quote(name)} = ?" for name in columns)
        with self._told(), self._transaction():
            sql = f"UPDATE session SET {names} WHERE id = ?"  # noqa: S608 - the names are our callers' keywords
            self._connection.execute(sql, (*columns.values(), session))

    def end_session(self, session: int, outcome: str, *, end: int | None = None, **columns: Any) -> None:
        """Store what was put and write down how the session ended; ``end`` is in nanoseconds, now if left out."""
        self.flush()
        now = time.time_ns()
        self.update_session(session, outcome=outcome, end=now if end is None else end, **columns)
        self.seal(now, session)

    @property
    def head(self) -> tuple[int, bytes]:
        """The number and the digest of the chain's last block."""
        assert self._chain is not None  # noqa: S101 - made with the Writer
        return self._chain.seq, self._chain.digest

    def seal(
        self, now: int, session: int | None = None, key: bytes | None = None, signature: bytes | None = None
    ) -> None:
        """Write down what the chain's head is now, and who signed it."""
        with self._told(), self._transaction():
            self._connection.execute(_SEAL, (now, session, *self.head, key, signature))

    def close(self) -> None:
        """Store what was put and close the file; raise `StoreError` if records are lost with it."""
        if self._lock < 0:
            return
        try:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("PRAGMA busy_timeout = 5000")
            self.flush()
        finally:
            self.lost += len(self._pending)
            self._pending.clear()
            self._checkpointer.stop()
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            os.close(self._lock)
            self._lock = -1
        if self.lost:
            raise StoreError(f"{self.lost} records could not be stored and are lost", where=str(self.path))

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self, records: Iterable[type[Record]]) -> None:
        from drakmet.store.migrations import migrate

        with self._transaction():
            db = migrate(self._connection, self.path)
            fresh: dict[str, schema.Table] = {}
            for record in dict.fromkeys(records):
                table = schema.table_of(record)
                other = fresh.setdefault(table.name, table)
                if other.columns != table.columns:
                    raise StoreError(
                        f"{other.record.__module__}.{other.record.__name__} and {record.__module__}.{record.__name__}"
                        f" both want the table {table.name}, with different columns",
                        where=str(self.path),
                        hint="load one of the two plugins, or rename one of the classes",
                    )
            schema.prepare(db, fresh.values(), where=str(self.path))
            self._follow(fresh.values())
            forget_computed(self._connection, [table.name for table in fresh.values() if table.computed])
        for record in records:
            self._tables[record] = Inserter(fresh[record.table])

    def _follow(self, tables: Iterable[schema.Table]) -> None:
        """Chain these tables' rows, and those that came into the file without a Writer."""
        chain = self._chain
        if chain is None:
            chain = Chain(self._connection)
            chain.load()
            chain.follow([(_QUARANTINE_TABLE, False)])
        chain.follow((table.name, table.has_own_id) for table in tables)
        chain.adopt()
        self._chain = chain

    def _sort(self, batch: list[Record]) -> dict[Inserter, list[Record]]:
        by_class: dict[type[Record], list[Record]] = defaultdict(list)
        for record in batch:
            by_class[type(record)].append(record)
        if late := by_class.keys() - self._tables.keys():
            try:
                self._prepare(late)
            except StoreError:
                # Kept, they would come again at each flush and hold up all others.
                self._pending[:] = [record for record in self._pending if type(record) not in late]
                self.lost += sum(len(by_class[record_class]) for record_class in late)
                raise
        return {self._tables[record_class]: records for record_class, records in by_class.items()}

    def _wrote(self, inserter: Inserter, kept: Kept | None, rows: int) -> None:
        if self._chain and kept is not None:
            self._chain.wrote(inserter.table.name, kept, rows)

    def _insert_each(self, by_class: dict[Inserter, list[Record]]) -> None:
        bad = []
        for inserter, records in by_class.items():
            table = inserter.table
            for record in records:
                try:
                    self._connection.execute(table.insert, table.to_row(record))
                except faults.ROW_FAULTS as error:
                    bad.append((time.time_ns(), table.name, _as_text(record), f"{type(error).__name__}: {error}"))
                    # A guest that writes absurd numbers must not hide with them what it did.
                    if isinstance(error, OverflowError) and (rest := _without_the_absurd(record, table)):
                        self._connection.execute(table.insert, table.to_row(rest))
        self._connection.executemany(_QUARANTINE, bad)
        self.quarantined += len(bad)

    def _find_or_add(self, table: str, columns: dict[str, Any]) -> int:
        same = " AND ".join(f"{schema.quote(name)} IS ?" for name in columns)
        sql = f"SELECT id FROM {table} WHERE {same}"  # noqa: S608 - our own names
        row = self._connection.execute(sql, tuple(columns.values())).fetchone()
        return int(row[0]) if row else self._add(table, columns)

    def _add(self, table: str, columns: dict[str, Any]) -> int:
        names = ", ".join(map(schema.quote, columns))
        sql = f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608 - our own names
        cursor = self._connection.execute(sql, tuple(columns.values()))
        assert cursor.lastrowid is not None  # noqa: S101 - SQLite gives one for every INSERT
        return cursor.lastrowid

    def _bound_memory(self) -> None:
        # The newest go: what is left is then complete up to a moment, and the events' processes come before them.
        excess = len(self._pending) - self._keep
        if excess > 0:
            del self._pending[self._keep :]
            self.lost += excess

    def _out_of_patience(self) -> bool:
        now = time.monotonic()
        if self._busy_since is None:
            self._busy_since = now
        return now - self._busy_since > _PATIENCE

    def _touched(self, by_class: dict[Inserter, list[Record]]) -> Iterator[str]:
        yield from (inserter.table.name for inserter in by_class)
        yield from (record.table for record, _ in self._columns)
        if self._refused:
            yield _QUARANTINE_TABLE

    @contextlib.contextmanager
    def _transaction(self, *tables: str) -> Iterator[None]:
        """Do what the caller does all or not at all, and chain it; ``tables`` are those that it writes to."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            if self._chain:
                self._chain.extend(tables)
            self._connection.execute("COMMIT")
        except BaseException:
            # A full disk ends the transaction by itself.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if self._chain:
                self._chain.load()
            raise

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise faults.explain(error, self.path) from error


def _take(path: Path) -> int:
    """Make the file if there is none, readable by its owner only, and keep other Writers out of it."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise faults.explain(error, path) from error
    try:
        # SQLite locks with fcntl, which knows nothing of flock; two Writers would give the same ids to processes.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise StoreError(
            "another drakmet is writing to it", where=str(path), hint="wait until it ends, or choose another --db"
        ) from error
    return handle


def _without_the_absurd(record: Record, table: schema.Table) -> Record | None:
    """Return the record without the numbers that no column can hold, and these named as unreadable, if that can be."""
    absurd = [
        column.name
        for column in table.columns
        if isinstance(value := getattr(record, column.name), int)
        and not -(1 << 63) <= value < 1 << (64 if column.is_address else 63)
        and column.nullable
    ]
    if not absurd or "unreadable" not in record.__struct_fields__:
        return None
    unreadable = ",".join(filter(None, [record.unreadable, *absurd]))  # type: ignore[attr-defined]  # looked just now
    rest = msgspec.structs.replace(record, **dict.fromkeys(absurd), unreadable=unreadable)
    try:
        table.to_row(rest)
    except faults.ROW_FAULTS:
        return None
    return rest


def _as_text(record: Record) -> str:
    try:
        text = json.dumps(msgspec.structs.asdict(record), default=repr)
    except (ValueError, TypeError, RecursionError):
        text = ascii(record)
    return text[:_QUARANTINED]


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_WAIT, isolation_level=None, check_same_thread=False)
    try:
        schema.refuse_others(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        # In WAL mode this can lose the last moments on a power cut, never the file; an fsync a flush would stall.
        connection.execute("PRAGMA synchronous = NORMAL")
        # The Checkpointer keeps the log short; this bounds it, at 64 MB, if that cannot.
        connection.execute("PRAGMA wal_autocheckpoint = 16384")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA journal_size_limit = 67108864")
    except BaseException:
        connection.close()
        raise
    return connection
