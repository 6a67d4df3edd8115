# SPDX-License-Identifier: GPL-2.0-or-later
"""The tests that a rule carries: its rows are stored, judged at once and one by one, and the findings compared."""

from __future__ import annotations

import json
import re
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from drakmet.errors import DrakmetError, RuleError
from drakmet.records import CORE_RECORDS, EventRecord, Finding, Guest, Host, Record, Session, columns
from drakmet.rules.evaluate import Evaluator
from drakmet.rules.words import did_you_mean
from drakmet.store import functions, schema

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from drakmet.rules.format import RuleFile, Test
    from drakmet.rules.lists import List

EPOCH = 1_767_225_600 * 10**9
"""When a test's time 0 is: 2026-01-01 UTC, in nanoseconds."""

_MOST_ROWS = 10_000
_LONGEST = 1e9
_FROM_JSON = re.compile(r"""(?:json_extract\()?(\w+)(?:, | ->> )'\$\."(.+)"'\)?""")


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a rule's test went; ``fault`` is ``None`` if it passed."""

    rule: str
    test: str
    where: str
    fault: str | None


class Laboratory:
    """An empty database in memory with the tables of record classes, copied for each test."""

    def __init__(self, records: Iterable[type[Record]]) -> None:
        from sqlite_utils import Database

        self.classes = {record.table: record for record in (*CORE_RECORDS, *records)}
        self.events = {name for name, record in self.classes.items() if issubclass(record, EventRecord)}
        self._tables = {name: schema.table_of(record) for name, record in self.classes.items()}
        connection = sqlite3.connect(":memory:", isolation_level=None)
        db = Database(connection, execute_plugins=False)
        schema.create_house_tables(db)
        schema.prepare(db, self._tables.values(), where="memory")
        self._image = connection.serialize()
        connection.close()

    def connection(self) -> sqlite3.Connection:
        """Return a fresh copy of the empty database, with our SQL functions."""
        connection = sqlite3.connect(":memory:", isolation_level=None)
        connection.deserialize(self._image)
        functions.register(connection)
        return connection

    def try_rule(self, file: RuleFile, lists: Mapping[str, List]) -> Iterator[Verdict]:
        """Run a rule's tests one after the other."""
        for place, test in enumerate(file.rule.tests):
            try:
                fault = self._try(file, place, test, lists)
            except DrakmetError as error:
                fault = error.what + (f" ({error.hint})" if error.hint else "")
            yield Verdict(file.rule.id, test.title, file.where("title", place), fault)

    def _try(self, file: RuleFile, place: int, test: Test, lists: Mapping[str, List]) -> str | None:
        rows = list(self._rows(file, place, test))
        at_once = self._findings(file, rows, lists, one_by_one=False)
        one_by_one = self._findings(file, rows, lists, one_by_one=True)
        if fault := _compare(test.findings, at_once):
            return fault
        if _key(at_once) != _key(one_by_one):
            return (
                f"row by row, as while watching, it finds {_say(one_by_one)}, but all at once {_say(at_once)}"
                f" (main.{file.rule.triggers[0]} is the whole table, {file.rule.triggers[0]} its new rows only)"
            )
        return None

    def _findings(
        self, file: RuleFile, rows: list[Record], lists: Mapping[str, List], *, one_by_one: bool
    ) -> list[Finding]:
        connection = self.connection()
        try:
            evaluator = Evaluator(connection, [file.rule], lists, whole=not one_by_one)
            found = []
            for row in [*self._frame(file, rows), *rows]:
                table = self._tables[row.table]
                try:
                    with evaluator.guard.lifted():
                        connection.execute(table.insert, table.to_row(row))
                except (sqlite3.Error, OverflowError, ValueError) as error:
                    raise RuleError(f"a row of {row.table}: {error}", where=file.where("test")) from error
                if one_by_one:
                    found += evaluator.step()
            found += evaluator.step()
            for fault in evaluator.faults().values():
                raise RuleError(fault)
            return found
        finally:
            connection.close()

    def _frame(self, file: RuleFile, rows: list[Record]) -> Iterator[Record]:
        """Yield host, guest and session as far as the test leaves them out."""
        given = {row.table for row in rows}
        if "host" not in given:
            yield Host(id=1, name="host")
        if "guest" not in given:
            yield Guest(id=1, host=1, name="guest", os=file.rule.os or "linux")
        if "session" not in given:
            yield Session(id=1, guest=1, source="test", begin=EPOCH)

    def _rows(self, file: RuleFile, place: int, test: Test) -> Iterator[Record]:
        made: list[tuple[int, int, Record]] = []
        where = file.where("rows", place)
        clock = 0.0
        for table, rows in test.rows.items():
            record = self.classes.get(table)
            if record is None:
                raise RuleError(f"no table {table}", where=where, hint=did_you_mean(table, self.classes))
            for written in rows:
                for at, values in _repeated(written, clock):
                    moment = EPOCH + round(at * 10**9)
                    # Processes come first, as a watch writes a process before what it does.
                    is_event = table != "process"
                    clock = at if is_event else clock
                    made.append((is_event, moment, _make(record, values, moment, len(made) + 1)))
                    if len(made) > _MOST_ROWS:
                        raise RuleError(f"more than {_MOST_ROWS} rows", where=where)
        yield from (row for _, _, row in sorted(made, key=lambda item: item[:2]))


