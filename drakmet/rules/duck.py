# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules over Parquet by DuckDB (the extra ``parquet``): the same SQL, translated where the dialects differ.

What a rule finds there is what it finds in SQLite, or it is named with the reason why it is not judged.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any

from drakmet.errors import StoreError, UsageError
from drakmet.rules.arrivals import Span
from drakmet.rules.bursts import Bursts
from drakmet.rules.compiled import Compiled, parameters, windowed
from drakmet.rules.told import Told
from drakmet.rules.views import VIEWS
from drakmet.store.functions import FUNCTIONS
from drakmet.store.schema import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from drakmet.records import Finding
    from drakmet.rules.format import Rule
    from drakmet.rules.lists import List

_SECONDS = 600.0
_MOST = 1_000_000
_TEXT, _NUMBER = "VARCHAR", "BIGINT"
_SIGNATURES = {
    "argv_text": ([_TEXT], _TEXT),
    "basename": ([_TEXT], _TEXT),
    "dirname": ([_TEXT], _TEXT),
    "ip_in": ([_TEXT, _TEXT], _NUMBER),
    "ip_public": ([_TEXT], _NUMBER),
    "in_domain": ([_TEXT, _TEXT], _NUMBER),
    "utc": ([_NUMBER], _TEXT),
    "hex_address": ([_NUMBER], _TEXT),
}
_PIECES = re.compile(
    r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/"
    r"|(?P<element>\b\w+(?:\.\w+)?)\s*->>\s*(?P<place>\d+|'(?:[^']|'')*')"
    r"|:(?P<name>[A-Za-z_]\w*)|\b(?P<like>LIKE)\b",
    re.IGNORECASE | re.DOTALL,
)
# What means other things there, and changes silently what is found.
_OTHERWISE = {
    r"\bIS\s+(?!NOT\b|NULL\b|TRUE\b|FALSE\b|DISTINCT\b)": "IS compares values",
    r"\bIS\s+NOT\s+(?!NULL\b|TRUE\b|FALSE\b|DISTINCT\b)": "IS NOT compares values",
    r"\bgroup_concat\b|\bstring_agg\b": "texts are put together in an order that is not said",
    r"\bjson_each\b|\bjson_tree\b": "json_each has other columns",
    r"\b(?:date|datetime|time|strftime|unixepoch|julianday|printf|typeof|total)\s*\(": "a function of SQLite's own",
    r"(?<![/*])/(?![/*])": "a division of whole numbers gives fractions",
    r"\bCOLLATE\b|\browid\b": "SQLite's own",
    r"->(?!>)": "a part of JSON is compared",
}


def judge(
    folder: Path, rules: Iterable[Rule], lists: Mapping[str, List] | None = None
) -> tuple[list[Finding], dict[str, str]]:
    """Judge a folder of Parquet files, and return what was found and, by rule, why it could not be judged."""
    connection = _open(folder, dict(lists or {}))
    found: list[Finding] = []
    unable: dict[str, str] = {}
    try:
        for rule in rules:
            try:
                found += _Judged(rule, connection).findings()
            except _duckdb().Error as error:
                unable[rule.id] = " ".join(str(error).split("\n\n")[0].split())[:300]
            except _UnableError as error:
                unable[rule.id] = str(error)
    finally:
        connection.close()
    return found, unable


def translated(sql: str) -> str:
    """Return a rule's SQL in DuckDB's dialect."""

    def piece(match: re.Match[str]) -> str:
        if match["element"]:
            place = match["place"]
            path = f"'$[{place}]'" if place.isdigit() else place if place.startswith("'$") else f"'$.{place[1:]}"
            return f"json_extract_string({match['element']}, {path})"
        if match["name"]:
            return f"${match['name']}"
        # SQLite's LIKE takes ASCII letters of either case for the same.
        return "ILIKE" if match["like"] else match[0]

    return _PIECES.sub(piece, sql)


class _UnableError(Exception):
    """A rule cannot be judged by DuckDB; the text says why."""


