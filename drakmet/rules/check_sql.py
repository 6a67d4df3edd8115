# SPDX-License-Identifier: GPL-2.0-or-later
"""The linter's eye for SQL: what SQLite would take without a word, and what it refuses in words of its own."""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING

from drakmet.rules.compiled import Compiled, parameters
from drakmet.rules.issues import Issue
from drakmet.rules.words import aliases, did_you_mean, qualified, tokens, unqualified
from drakmet.store.functions import FUNCTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from drakmet.rules.format import RuleFile
    from drakmet.rules.lists import List
    from drakmet.store.guard import Guard

_NO_TABLE = re.compile(r"no such table: (?:(\w+)\.)?(\S+)")
_NO_COLUMN = re.compile(r"no such column: (?:(?:\w+\.)?(\w+)\.)?(\S+)")
_NO_FUNCTION = re.compile(r"no such function: (\w+)")
# A plan's step that reads a whole table: to look at each row, or to make an index that is thrown away.
_WHOLE = re.compile(r"(?:SCAN|SEARCH) (?:main\.)?(\w+)(?:$| USING AUTOMATIC)")
_BEFORE = frozenset(("where", "and", "or", "on", "not", "("))
_COMPARING = frozenset(("=", "<", ">", "!", "like", "glob", "in", "is", "between", "not"))
_NEAR = re.compile(r'near "(.*?)"')
_UNKNOWN_WORD = re.compile(r"unrecognized token: \"(.*)\"")


