# SPDX-License-Identifier: GPL-2.0-or-later
"""The linter: what is wrong with a rule before it misses anything."""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drakmet.rules.compiled import Compiled, Span, bounds
from drakmet.rules.lists import List, attach_lists
from drakmet.rules.words import aliases, did_you_mean, tokens, unqualified
from drakmet.store.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from drakmet.rules.format import RuleFile
    from drakmet.rules.trial import Laboratory

_ATTACK = re.compile(r"(TA\d{4}|T\d{4}(\.\d{3})?)")
_NO_TABLE = re.compile(r"no such table: (?:(\w+)\.)?(\S+)")
_NO_COLUMN = re.compile(r"no such column: (?:(?:\w+\.)?(\w+)\.)?(\S+)")
_NO_FUNCTION = re.compile(r"no such function: (\w+)")
# A plan's step that reads a whole table: to look at each row, or to make an index that is thrown away.
_WHOLE = re.compile(r"(?:SCAN|SEARCH) (?:main\.)?(\w+)(?:$| USING AUTOMATIC)")
_NEAR = re.compile(r'near "(.*?)"')
_UNKNOWN_WORD = re.compile(r"unrecognized token: \"(.*)\"")


@dataclass(frozen=True, slots=True)
class Issue:
    """Something wrong ("error") or doubtful ("warning") in a rule file, where, and what to do."""

    level: str
    code: str
    where: str
    text: str
    hint: str | None = None


