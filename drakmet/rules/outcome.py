# SPDX-License-Identifier: GPL-2.0-or-later
"""What became of a rule: that nothing was found means something only where somebody looked."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drakmet.store.schema import quote

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from drakmet.rules.format import Rule


class State(enum.Enum):
    """What is known of a rule in a session."""

    FIRED = "fired"
    CLEAN = "clean"
    NOT_KNOWN = "not known"
    """It found nothing, but not everything was seen, or it failed in places."""
    NOT_EVALUATED = "not evaluated"
    """What it looks at was never collected, or its SQL does not fit the file."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A rule's state in a session, the number of its findings, and why the state is not better."""

    rule: str
    session: int | None
    state: State
    findings: int
    reason: str | None
    excepted: int = 0
    """Findings that fell under the site's exceptions."""
    faulty: bool = False
    """Whether the rule itself is the reason: its file or SQL is wrong, or it was stopped."""


class Coverage:
    """What a file's sessions collected, by its ``coverage`` table, or by the rows that are there."""

    def __init__(self, connection: sqlite3.Connection, events: Iterable[str], *, whole: bool = False) -> None:
        ends = dict(connection.execute("SELECT id, end FROM session ORDER BY id"))
        self.sessions = list(ends)
        # Of a watch that goes on this is known; of a file it means that somebody may have been killed.
        self._cut = {number for number, end in ends.items() if end is None} if whole else set()
        self._systems = dict(
            connection.execute("SELECT s.id, g.os FROM session AS s LEFT JOIN guest AS g ON g.id = s.guest")
        )
        self._events = set(events)
        self._armed: set[tuple[int, str]] = set()
        self._gaps: dict[tuple[int, str], str] = {}
        for session, table, plugin, trap, gap, missed in connection.execute(
            "SELECT c.session, t.value, c.plugin, c.trap, c.gap, c.missed FROM coverage c, json_each(c.tables) t"
        ):
            if gap is None:
                self._armed.add((session, table))
            if gap is not None or missed:
                text = f"{plugin}'s trap {trap}: {gap or 'it saw not all'}" + (f" ({missed} missed)" if missed else "")
                self._gaps.setdefault((session, table), text)
        mentioned = {table for _, table in self._armed | self._gaps.keys()}
        for table in self._events - mentioned:
            # Collectors and imported files have no traps; there, rows are what shows that somebody looked.
            found = connection.execute(f"SELECT DISTINCT session FROM main.{quote(table)}")  # noqa: S608
            self._armed |= {(session, table) for (session,) in found}
        self._apart = dict(connection.execute("SELECT table_name, count(*) FROM drakmet_quarantine GROUP BY 1"))

    def state(self, session: int | None, rule: Rule, reads: Iterable[str]) -> tuple[State, str | None]:
        """Return what it means that a rule, whose SQL reads ``reads``, found nothing; and why."""
        if session is None:
            return State.NOT_EVALUATED, "there is no session in the file"
        system = self._systems.get(session)
        if rule.os and rule.os != system:
            return State.NOT_EVALUATED, f"it is for {rule.os}, and the guest's system is {system or 'not known'}"
        tables = sorted(set(reads))
        absent = [table for table in tables if table in self._events and (session, table) not in self._armed]
        why = [f"{table} was not collected" for table in absent]
        why += [self._gaps[session, table] for table in tables if (session, table) in self._gaps]
        why += [f"{self._apart[table]} rows of {table} could not be stored" for table in tables if table in self._apart]
        if session in self._cut:
            why.append("the session has no end: it was cut off, or goes on")
        judged = set(rule.triggers)
        if absent and (judged <= set(absent) or not judged >= set(absent)):
            return State.NOT_EVALUATED, "; ".join(why)
        return (State.NOT_KNOWN, "; ".join(why)) if why else (State.CLEAN, None)
