# SPDX-License-Identifier: GPL-2.0-or-later
"""Chains the rows of a file by hash, in the order of their writing, so that a later change of any of them shows.

A *block* stands for rows that one transaction wrote to one table, and is written in the same transaction: a file that
was cut off in the middle of a watch is whole up to its last flush. A block holds

- the digest of each row: BLAKE2b of 16 bytes over the row's values, the id first, as one MessagePack array;
- its own digest: SHA-256 over the digest of the block before, its number, the table, the first row's id, the names of
  the columns and the rows' digests (`link`).

So an edited row is named, not only noticed. A row that is written again, such as an interval of the coverage when it
ends, is chained again: its last digest counts. Rows that no Writer chained, as it finds them when it opens the file,
are taken up in blocks that say so (``adopted``). `drakmet.store.verifier` checks all this without the rest of drakmet.
"""

from __future__ import annotations

import itertools
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from drakmet.store.schema import quote
from drakmet.store.verifier import NOTHING, link

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sqlite_utils import Database

_TOGETHER = 10_000
_encode = msgspec.msgpack.Encoder().encode
_BLOCK = (
    "INSERT INTO drakmet_chain (seq, table_name, first, columns, adopted, rows, digest) VALUES (?, ?, ?, ?, ?, ?, ?)"
)


def create_chain_tables(db: Database) -> None:
    """Create the tables of the chain and of its seals."""
    db.table("drakmet_chain").create(
        {"seq": int, "table_name": str, "first": int, "columns": str, "adopted": int, "rows": bytes, "digest": bytes},
        pk="seq",
        not_null={"seq", "table_name", "first", "adopted", "rows", "digest"},
        strict=True,
    )
    db.table("drakmet_seal").create(
        {"id": int, "time": int, "session": int, "seq": int, "digest": bytes, "key": bytes, "signature": bytes},
        pk="id",
        not_null={"time", "seq", "digest"},
        strict=True,
    )


