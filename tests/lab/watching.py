# SPDX-License-Identifier: GPL-2.0-or-later
"""One `drakmet watch` in dom0, from its first trap to its end, and what it stored."""

from __future__ import annotations

import json
import signal
import sqlite3
import struct
import threading
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from drakmet.lab.client import Agent, Connection

DATABASE = "/root/watched.db"
READY, ENDED = 600, 900
"""Wall seconds that the emulator may need at the most."""


@dataclass
class Watched:
    """A watch: while it runs its connection, afterwards its exit code, and what it said."""

    connection: Connection
    code: int | None = None
    output: bytearray = field(default_factory=bytearray)
    errors: bytearray = field(default_factory=bytearray)
    watching: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def send(self, number: int) -> None:
        """Send it a signal."""
        self.connection.send(b"S", struct.pack(">i", number))

    def collect(self) -> None:
        """Take in what it says until it ends."""

        def diagnostics(data: bytes) -> None:
            self.errors.extend(data)
            if b"watching" in self.errors:
                self.watching.set()

        try:
            self.code = self.connection.collect(self.output.extend, diagnostics)
        finally:
            self.ended.set()
            self.watching.set()

    @property
    def said(self) -> str:
        """What it wrote to standard error."""
        return self.errors.decode()


@contextmanager
def watching(dom0: Agent, guest: str, *options: str, end: int = signal.SIGINT) -> Iterator[Watched]:
    """Watch a guest: the body runs while the traps are set, after it the watch is told to end and waited for."""
    dom0.run(["sh", "-c", f"rm -f {DATABASE}*"], check=True)
    with dom0.connect() as connection:
        dom0.begin(connection, ["drakmet", "watch", f"xen:{guest}", "--db", DATABASE, *options])
        watched = Watched(connection)
        reader = threading.Thread(target=watched.collect, daemon=True)
        reader.start()
        assert watched.watching.wait(READY), watched.said
        assert not watched.ended.is_set(), watched.said
        try:
            yield watched
        finally:
            if not watched.ended.is_set():
                watched.send(end)
            assert watched.ended.wait(ENDED), watched.said


def stored(dom0: Agent, target: Path) -> list[Any]:
    """Fetch the file of the last watch, and return its records."""
    dom0.pull(DATABASE, target)
    return records_of(target)


def records_of(target: Path) -> list[Any]:
    """Return a file's records in order, objects with the columns' names."""
    found = []
    with closing(sqlite3.connect(target)) as connection:
        connection.row_factory = sqlite3.Row
        kinds: dict[tuple[str, str], str] = {
            (table, column): kind
            for table, column, kind in connection.execute("SELECT table_name, name, kind FROM drakmet_column")
        }
        for table in sorted({table for table, _ in kinds}):
            for row in connection.execute(f"SELECT * FROM {table} ORDER BY rowid"):  # noqa: S608 - the file's own names
                values = {
                    name: json.loads(row[name])
                    if row[name] is not None and kinds.get((table, name)) == "json"
                    else row[name]
                    for name in row.keys()  # noqa: SIM118 - a Row's iterator gives its values
                }
                found.append(SimpleNamespace(table=table, **values))
    return found
