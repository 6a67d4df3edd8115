# SPDX-License-Identifier: GPL-2.0-or-later
"""Merging: what a host sent becomes rows of the fleet's file, under numbers that are free there, all or nothing."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import msgspec

from drakmet.fleet.foreign import references
from drakmet.records import Guest, Host, Process, Record, Session
from drakmet.store.reader import connect

if TYPE_CHECKING:
    from drakmet.fleet.foreign import Result
    from drakmet.fleet.records import FleetHost
    from drakmet.store import Writer


class Merger:
    """Merges into the file of a Writer, which must have been made with the classes of records that come."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        with contextlib.closing(connect(writer.path)) as connection:
            self._last: dict[type[Record], int] = {
                record: connection.execute(f"SELECT coalesce(max(id), 0) FROM {record.table}").fetchone()[0]  # noqa: S608 - our names
                for record in (Host, Guest, Session, Process)
            }
            self._hosts: dict[str, int] = dict(connection.execute("SELECT name, id FROM host"))

    def add(self, result: Result, about: FleetHost) -> FleetHost:
        """Store a host's rows with the row about itself in one transaction, and return that row, complete.

        Raises `StoreError` if they cannot be stored; then nothing of it is.
        """
        host = self._hosts.get(about.name)
        if host is None:
            host = self._last[Host] = self._last[Host] + 1
            self._hosts[about.name] = host
            self._writer.put(Host(id=host, name=about.name, xen=about.xen))
        shift = dict(self._last)
        rows = 0
        for record, columns in result.columns.items():
            count = result.count(record)
            if record is Host or not count:
                continue
            moved = self._moved(record, columns, shift, host)
            self._writer.put_columns(record, moved)
            rows += count
            if record in self._last:
                self._last[record] = max(moved["id"])
        done = msgspec.structs.replace(about, rows=rows)
        self._writer.put(done)
        self._writer.flush()
        return done

    @staticmethod
    def _moved(
        record: type[Record], columns: dict[str, list[Any]], shift: dict[type[Record], int], host: int
    ) -> dict[str, list[Any]]:
        moved = dict(columns)
        if record in shift:
            moved["id"] = [number + shift[record] for number in columns["id"]]
        for name, target in references(record).items():
            if target is Host:
                moved[name] = [host] * len(columns[name])
            elif name in columns:
                by = shift[target]
                moved[name] = [None if number is None else number + by for number in columns[name]]
        return moved