class _Judged(Compiled):
    """A rule on a connection of DuckDB's."""

    def __init__(self, rule: Rule, connection: Any) -> None:
        self.rule = rule
        self._connection: Any = connection
        plain = re.sub(r"'(?:[^']|'')*'|--[^\n]*", "''", rule.sql)
        for pattern, why in _OTHERWISE.items():
            if re.search(pattern, plain, re.IGNORECASE):
                raise _UnableError(f"its SQL means something else there: {why}")
        # DuckDB has no hint for what it does anyway, and its own way to give a list.
        self.sql = translated(windowed(rule)).replace("AS NOT MATERIALIZED", "AS")
        self.sql = self.sql.replace(
            "SELECT value FROM json_each($drakmet_sessions)", "SELECT unnest($drakmet_sessions)"
        )
        self._triggers: dict[tuple[str, int], tuple[int | None, int, int | None]] = {}

    def findings(self) -> list[Finding]:
        """Return what the rule finds in everything there is."""
        rows = self._rows()
        told = Told(self.rule) if self.rule.reach and len(self.rule.triggers) > 1 else None
        bursts = Bursts(self.rule.quiet) if self.rule.once else None
        found = []
        for row in told.new(rows) if told else rows:
            finding = self.finding(row)
            if bursts:
                order = tuple(row[name] or 0 for name in self.rule.id_columns.values())
                bursts.add(self.burst(row, finding), finding, order)
            else:
                found.append(finding)
        return [*found, *bursts.firsts()] if bursts else found

    def _rows(self) -> list[dict[str, Any]]:
        spans = {name: Span(0, (1 << 63) - 1) for name in self.rule.triggers}
        given = parameters(self.rule, spans)
        given["drakmet_sessions"] = []
        if self.rule.os:
            sql = "SELECT s.id FROM session AS s JOIN guest AS g ON g.id = s.guest WHERE g.os = ?"
            given["drakmet_sessions"] = [
                number for (number,) in self._connection.execute(sql, [self.rule.os]).fetchall()
            ]
        used = {name: value for name, value in given.items() if re.search(rf"\${name}\b", self.sql)}
        statements = self._connection.extract_statements(self.sql)
        # What is inside brackets could close them and go on.
        if len(statements) != 1 or statements[0].type != _duckdb().StatementType.SELECT:
            raise _UnableError("it is no SELECT")
        timer = threading.Timer(_SECONDS, self._connection.interrupt)
        timer.start()
        try:
            cursor = self._connection.execute(self.sql, used)
            names = self.columns = [column[0] for column in cursor.description]
            found = cursor.fetchmany(_MOST + 1)
        finally:
            timer.cancel()
        if len(found) > _MOST:
            raise _UnableError(f"it gave more than {_MOST} rows")
        rows = [dict(zip(names, row, strict=True)) for row in found]
        ids = list(self.rule.id_columns.values())
        rows.sort(key=lambda row: [row[name] if isinstance(row[name], int) else 0 for name in ids])
        for table, column in self.rule.id_columns.items():
            self._look_up(table, sorted({row[column] for row in rows if isinstance(row[column], int)}))
        return rows

    def _look_up(self, table: str, numbers: list[int]) -> None:
        """Learn of all rows at once what findings tell of them: one by one would read the file again for each."""
        who = "id" if table == "process" else "process"
        sql = f"SELECT id, session, time, {who} FROM {quote(table)} WHERE id IN (SELECT unnest(?))"  # noqa: S608
        for number, *rest in self._connection.execute(sql, [numbers]).fetchall() if numbers else ():
            self._triggers[table, number] = tuple(rest)

    def _trigger(self, table: str, number: object) -> tuple[int | None, int, int | None]:
        return self._triggers.get((table, number), (None, 0, None))  # type: ignore[arg-type]  # ids are numbers


def _open(folder: Path, lists: dict[str, List]) -> Any:
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise StoreError("there is no Parquet of ours", where=str(folder), hint="`drakmet export --format parquet`")
    connection = _duckdb().connect(":memory:")
    for name, (parameters_, result) in _SIGNATURES.items():
        connection.create_function(name, FUNCTIONS[name][0], parameters_, result, null_handling="special")
    connection.execute("CREATE SCHEMA lists")
    for name, content in lists.items():
        columns, rows = content.table()
        kinds = [_kind(value[place] for value in rows) for place in range(len(columns))]
        table = f"lists.{quote(name)}"
        connection.execute(
            f"CREATE TABLE {table} ({', '.join(f'{quote(c)} {k}' for c, k in zip(columns, kinds, strict=True))})"
        )
        if rows:
            marks = ", ".join(f"({', '.join('?' * len(columns))})" for _ in rows)
            connection.execute(f"INSERT INTO {table} VALUES {marks}", [v for row in rows for v in row])  # noqa: S608
    # A rule's SQL reads these files and nothing else of this machine.
    connection.execute("SET allowed_directories = ?", [[str(folder.resolve()) + "/"]])
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    for path in files:
        place = str(path.resolve()).replace("'", "''")
        connection.execute(f"CREATE VIEW {quote(path.stem)} AS SELECT * FROM read_parquet('{place}')")  # noqa: S608
    for name, view in VIEWS.items():
        if {"process", "session", "guest", "host"} <= {path.stem for path in files}:
            connection.execute(f"CREATE VIEW {name} AS {view.sql.replace(' IS a.', ' IS NOT DISTINCT FROM a.')}")
    return connection


def _kind(values: Iterable[Any]) -> str:
    kinds = {type(value) for value in values if value is not None}
    return _NUMBER if kinds and kinds <= {int, bool} else "DOUBLE" if kinds and kinds <= {int, float} else _TEXT


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError as error:
        raise UsageError("rules over Parquet need DuckDB", hint="pip install 'drakmet[parquet]'") from error
    return duckdb
