# SPDX-License-Identifier: GPL-2.0-or-later
"""A rule made ready for a connection: the SQL that sees only what is new, and findings out of its rows."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from drakmet.records import Finding
from drakmet.rules.format import placeholders
from drakmet.store.schema import quote

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping

    from drakmet.rules.format import Rule
    from drakmet.store.guard import Guard

_COMPILING = 5.0
_REMEMBERED = 100_000
_MAX_ROWS_NAMED = 100
_MAX_MESSAGE = 2_000


@dataclass(frozen=True, slots=True)
class Span:
    """Row numbers of a table: above ``low``, up to ``high``."""

    low: int
    high: int


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
        # Alone first: what is inside brackets could close them. EXPLAIN, as the compiler's opinion is all we want.
        connection.execute(f"EXPLAIN {rule.sql}").close()
        nothing = bounds(dict.fromkeys(rule.triggers, Span(0, 0)), rule.triggers)
        with guard.deadline(_COMPILING):
            cursor = connection.execute(f"{self.sql} LIMIT 0", nothing)
        self.columns = [column[0] for column in cursor.description]
        cursor.close()
        self.reads = {table for table, _ in guard.reads}
        self._last: OrderedDict[tuple[Any, ...], int] = OrderedDict()

    def missing(self) -> list[str]:
        """Return the columns that the rule's keys need and its query does not select."""
        by = self.rule.once.by if self.rule.once else []
        needed = [*self.rule.id_columns.values(), *placeholders(self.rule.message), *by]
        return [name for name in dict.fromkeys(needed) if name not in self.columns]

    def rows(self, spans: Mapping[str, Span], limit: int) -> list[dict[str, Any]]:
        """Return the query's rows for the new rows of its trigger tables, in the order in which these were stored.

        Raises `TooManyRowsError` above ``limit``, and `sqlite3.Error`.
        """
        cursor = self._connection.execute(self.sql, bounds(spans, self.rule.triggers))
        names = [column[0] for column in cursor.description]
        found = [dict(zip(names, row, strict=True)) for row in cursor.fetchmany(limit + 1)]
        cursor.close()
        if len(found) > limit:
            raise TooManyRowsError(limit)
        ids = list(self.rule.id_columns.values())
        found.sort(key=lambda row: [row[name] if isinstance(row[name], int) else 0 for name in ids])
        return found

    def findings(self, rows: list[dict[str, Any]]) -> list[Finding]:
        """Make findings of the query's rows, but for those that ``once`` silences."""
        made = []
        for row in rows:
            finding = self._finding(row)
            if not self._silenced(row, finding):
                made.append(finding)
        return made

    def _finding(self, row: dict[str, Any]) -> Finding:
        rests_on: list[tuple[str, int]] = []
        session, moment, process = None, 0, None
        for table, column in self.rule.id_columns.items():
            number = row[column]
            if number is None:
                continue
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
            message=render(self.rule.message, row),
            process=process,
            rests_on=json.dumps(rests_on[:_MAX_ROWS_NAMED]),
        )

    def _trigger(self, table: str, number: object) -> tuple[int | None, int, int | None]:
        who = "id" if table == "process" else "process"
        sql = f"SELECT session, time, {who} FROM main.{quote(table)} WHERE id = ?"  # noqa: S608 - a checked name
        found = self._connection.execute(sql, (number,)).fetchone()
        return found or (None, 0, None)

    def _silenced(self, row: dict[str, Any], finding: Finding) -> bool:
        if not self.rule.once:
            return False
        key = (finding.session, *(row[name] for name in self.rule.once.by))
        last = self._last.get(key)
        # A burst goes on as long as no pause is long enough, however long it gets.
        self._last[key] = max(finding.time, last or 0)
        self._last.move_to_end(key)
        if len(self._last) > _REMEMBERED:
            self._last.popitem(last=False)
        return last is not None and finding.time - last < self.rule.quiet


class TooManyRowsError(Exception):
    """A rule's query gave more rows at once than any rule should."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"it gave more than {limit} rows at once")


def windowed(rule: Rule) -> str:
    """Return the SQL that runs a rule over the new rows of its trigger tables only."""
    views = ", ".join(
        f"{quote(name)} AS NOT MATERIALIZED (SELECT * FROM main.{quote(name)}"  # noqa: S608 - runs under a Guard
        f" WHERE id > :drakmet_low_{name} AND id <= :drakmet_high_{name})"
        for name in rule.triggers
    )
    # The line break ends a comment that the rule's SQL may end with.
    return f"WITH {views} SELECT * FROM (\n{rule.sql.strip().rstrip(';')}\n)"  # noqa: S608 - runs under a Guard


def render(template: str, row: Mapping[str, Any]) -> str:
    """Fill a message template with a row's values; null becomes ``?``."""
    text = template.format_map({name: "?" if value is None else value for name, value in row.items()})
    return " ".join(text.split())[:_MAX_MESSAGE]


def bounds(spans: Mapping[str, Span], tables: Iterable[str]) -> dict[str, int]:
    """Return the parameters that `windowed` SQL takes."""
    values = {}
    for name in tables:
        values[f"drakmet_low_{name}"] = spans[name].low
        values[f"drakmet_high_{name}"] = spans[name].high
    return values


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
