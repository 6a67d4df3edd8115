# SPDX-License-Identifier: GPL-2.0-or-later
"""What changelogs tell of a source package: which version came after which, and what each closed.

Changelogs of several versions are put together: each version knows the one before it, so that they form a tree with a
line for each release of the distribution.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from drakmet.identity.changelog import Entry

SCHEMA: Final = """
CREATE TABLE entry (id INTEGER PRIMARY KEY, source TEXT NOT NULL, version TEXT NOT NULL, previous TEXT,
                    UNIQUE (source, version));
CREATE TABLE fix (entry INTEGER, hole TEXT, completes INTEGER NOT NULL, PRIMARY KEY (entry, hole)) WITHOUT ROWID;
"""


class Lines(NamedTuple):
    """The versions of a source package with the one before each, and what each closed or closed the rest of."""

    previous: dict[str, str | None]
    fixes: dict[str, frozenset[str]]
    completes: dict[str, frozenset[str]]

    def down(self, version: str) -> Iterator[str]:
        """Yield a version and those that it came from, newest first."""
        seen: set[str] = set()
        at: str | None = version
        while at is not None and at in self.previous and at not in seen:
            seen.add(at)
            yield at
            at = self.previous[at]


def add(connection: sqlite3.Connection, entries: Sequence[Entry]) -> None:
    """Add a changelog's entries, given newest first; those that are there are kept, with what is new about them."""
    for place, entry in enumerate(entries):
        before = entries[place + 1].version if place + 1 < len(entries) else None
        (row,) = connection.execute(
            "INSERT INTO entry (source, version, previous) VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET previous = coalesce(previous, excluded.previous) RETURNING id",
            (entry.source, entry.version, before),
        ).fetchone()
        connection.executemany(
            "INSERT INTO fix VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET completes = max(completes, excluded.completes)",
            ((row, hole, hole in entry.completes) for hole in sorted(entry.fixes)),
        )


def load(connection: sqlite3.Connection, source: str) -> Lines:
    """Return what is known of a source package; of one without changelogs nothing."""
    previous: dict[str, str | None] = {}
    fixes: dict[str, set[str]] = {}
    completes: dict[str, set[str]] = {}
    query = (
        "SELECT version, previous, hole, completes FROM entry LEFT JOIN fix ON fix.entry = entry.id WHERE source = ?"
    )
    for version, before, hole, rest in connection.execute(query, (source,)):
        previous[version] = before
        if hole is not None:
            fixes.setdefault(version, set()).add(hole)
            if rest:
                completes.setdefault(version, set()).add(hole)
    return Lines(
        previous,
        {version: frozenset(holes) for version, holes in fixes.items()},
        {version: frozenset(holes) for version, holes in completes.items()},
    )
