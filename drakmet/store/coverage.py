# SPDX-License-Identifier: GPL-2.0-or-later
"""What the rows of the coverage say together: how long each trap saw, and what was missed and why."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drakmet.records import Coverage, CoverageKind

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Container, Iterable

COMPLETE = "complete"
_MOST_REASONS = 5
_SECOND = 1e9


@dataclass(slots=True)
class TrapCoverage:
    """One trap in one session; times in nanoseconds, ``span`` from its first interval's begin to its last one's end."""

    session: int
    plugin: str
    trap: str
    begin: int
    end: int
    armed: int = 0
    missed: int = 0
    kinds: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    @property
    def span(self) -> int:
        """How long it was meant to see; by the host's clock, which may have been set meanwhile."""
        return max(self.end - self.begin, self.armed)

    @property
    def complete(self) -> bool:
        """Whether it saw everything all the time."""
        return not self.kinds


def summarise(rows: Iterable[Coverage], now: int = 0) -> list[TrapCoverage]:
    """Return what the rows say of each trap, in the order of sessions, plugins and traps.

    An interval that has no end lasts until ``now``, in nanoseconds since 1970, or until the last time that is known.
    """
    rows = list(rows)
    last = max([now, *(row.end or row.begin for row in rows)], default=0)
    found: dict[tuple[int, str, str], TrapCoverage] = {}
    for row in sorted(rows, key=lambda row: (row.session, row.plugin, row.trap, row.begin)):
        end = last if row.end is None else row.end
        trap = found.setdefault(
            (row.session, row.plugin, row.trap), TrapCoverage(row.session, row.plugin, row.trap, row.begin, end)
        )
        trap.end = max(trap.end, end)
        trap.missed += row.missed or 0
        if row.kind == CoverageKind.ARMED:
            trap.armed += end - row.begin
            if not row.missed:
                continue
        kind = CoverageKind.LOST_RETURN.value if row.kind == CoverageKind.ARMED else row.kind
        if kind not in trap.kinds:
            trap.kinds.append(kind)
        if row.gap and row.gap not in trap.reasons and len(trap.reasons) < _MOST_REASONS:
            trap.reasons.append(row.gap)
    return list(found.values())


def read_coverage(connection: sqlite3.Connection, session: int | None = None) -> list[Coverage]:
    """Return the rows of a file's coverage, or only a session's."""
    sql = "SELECT session, plugin, trap, tables, begin, end, kind, gap, missed FROM main.coverage"
    if session is not None:
        sql += " WHERE session = ?"
    names = ("session", "plugin", "trap", "tables", "begin", "end", "kind", "gap", "missed")
    found = []
    for row in connection.execute(sql, () if session is None else (session,)):
        values = dict(zip(names, row, strict=True))
        found.append(Coverage(**values | {"tables": json.loads(values["tables"])}))
    return found


def rests_on(rows: Iterable[Coverage], tables: Container[str], now: int) -> str | None:
    """Return in a sentence how far what was found in some tables of one session rests on all that happened.

    It is ``complete``, or says how many seconds of how many were not seen, and the kinds of the gaps; None if no row
    is about these tables, as in an import that knows no traps.
    """
    traps = summarise((row for row in rows if any(table in tables for table in row.tables)), now)
    if not traps:
        return None
    kinds = sorted({kind for trap in traps for kind in trap.kinds})
    if not kinds:
        return COMPLETE
    if CoverageKind.CLOCK_SET in kinds:
        return f"gaps: how long was not seen is not known, the host's clock was set ({', '.join(kinds)})"
    # Of several traps the worst: each of them could have seen what was not.
    unseen = max(trap.span - trap.armed for trap in traps)
    span = max(trap.end for trap in traps) - min(trap.begin for trap in traps)
    return f"gaps: {unseen / _SECOND:.1f} s of {span / _SECOND:.1f} s not seen ({', '.join(kinds)})"
