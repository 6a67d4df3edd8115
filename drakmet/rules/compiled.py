# SPDX-License-Identifier: GPL-2.0-or-later
"""A rule made ready for a connection: the SQL that sees only what is new, and findings out of its rows."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from drakmet.records import Finding
from drakmet.rules.arrivals import ALWAYS, Span, Times
from drakmet.rules.format import placeholders
from drakmet.rules.weight import HEAVIEST, weight
from drakmet.store.schema import quote

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping

    from drakmet.rules.format import Rule
    from drakmet.store.guard import Guard

_COMPILING = 5.0
_MOST_BYTES = 64 << 20
_FETCHED = 500
_MAX_ROWS_NAMED = 100
_MAX_MESSAGE = 2_000


class Compiled:
    """A rule on a connection. Making it raises `sqlite3.Error` if its SQL is wrong; ``guard.denied`` may tell more.

    The rule's SQL is run as a subquery in which the names of its trigger tables stand for their new rows only
    (``main.NAME`` is the whole table).
    """

    def __init__(self, rule: Rule, connection: sqlite3.Connection, guard: Guard) -> None:
        self.rule = rule
        self._connection = connection
        self.sql = windowed(rule)
        guard.forget()
        if weight(rule.sql) >= HEAVIEST:
            raise ValueError("its subqueries multiply beyond what SQLite can prepare")
        # Alone first: what is inside brackets could close them. EXPLAIN, as the compiler's opinion is all we want.
        with guard.deadline(_COMPILING, of_work=True):
            connection.execute(f"EXPLAIN {rule.sql}", rule.bindings).close()
            cursor = connection.execute(f"{self.sql} LIMIT 0", parameters(rule))
        self.columns = [column[0] for column in cursor.description]
        cursor.close()
        self.reads = {table for table, _ in guard.reads}

    def missing(self) -> list[str]:
        """Return the columns that the rule's keys need and its query does not select."""
        by = self.rule.once.by if self.rule.once else []
        told = [name for name in placeholders(self.rule.message) if name not in self.rule.written]
        needed = [*self.rule.id_columns.values(), *told, *by]
        return [name for name in dict.fromkeys(needed) if name not in self.columns]

    def rows(
        self, spans: Mapping[str, Span], limit: int, times: Times = ALWAYS, sessions: Iterable[int] = ()
    ) -> list[dict[str, Any]]:
        """Return the query's rows for rows of its trigger tables, in the order in which these were stored.

        ``times`` are those of the trigger rows, ``sessions`` those that a rule for one operating system may look at.
        Raises `TooMuchError` above ``limit`` rows or for rows that fill the memory, and `sqlite3.Error`.
        """
        cursor = self._connection.execute(self.sql, parameters(self.rule, spans, times, sessions))
        names = [column[0] for column in cursor.description]
        found: list[dict[str, Any]] = []
        size = 0
        try:
            while batch := cursor.fetchmany(_FETCHED):
                size += sum(len(value) for row in batch for value in row if isinstance(value, str | bytes))
                found += [dict(zip(names, row, strict=True)) for row in batch]
                if len(found) > limit:
                    raise TooMuchError(f"more than {limit} rows")
                if size > _MOST_BYTES:
                    raise TooMuchError(f"more than {_MOST_BYTES >> 20} MB")
        finally:
            cursor.close()
        ids = list(self.rule.id_columns.values())
        found.sort(key=lambda row: [row[name] if isinstance(row[name], int) else 0 for name in ids])
        return found

    def burst(self, row: Mapping[str, Any], finding: Finding) -> tuple[Any, ...]:
        """Return what a result has in common with others of its burst."""
        assert self.rule.once  # noqa: S101 - asked for by such rules only
        return (finding.session, *(row[name] for name in self.rule.once.by))

    def finding(self, row: dict[str, Any]) -> Finding:
        """Make a finding of a row of the query's result."""
        rests_on: list[tuple[str, int]] = []
        session, moment, process = None, 0, None
        for table, column in self.rule.id_columns.items():
            number = row[column]
            if number is None:
                continue
            if not isinstance(number, int):
                raise TypeError(f"its {column} is {number!r:.50}, which is no number of a row")
            rests_on.append((table, number))
            its_session, its_time, its_process = self._trigger(table, number)
            if its_time >= moment:
                session, moment, process = its_session, its_time, its_process
        if process is not None and ("process", process) not in rests_on:
            rests_on.append(("process", process))
        rests_on += [pair for pair in _named_rows(row) if pair not in rests_on]
        return Finding(
            session=session,
            time=moment,
            found=time.time_ns(),
            rule=self.rule.id,
            level=self.rule.level,
            title=self.rule.title,
            message=render(self.rule.message, {**self.rule.written, **row}),
            process=process,
            rests_on=json.dumps(rests_on[:_MAX_ROWS_NAMED]),
        )

    def _trigger(self, table: str, number: object) -> tuple[int | None, int, int | None]:
        who = "id" if table == "process" else "process"
        sql = f"SELECT session, time, {who} FROM main.{quote(table)} WHERE id = ?"  # noqa: S608 - a checked name
        found = self._connection.execute(sql, (number,)).fetchone()
        return found or (None, 0, None)