class Linter:
    """Checks rules against the tables of a `Laboratory`. Close it when it has done its work."""

    def __init__(self, laboratory: Laboratory, lists: Mapping[str, List]) -> None:
        self._lists = lists
        self._columns = {name: {"id", *record.__struct_fields__} for name, record in laboratory.classes.items()}
        self._connection = laboratory.connection()
        attach_lists(self._connection, dict(lists))
        self._guard = Guard(self._connection)

    def check(self, file: RuleFile) -> list[Issue]:
        """Return what is wrong with a rule."""
        issues = [*self._metadata(file), *self._tests(file), *self._quoted(file)]
        if not any(issue.code == "unknown-table" for issue in issues):
            issues += self._sql(file)
        return issues

    def close(self) -> None:
        """Close the database in memory."""
        self._connection.close()

    def _metadata(self, file: RuleFile) -> Iterator[Issue]:
        rule = file.rule
        if rule.id != file.path.stem:
            hint = f"call the file {rule.id}.toml, or the rule {file.path.stem}"
            yield Issue("error", "id", file.where("id"), f"the rule's id {rule.id!r} is not its file's name", hint)
        for technique in rule.attack:
            if not _ATTACK.fullmatch(technique):
                hint = "T1059 or T1059.004 for a technique, TA0002 for a tactic"
                yield Issue("error", "attack", file.where("attack"), f"{technique!r} is no ATT&CK id", hint)
        if not rule.attack:
            yield Issue(
                "warning", "attack", file.where("id"), "the rule names no ATT&CK technique", 'add attack = ["T..."]'
            )
        for table in rule.triggers:
            if table not in self._columns:
                hint = did_you_mean(table, self._columns)
                yield Issue("error", "unknown-table", file.where("from"), f"there is no table {table}", hint)
            elif not {"session", "time"} <= self._columns[table]:
                hint = "take a table of events, or process"
                yield Issue("error", "from", file.where("from"), f"rows of {table} have no session and time", hint)
        if rule.once and len(rule.triggers) > 1:
            hint = "let the later event be the one in from"
            yield Issue("error", "once", file.where("once"), "once needs a rule with a single table in from", hint)

    def _tests(self, file: RuleFile) -> Iterator[Issue]:
        fires = [test for test in file.rule.tests if test.findings not in (0, [])]
        hint = "see the [[test]] blocks of the bundled rules"
        if not fires:
            yield Issue("error", "tests", file.where("test"), "no test shows what the rule finds", hint)
        if len(fires) == len(file.rule.tests):
            yield Issue("error", "tests", file.where("test"), "no test shows what the rule must not find", hint)

    def _quoted(self, file: RuleFile) -> Iterator[Issue]:
        names = {column for columns in self._columns.values() for column in columns} | self._columns.keys()
        words = list(tokens(file.rule.sql))
        aliases = {word.text for word, before in zip(words[1:], words, strict=False) if before.text.lower() == "as"}
        for word in words:
            text = word.text.strip('"')
            if word.kind == "quoted" and word.text.startswith('"') and text not in names and word.text not in aliases:
                # SQLite takes what is no column for a string; then the rule compares with the wrong thing and is quiet.
                hint = f"'{text}' is a string, \"...\" a column's name"
                yield Issue("error", "quotes", file.where_in_sql(word.text), f"{word.text} is no column", hint)

    def _sql(self, file: RuleFile) -> Iterator[Issue]:
        rule = file.rule
        for table in rule.triggers:
            found = unqualified(rule.sql, table)
            if not found:
                hint = "read it under its own name: that stands for the new rows, each of which is judged once"
                yield Issue(
                    "error", "from", file.where("sql"), f"the query does not read {table}, the table in from", hint
                )
            elif found > 1:
                hint = f"main.{table} is the whole table, with rows that were judged before"
                text = f"the query reads {table} {found} times, each time its new rows only"
                yield Issue("warning", "history", file.where_in_sql(table), text, hint)
        try:
            compiled = Compiled(rule, self._connection, self._guard)
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            yield self._explain(file, str(error))
            return
        yield from self._result(file, compiled.columns)
        yield from self._plan(file, compiled)

    def _result(self, file: RuleFile, selected: list[str]) -> Iterator[Issue]:
        rule = file.rule
        for table, column in rule.id_columns.items():
            if column not in selected:
                alias = "" if column == "id" else f" AS {column}"
                text = f"the query does not select {column}, the number of the row of {table} that it found"
                yield Issue("error", "id-column", file.where_in_sql("select"), text, f"SELECT {table}.id{alias}, ...")
        for name in file.placeholders:
            if name not in selected:
                hint = did_you_mean(name, selected)
                yield Issue("error", "message", file.where("message"), f"the query selects no column {name}", hint)
        for name in rule.once.by if rule.once else ():
            if name not in selected:
                hint = did_you_mean(name, selected)
                yield Issue("error", "once", file.where("once"), f"the query selects no column {name}", hint)
        if doubled := [name for name in selected if ":" in name]:
            name = doubled[0].partition(":")[0]
            hint = "name the columns, and give one of them another name with AS"
            yield Issue("warning", "doubled", file.where_in_sql("select"), f"the query selects {name} twice", hint)

    def _plan(self, file: RuleFile, compiled: Compiled) -> Iterator[Issue]:
        names = aliases(file.rule.sql)
        for _, _, _, step in self._connection.execute(f"EXPLAIN QUERY PLAN {compiled.sql}", _nothing(file)):
            whole = _WHOLE.match(step)
            table = whole and names.get(whole[1], whole[1])
            if table in self._columns:
                text = f"the query reads all of {table} at each step"
                hint = "join by id or a column with an index, such as process in tables of connections"
                yield Issue("warning", "slow", file.where_in_sql(table), text, hint)

    def _explain(self, file: RuleFile, error: str) -> Issue:
        if self._guard.denied:
            word = self._guard.denied.split()[-1].strip("()")
            hint = "a rule is one SELECT over records and lists"
            return Issue(
                "error", "denied", file.where_in_sql(word), f"{self._guard.denied} is not allowed in a rule", hint
            )
        if match := _NO_TABLE.search(error):
            known: set[str] = set(self._lists if match[1] == "lists" else self._columns)
            hint = did_you_mean(match[2], known) if known else "there are no lists"
            return Issue("error", "unknown-table", file.where_in_sql(match[2]), f"there is no table {match[2]}", hint)
        if match := _NO_COLUMN.search(error):
            read = {word.text for word in tokens(file.rule.sql) if word.text in self._columns}
            known = {column for table in read or self._columns for column in self._columns[table]}
            hint = did_you_mean(match[2], known)
            return Issue("error", "unknown-column", file.where_in_sql(match[2]), f"there is no column {match[2]}", hint)
        if match := _NO_FUNCTION.search(error):
            return Issue("error", "unknown-function", file.where_in_sql(match[1]), f"there is no function {match[1]}")
        near = _NEAR.search(error) or _UNKNOWN_WORD.search(error)
        return Issue("error", "syntax", file.where_in_sql(near[1] if near else None), f"SQL: {error}")


def _nothing(file: RuleFile) -> dict[str, int]:
    return bounds(dict.fromkeys(file.rule.triggers, Span(0, 0)), file.rule.triggers)
