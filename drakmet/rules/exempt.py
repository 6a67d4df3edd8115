# SPDX-License-Identifier: GPL-2.0-or-later
"""A site's exceptions, held against findings."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING

from drakmet.store.schema import quote

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from drakmet.records import Finding
    from drakmet.rules.site import Exemption

_PATHS = ("path", "new_path", "script")
_MOST_ROWS = 20


class Exempting:
    """Looks up what a finding is about, and which exception takes it."""

    def __init__(self, connection: sqlite3.Connection, exemptions: Iterable[Exemption]) -> None:
        self._connection = connection
        self._exemptions = list(exemptions)
        self._columns: dict[str, list[str]] = {}

    def taken(self, finding: Finding) -> Exemption | None:
        """Return the first exception under which a finding falls."""
        if not self._exemptions:
            return None
        found = self._about(finding)
        day = _day(finding.time)
        return next((one for one in self._exemptions if one.fits(rule=finding.rule, day=day, found=found)), None)

    def _about(self, finding: Finding) -> dict[str, list[str]]:
        sql = (
            "SELECT g.name, h.name FROM session AS s JOIN guest AS g ON g.id = s.guest"
            " LEFT JOIN host AS h ON h.id = g.host WHERE s.id = ?"
        )
        guest, host = self._connection.execute(sql, (finding.session,)).fetchone() or (None, None)
        exe = self._connection.execute("SELECT exe FROM main.process WHERE id = ?", (finding.process,)).fetchone()
        return {
            "guest": [guest] if guest else [],
            "host": [host] if host else [],
            "process": [exe[0]] if exe and exe[0] else [],
            "path": self._paths(json.loads(finding.rests_on)),
        }

    def _paths(self, rests_on: list[list[object]]) -> list[str]:
        paths = []
        for table, number in rests_on[:_MOST_ROWS]:
            names = self._path_columns(str(table))
            if names:
                sql = f"SELECT {', '.join(names)} FROM main.{quote(str(table))} WHERE id = ?"  # noqa: S608 - columns of ours
                row = self._connection.execute(sql, (number,)).fetchone() or ()
                paths += [value for value in row if isinstance(value, str)]
        return paths

    def _path_columns(self, table: str) -> list[str]:
        if table not in self._columns:
            rows = self._connection.execute("SELECT name FROM drakmet_column WHERE table_name = ?", (table,))
            self._columns[table] = [name for (name,) in rows if name in _PATHS]
        return self._columns[table]


def _day(nanoseconds: int) -> dt.date:
    try:
        return dt.datetime.fromtimestamp(nanoseconds // 10**9, dt.UTC).date()
    except (ValueError, OverflowError, OSError):
        return dt.date.max