class TooMuchError(Exception):
    """A rule's query gave more at once than any rule should."""

    def __init__(self, what: str) -> None:
        super().__init__(f"it gave {what} at once")


def windowed(rule: Rule) -> str:
    """Return the SQL that runs a rule over some rows of its trigger tables only."""
    and_time = " AND time BETWEEN :drakmet_since AND :drakmet_until" if rule.within else ""
    and_os = " AND session IN (SELECT value FROM json_each(:drakmet_sessions))" if rule.os else ""
    views = ", ".join(
        f"{quote(name)} AS NOT MATERIALIZED (SELECT * FROM main.{quote(name)}"  # noqa: S608 - runs under a Guard
        f" WHERE id > :drakmet_low_{name} AND id <= :drakmet_high_{name}{and_time}{and_os})"
        for name in rule.triggers
    )
    # The line break ends a comment that the rule's SQL may end with.
    return f"WITH {views} SELECT * FROM (\n{rule.sql.strip().rstrip(';')}\n)"  # noqa: S608 - runs under a Guard


def parameters(
    rule: Rule, spans: Mapping[str, Span] | None = None, times: Times = ALWAYS, sessions: Iterable[int] = ()
) -> dict[str, Any]:
    """Return what `windowed` SQL takes; without spans it finds no rows."""
    values: dict[str, Any] = dict(rule.bindings)
    values |= {"drakmet_since": times.since, "drakmet_until": times.until}
    values["drakmet_sessions"] = json.dumps(list(sessions))
    for name in rule.triggers:
        span = spans[name] if spans and name in spans else Span(0, 0)
        values[f"drakmet_low_{name}"], values[f"drakmet_high_{name}"] = span.low, span.high
    return values


def render(template: str, row: Mapping[str, Any]) -> str:
    """Fill a message template with a row's values; null becomes ``?``."""
    text = template.format_map({name: "?" if value is None else value for name, value in row.items()})
    return " ".join(text.split())[:_MAX_MESSAGE]


def _named_rows(row: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return further rows that a query names in columns ``TABLE_id``, or ``TABLE_ids`` for a JSON array."""
    named: list[tuple[str, int]] = []
    for column, value in row.items():
        if column.endswith("_id") and isinstance(value, int):
            named.append((column.removesuffix("_id"), value))
        elif column.endswith("_ids") and isinstance(value, str):
            try:
                numbers = json.loads(value)
            except ValueError:
                continue
            if isinstance(numbers, list):
                table = column.removesuffix("_ids")
                named += [(table, number) for number in numbers[:_MAX_ROWS_NAMED] if isinstance(number, int)]
    return named