def _repeated(row: dict[str, Any], clock: float) -> Iterator[tuple[float, dict[str, Any]]]:
    values = dict(row)
    times, every = values.pop("repeat", 1), values.pop("every", 0.1)
    begin = values.pop("at", clock + 0.001)
    if not isinstance(times, int) or not all(isinstance(value, int | float) for value in (every, begin)):
        raise RuleError("repeat, every and at are numbers")
    if not all(abs(value) <= _LONGEST for value in (every, begin)):
        raise RuleError(f"every and at are seconds, at most {_LONGEST:g}")
    for number in range(min(times, _MOST_ROWS + 1)):
        yield begin + number * every, {name: _numbered(value, number) for name, value in values.items()}


def _numbered(value: Any, number: int) -> Any:
    if value == "{n}":
        return number
    return value.replace("{n}", str(number)) if isinstance(value, str) else value


def _make(record: type[Record], values: dict[str, Any], moment: int, number: int) -> Record:
    known = record.__struct_fields__
    values = _computed(record, values)
    for name in values:
        if name not in known:
            hint = did_you_mean(name, [*known, *record.computed])
            raise RuleError(f"table {record.table} has no column {name}", hint=hint)
    # fields is what logs of other programs keep of a line.
    defaults: dict[str, Any] = {"session": 1, "time": moment, "fields": "{}", "id": number, "begin": moment}
    needed = {"session", "time", "fields"} if issubclass(record, EventRecord) else defaults.keys()
    filled: dict[str, Any] = {column.name: None for column in columns(record) if column.nullable}
    if record is Session:
        defaults["guest"] = 1
    elif record is Guest:
        defaults["host"] = 1
    filled |= {name: defaults[name] for name in needed if name in known} | values
    try:
        return msgspec.convert(filled, record)
    except msgspec.ValidationError as error:
        raise RuleError(f"a row of {record.table}: {error}", hint=_column_docs(record)) from error


def _computed(record: type[Record], values: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of a row, with those that SQLite computes from JSON put there."""
    kept = {name: value for name, value in values.items() if name not in record.computed}
    for name, (expression, _) in record.computed.items():
        if match := _FROM_JSON.fullmatch(expression):
            column, key = match.groups()
            held = kept.setdefault(column, "{}")
            if name in values:
                kept[column] = json.dumps({**json.loads(held), key: values[name]})
    return kept


def _column_docs(record: type[Record]) -> str:
    return "columns are " + ", ".join(f"{column.name} {column.sql_type}" for column in columns(record))


def _compare(expected: int | list[str], found: list[Finding]) -> str | None:
    if isinstance(expected, int):
        return None if len(found) == expected else f"it finds {_say(found)} instead of {expected}"
    if sorted(expected) == sorted(finding.message for finding in found):
        return None
    wanted = ", ".join(map(repr, expected)) or "nothing"
    return f"it finds {_say(found)} instead of {wanted}"


def _say(findings: list[Finding]) -> str:
    if not findings:
        return "nothing"
    texts = ", ".join(repr(finding.message) for finding in findings[:5])
    return f"{len(findings)} ({texts}{', ...' if len(findings) > 5 else ''})"


def _key(findings: list[Finding]) -> list[tuple[Any, ...]]:
    return sorted((f.time, f.message, f.rests_on, f.session or 0, f.process or 0) for f in findings)
