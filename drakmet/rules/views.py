# SPDX-License-Identifier: GPL-2.0-or-later
"""Views that rules and queries have beside the tables of records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3


@dataclass(frozen=True, slots=True)
class View:
    """A view's columns, what it is good for, and its SQL."""

    columns: tuple[str, ...]
    doc: str
    sql: str


VIEWS = {
    "same_process": View(
        ("one", "other"),
        "pairs of rows of process that are the same process, before and after it executed something",
        """
        SELECT id AS one, id AS other FROM main.process
        UNION ALL
        SELECT a.id, b.id FROM main.process AS a
        JOIN main.process AS b
        ON b.pid = a.pid AND b.session = a.session AND b.start_time IS a.start_time AND b.id <> a.id
        """,
    ),
    "event_guest": View(
        ("session", "guest", "guest_name", "host", "host_name", "os"),
        "the guest and the host of each session",
        """
        SELECT s.id AS session, g.id AS guest, g.name AS guest_name, h.id AS host, h.name AS host_name, g.os
        FROM main.session AS s JOIN main.guest AS g ON g.id = s.guest LEFT JOIN main.host AS h ON h.id = g.host
        """,
    ),
}


def create_views(connection: sqlite3.Connection) -> None:
    """Give a connection the views; nothing is written to its file."""
    for name, view in VIEWS.items():
        connection.execute(f"CREATE TEMP VIEW {name} AS {view.sql}")