class Chain:
    """The chain of the file that a connection writes. Its methods run inside the transaction whose rows they chain."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._columns: dict[str, tuple[str, ...]] = {}
        self._by_note: set[str] = set()
        connection.execute("CREATE TEMP TABLE drakmet_changed (table_name TEXT NOT NULL, id INTEGER NOT NULL)")
        self.seq, self.digest = 0, NOTHING
        self._last: dict[str, int] = {}
        self._told: dict[str, str] = {}

    def load(self) -> None:
        """Take up the chain where the file's last transaction left it."""
        row = self._connection.execute("SELECT seq, digest FROM drakmet_chain ORDER BY seq DESC LIMIT 1").fetchone()
        self.seq, self.digest = row or (0, NOTHING)
        # Only numbers and names, not the rows' digests, are looked at.
        self._last = dict(
            self._connection.execute(
                "SELECT table_name, max(first + length(rows) / 16 - 1) FROM drakmet_chain GROUP BY table_name"
            )
        )
        self._told = dict(
            self._connection.execute(
                "SELECT table_name, columns FROM drakmet_chain WHERE columns IS NOT NULL GROUP BY table_name"
                " HAVING seq = max(seq)"
            )
        )

    def follow(self, tables: Iterable[tuple[str, bool]]) -> None:
        """Chain these tables from now on: by name, and whether their rows are numbered by whoever writes them.

        Such rows may come in any order, and rows of any table may be written again: triggers note these.
        """
        for name, numbered in tables:
            found = self._connection.execute("SELECT name FROM pragma_table_info(?)", (name,))
            self._columns[name] = ("id", *sorted({column for (column,) in found} - {"id"}))
            self._note(name, "UPDATE")
            if numbered:
                self._by_note.add(name)
                self._note(name, "INSERT")

    def adopt(self) -> None:
        """Chain the rows that no Writer chained, in every table that is followed."""
        for name in self._columns:
            self._chain(name, self._unchained(name), adopted=True)

    def wrote(self, table: str, kept: Mapping[str, Sequence[object]], rows: int) -> None:
        """Chain rows that this transaction has just put behind a table's last, given by column as SQLite keeps them.

        Whatever is not chained here is read back from the file: of a table whose rows bring their own numbers, and
        of one in which the rows did not get the numbers that follow.
        """
        first = self._last.get(table, 0) + 1
        sql = f"SELECT max(id) FROM main.{quote(table)}"  # noqa: S608 - names are checked
        if table in self._by_note or self._connection.execute(sql).fetchone() != (first + rows - 1,):
            return
        nothing: Sequence[object] = [None] * rows
        columns = [kept.get(name, nothing) for name in self._columns[table][1:]]
        every = zip(range(first, first + rows), *columns, strict=True)
        while digests := [
            blake2b(packed, digest_size=16).digest() for packed in map(_encode, itertools.islice(every, _TOGETHER))
        ]:
            self._add(table, first, digests, adopted=False)
            first += len(digests)

    def extend(self, tables: Iterable[str]) -> None:
        """Chain what this transaction wrote to some tables."""
        noted: dict[str, list[int]] = {}
        for name, row in self._connection.execute("SELECT DISTINCT table_name, id FROM drakmet_changed ORDER BY 1, 2"):
            noted.setdefault(name, []).append(row)
        if noted:
            self._connection.execute("DELETE FROM drakmet_changed")
        for name in dict.fromkeys(tables):
            if name not in self._by_note:
                self._chain(name, self._unchained(name))
        for name, rows in noted.items():
            for run in _runs(rows):
                self._chain(name, self._rows(name, "BETWEEN ? AND ?", (run[0], run[-1])))

    def _note(self, table: str, event: str) -> None:
        name = quote(f"drakmet_{event}_{table}")
        note = f"INSERT INTO drakmet_changed VALUES ('{table}', NEW.id)"  # noqa: S608 - names are checked
        self._connection.execute(
            f"CREATE TEMP TRIGGER IF NOT EXISTS {name} AFTER {event} ON main.{quote(table)} BEGIN {note}; END"
        )

    def _unchained(self, table: str) -> Iterator[tuple[object, ...]]:
        return self._rows(table, "> ?", (self._last.get(table, 0),))

    def _rows(self, table: str, which: str, parameters: tuple[int, ...]) -> Iterator[tuple[object, ...]]:
        names = ", ".join(map(quote, self._columns[table]))
        sql = f"SELECT {names} FROM main.{quote(table)} WHERE id {which} ORDER BY id"  # noqa: S608 - names are checked
        return self._connection.execute(sql, parameters)

    def _chain(self, table: str, rows: Iterator[tuple[object, ...]], *, adopted: bool = False) -> None:
        digests: list[bytes] = []
        first = following = 0
        for row in rows:
            number = row[0]
            if digests and (number != following or len(digests) == _TOGETHER):
                self._add(table, first, digests, adopted)
                digests = []
            if not digests:
                first = following = number  # type: ignore[assignment] # an INTEGER PRIMARY KEY
            digests.append(blake2b(_encode(row), digest_size=16).digest())
            following += 1
        if digests:
            self._add(table, first, digests, adopted)

    def _add(self, table: str, first: int, digests: list[bytes], adopted: bool) -> None:
        columns = "\n".join(self._columns[table])
        rows = b"".join(digests)
        self.seq += 1
        self.digest = link(self.digest, self.seq, table, first, columns, adopted, rows)
        told = None if self._told.get(table) == columns else columns
        self._connection.execute(_BLOCK, (self.seq, table, first, told, adopted, rows, self.digest))
        self._told[table] = columns
        self._last[table] = max(self._last.get(table, 0), first + len(digests) - 1)


def _runs(numbers: list[int]) -> Iterator[list[int]]:
    """Yield the runs of numbers that follow each other, of numbers that are in order."""
    for _, run in itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        yield [number for _, number in run]
