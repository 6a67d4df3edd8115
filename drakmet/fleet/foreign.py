# SPDX-License-Identifier: GPL-2.0-or-later
"""A result that a host sent, taken as what an attacker on that host would send.

It is unpacked up to a size, opened read-only, and looked at before a row of it is used: the file is whole, its schema
holds tables and indexes of ours and nothing that computes, its chain fits, every value has its column's type, and no
row refers to a session, guest or process that is not its own.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import sqlite3
import stat
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from drakmet.fleet.records import FleetHost
from drakmet.records import Finding, Guest, Host, Process, Record, Session
from drakmet.store import schema, verifier
from drakmet.store.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_CHUNK: Final = 1 << 20
_HEADER: Final = b"SQLite format 3\0"
_LOOKING: Final = 120.0
_MOST_ID: Final = 1 << 40
_MOST_SESSIONS: Final = 10_000
_TYPES: Final[dict[str, set[type]]] = {
    "INTEGER": {int}, "REAL": {float, int}, "TEXT": {str}, "BLOB": {bytes},
}  # fmt: skip
# These are written here: findings by rules that no host can have changed, and what became of each host.
_NOT_TAKEN: Final = (Finding, FleetHost)
_IDS: Final[tuple[type[Record], ...]] = (Host, Guest, Session, Process)


def references(record: type[Record]) -> dict[str, type[Record]]:
    """Return which columns of a class hold numbers of rows of which other class."""
    found: dict[str, type[Record]] = {"session": Session, "process": Process}
    if record is Guest:
        found["host"] = Host
    elif record is Session:
        found["guest"] = Guest
    elif record is Process:
        found |= {"life": Process, "parent": Process}
    return found


class BrokenResultError(Exception):
    """A result cannot be used; the text says why."""


@dataclass(frozen=True)
class Result:
    """What a host sent, with every value as SQLite keeps it: by class its columns."""

    columns: dict[type[Record], dict[str, list[Any]]]
    size: int
    sha256: str
    head: str

    def count(self, record: type[Record]) -> int:
        """Return how many rows there are of a class."""
        return len(next(iter(self.columns.get(record, {}).values()), []))


def read_result(packed: Path, records: Iterable[type[Record]], *, most: int) -> Result:
    """Read what a host sent in ``packed``, which may unpack to ``most`` bytes, in a folder beside it.

    Raises `BrokenResultError`; `OSError` if the disk here is what is broken.
    """
    with tempfile.TemporaryDirectory(dir=packed.parent.parent, prefix="unpacked-") as folder:
        work = Path(folder) / "result.db"
        size, digest = _unpack(packed, work, most)
        try:
            with contextlib.closing(_open(work)) as connection:
                columns = dict(_tables(connection, records))
            _refer_to_own(columns)
            head = _verified(work)
        except (sqlite3.Error, sqlite3.Warning, ValueError, RecursionError) as error:
            # Python's own reading of text that is no UTF-8 is an error of SQLite's as well.
            raise BrokenResultError(f"it cannot be read: {error}") from error
    return Result(columns, size, digest, head)


def _unpack(packed: Path, work: Path, most: int) -> tuple[int, str]:
    try:
        handle = os.open(packed, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BrokenResultError(f"no file came: {error.strerror}") from error
    about = os.fstat(handle)
    if not stat.S_ISREG(about.st_mode):
        os.close(handle)
        raise BrokenResultError("what came is no file")
    with os.fdopen(handle, "rb") as raw:
        digest = hashlib.file_digest(raw, "sha256").hexdigest()
        raw.seek(0)
        with open(os.open(work, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:  # noqa: PTH123 - a handle
            try:
                with gzip.GzipFile(fileobj=raw) as source:
                    while data := source.read(_CHUNK):
                        if out.tell() + len(data) > most:
                            raise BrokenResultError(f"it unpacks to more than {most >> 20} MiB")
                        out.write(data)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise BrokenResultError(f"it is truncated or damaged: {error}") from error
    return about.st_size, digest


def _open(path: Path) -> sqlite3.Connection:
    with path.open("rb") as file:
        if file.read(len(_HEADER)) != _HEADER:
            raise BrokenResultError("it is no SQLite database")
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)
    try:
        _look_over(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _look_over(connection: sqlite3.Connection) -> None:
    for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0", "query_only = ON"):
        connection.execute(f"PRAGMA {pragma}")
    for kind, name, sql in connection.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_schema"):
        if kind not in ("table", "index") or " VIRTUAL TABLE" in " ".join(str(sql).upper().split()):
            raise BrokenResultError(f"its schema holds more than tables: {kind} {ascii(name)[:100]}")
    if not schema.computes_only_ours(connection):
        raise BrokenResultError("its schema computes what no table of ours does")
    (mark,) = connection.execute("PRAGMA application_id").fetchone()
    if mark != schema.APPLICATION_ID:
        raise BrokenResultError("no drakmet wrote it")
    guard = Guard(connection)
    with guard.lifted(), guard.deadline(_LOOKING):
        (said,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if said != "ok":
        raise BrokenResultError(f"it is damaged: {ascii(said)[1:-1][:200]}")


def _tables(
    connection: sqlite3.Connection, records: Iterable[type[Record]]
) -> Iterator[tuple[type[Record], dict[str, list[Any]]]]:
    there = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    missing = [record.table for record in _IDS if record.table not in there]
    if missing:
        raise BrokenResultError(f"it has no table {missing[0]}")
    for record in dict.fromkeys(records):
        if record.table in there and record not in _NOT_TAKEN:
            yield record, _columns(connection, schema.table_of(record))


def _columns(connection: sqlite3.Connection, table: schema.Table) -> dict[str, list[Any]]:
    names = [column.name for column in table.columns]
    sql = f"SELECT {', '.join(map(schema.quote, names))} FROM {schema.quote(table.name)} ORDER BY id"  # noqa: S608
    rows = connection.execute(sql).fetchall()
    columns = {name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)} if rows else {}
    for column in table.columns if rows else ():
        values = columns[column.name]
        wrong = set(map(type, values)) - _TYPES[column.sql_type]
        if wrong - {type(None)} or (wrong and not column.nullable):
            raise BrokenResultError(f"{table.name}.{column.name} holds {wrong.pop().__name__}, not {column.sql_type}")
        if column.is_json:
            _check_lists(table.name, column.name, values)
    return columns


def _check_lists(table: str, column: str, values: list[Any]) -> None:
    decoder = msgspec.json.Decoder(list[str | int])
    for value in set(values) - {None}:
        try:
            decoder.decode(value)
        except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
            raise BrokenResultError(f"{table}.{column} holds what is no list: {error}") from error


def _refer_to_own(columns: dict[type[Record], dict[str, list[Any]]]) -> None:
    """Raise `BrokenResultError` for a row that would, in a file of many hosts, belong to another host."""
    own = {record: set(columns[record].get("id", ())) for record in _IDS}
    for record, ids in own.items():
        if len(ids) != len(columns[record].get("id", ())) or not all(0 < number < _MOST_ID for number in ids):
            raise BrokenResultError(f"{record.table} has impossible numbers")
    if len(own[Session]) > _MOST_SESSIONS:
        raise BrokenResultError(f"it has {len(own[Session])} sessions")
    for record, values in columns.items():
        for name, target in references(record).items():
            stray = set(values.get(name, ())) - own[target] - {None}
            if stray:
                raise BrokenResultError(
                    f"{record.table}.{name} refers to {target.table} {stray.pop()}, which is not there"
                )


def _verified(path: Path) -> str:
    verdict = verifier.verify(path)
    if verdict.faults:
        raise BrokenResultError(f"its rows are not as they were written: {ascii(verdict.faults[0])[1:-1][:300]}")
    return verdict.head.hex()