class SqlLinter:
    """Checks the SQL of rules on a connection that has the tables, lists and views, all empty."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        guard: Guard,
        columns: Mapping[str, set[str]],
        lists: Mapping[str, List],
        events: set[str],
    ) -> None:
        self._connection, self._guard = connection, guard
        self._columns, self._lists, self._events = columns, lists, events

    def check(self, file: RuleFile) -> Iterator[Issue]:
        """Yield what is wrong with a rule's SQL; its trigger tables must be there."""
        rule = file.rule
        yield from self._quoted(file)
        yield from self._parameters(file)
        for table in rule.triggers:
            found = unqualified(rule.sql, table)
            if not found:
                hint = "read it under its own name: that stands for the new rows, each of which is judged once"
                text = f"the query does not read {table}, the table in from"
                yield Issue("error", "from", file.where("sql"), text, hint)
            elif found > 1:
                hint = f"main.{table} is the whole table, with rows that were judged before"
                text = f"the query reads {table} {found} times, each time its new rows only"
                yield Issue("warning", "history", file.where_in_sql(table), text, hint)
        try:
            compiled = Compiled(rule, self._connection, self._guard)
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            if issue := self._explain(file, str(error)):
                yield issue
            return
        yield from self._result(file, compiled.columns)
        yield from self._looking_back(file, compiled.reads)
        yield from self._plan(file, compiled)

    def _quoted(self, file: RuleFile) -> Iterator[Issue]:
        words = list(tokens(file.rule.sql))
        plain = {word.text for word in words if word.kind == "name"}
        read = {*plain, *file.rule.triggers} & self._columns.keys()
        columns = {column for table in read for column in self._columns[table]}
        names = columns | plain | self._columns.keys()
        named = {word.text for word, before in zip(words[1:], words, strict=False) if before.text.lower() == "as"}
        for word in words:
            text = word.text.strip('"')
            if word.kind == "quoted" and word.text.startswith('"') and text not in names and word.text not in named:
                # SQLite takes what is no column for a string; then the rule compares with the wrong thing and is quiet.
                near = did_you_mean(text, names) if text.isidentifier() else ""
                hint = f"'{text}' is a string, \"...\" a column's name" + (f"; {near}" if "did you" in near else "")
                yield Issue("error", "quotes", file.where_in_sql(word.text), f"{word.text} is no column", hint)

        for before, word, after in zip(words, words[1:], words[2:], strict=False):
            text = word.text.strip("'")
            compared = before.text.lower() in _BEFORE and after.text.lower() in _COMPARING
            if word.kind == "string" and text in columns and compared:
                where, what = file.where_in_sql(word.text), f"{word.text} is a string, though {text} is a column"
                yield Issue("warning", "quotes", where, what, f"write {text} for the column's value")

    def _parameters(self, file: RuleFile) -> Iterator[Issue]:
        known = file.rule.bindings
        used = {word.text[1:]: word.text for word in tokens(file.rule.sql) if word.kind == "parameter"}
        for name, text in used.items():
            if name not in known or not text.startswith(":"):
                where, what = file.where_in_sql(text), f"the rule has no parameter {text}"
                if name == "within":
                    hint = 'say how far the query looks back: within = "10m"'
                else:
                    hint = f'declare it: parameters.{name or "NAME"} = {{ default = 5, doc = "..." }}'
                yield Issue("error", "parameters", where, what, hint)
        for name in known.keys() - used.keys():
            if name != "within" and name not in file.placeholders:
                where, what = file.where("parameters"), f"the query does not use the parameter {name}"
                yield Issue(
                    "warning", "parameters", where, what, f"write :{name} where it stands for a value, or remove it"
                )

    def _result(self, file: RuleFile, selected: list[str]) -> Iterator[Issue]:
        rule = file.rule
        for table, column in rule.id_columns.items():
            if column not in selected:
                alias = "" if column == "id" else f" AS {column}"
                text = f"the query does not select {column}, the number of the row of {table} that it found"
                yield Issue("error", "id-column", file.where_in_sql("select"), text, f"SELECT {table}.id{alias}, ...")
        for name in file.placeholders:
            if name not in selected and name not in rule.written:
                hint = did_you_mean(name, [*selected, *rule.written])
                yield Issue("error", "message", file.where("message"), f"the query selects no column {name}", hint)
        for name in rule.once.by if rule.once else ():
            if name not in selected:
                hint = did_you_mean(name, selected)
                yield Issue("error", "once", file.where("once"), f"the query selects no column {name}", hint)
        if doubled := [name for name in selected if ":" in name]:
            name = doubled[0].partition(":")[0]
            hint = "name the columns, and give one of them another name with AS"
            yield Issue("warning", "doubled", file.where_in_sql("select"), f"the query selects {name} twice", hint)

    def _looking_back(self, file: RuleFile, reads: set[str]) -> Iterator[Issue]:
        rule = file.rule
        seen = sorted(
            table for table in reads & self._events if table not in rule.triggers or qualified(rule.sql, table)
        )
        if seen and not rule.within:
            text = f"the query looks back at {', '.join(seen)}, but the rule does not say how far"
            hint = 'within = "10m", and in the query: a.time BETWEEN b.time - :within AND b.time'
            yield Issue("error", "within", file.where_in_sql(seen[0]), text, hint)
        elif rule.within and not seen:
            text = "the query looks at no other events, so that within means nothing"
            yield Issue("warning", "within", file.where("within"), text, "remove it")
        elif rule.within and not any(word.text == ":within" for word in tokens(rule.sql)):
            text = "the query does not use :within, so that it may look back farther than it says"
            hint = "a.time BETWEEN b.time - :within AND b.time"
            yield Issue("warning", "within", file.where("within"), text, hint)

    def _plan(self, file: RuleFile, compiled: Compiled) -> Iterator[Issue]:
        names = aliases(file.rule.sql)
        steps = self._connection.execute(f"EXPLAIN QUERY PLAN {compiled.sql}", parameters(file.rule)).fetchall()
        for _, _, _, step in steps:
            whole = _WHOLE.match(step)
            table = whole and names.get(whole[1], whole[1])
            if table in self._columns:
                text = f"the query reads all of {table} at each step"
                hint = "join by id or a column with an index, such as process in tables of connections"
                yield Issue("warning", "slow", file.where_in_sql(table), text, hint)

    def _explain(self, file: RuleFile, error: str) -> Issue | None:
        if self._guard.denied:
            word = self._guard.denied.split()[-1].strip("()")
            where, what = file.where_in_sql(word), f"{self._guard.denied} is not allowed in a rule"
            return Issue("error", "denied", where, what, "a rule is one SELECT over records and lists")
        if "binding" in error:
            return None  # told with the parameters
        if match := _NO_TABLE.search(error):
            known: set[str] = set(self._lists if match[1] == "lists" else self._columns)
            hint = did_you_mean(match[2], known) if known else "there are no lists"
            return Issue("error", "unknown-table", file.where_in_sql(match[2]), f"there is no table {match[2]}", hint)
        if match := _NO_COLUMN.search(error):
            read = {word.text for word in tokens(file.rule.sql) if word.text in self._columns}
            known = {column for table in read or self._columns for column in self._columns[table]}
            name = match[2].strip('"')
            where, hint = file.where_in_sql(name), did_you_mean(name, known)
            return Issue("error", "unknown-column", where, f"there is no column {name}", hint)
        if match := _NO_FUNCTION.search(error):
            where, what = file.where_in_sql(match[1]), f"there is no function {match[1]}"
            near = did_you_mean(match[1], FUNCTIONS)
            return Issue("error", "unknown-function", where, what, near if "did you" in near else None)
        near_word = _NEAR.search(error) or _UNKNOWN_WORD.search(error)
        return Issue("error", "syntax", file.where_in_sql(near_word[1] if near_word else None), f"SQL: {error}")
