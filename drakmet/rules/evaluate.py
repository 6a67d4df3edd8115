# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules over a file: what is new at each step, while it grows or until it is all judged."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from drakmet.rules.compiled import Compiled, Span, TooManyRowsError
from drakmet.rules.lists import List, attach_lists
from drakmet.rules.outcome import Coverage, Outcome, State
from drakmet.store import faults
from drakmet.store.guard import Guard
from drakmet.store.reader import connect
from drakmet.store.schema import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from drakmet.records import Finding
    from drakmet.rules.format import Rule

_STRIKES = 3
_MOST_FINDINGS = 1_000


@dataclass(slots=True)
class _Judged:
    """A rule in use, and how it fared."""

    rule: Rule
    compiled: Compiled | None = None
    fault: str | None = None
    strikes: int = 0
    failed: str | None = None
    fired: dict[int | None, int] = field(default_factory=dict)


class Evaluator:
    """Judges each new row of a file once, with every rule.

    ``start`` says whether the rows that are there already are new ("begin") or not ("end"). A rule that takes longer
    than ``seconds`` for ``chunk`` rows of a table, or whose query gives more than ``limit`` rows for them, has failed
    there; one that fails three times in a row is not tried again. Others go on.

    Use it from one thread at a time. It never writes; raises `StoreError` if the file cannot be read.
    """

    def __init__(
        self,
        path: Path | str | sqlite3.Connection,
        rules: Iterable[Rule],
        lists: Mapping[str, List] | None = None,
        *,
        start: Literal["begin", "end"] = "begin",
        seconds: float = 5.0,
        limit: int = 50_000,
        chunk: int = 20_000,
    ) -> None:
        self._owns = not isinstance(path, sqlite3.Connection)
        self._connection = path if isinstance(path, sqlite3.Connection) else connect(path)
        self._where = "memory" if isinstance(path, sqlite3.Connection) else str(path)
        self._seconds, self._limit, self._chunk = seconds, limit, chunk
        try:
            attach_lists(self._connection, dict(lists or {}))
            self.guard = Guard(self._connection)
            self._rules = [_Judged(rule) for rule in rules]
            self._events: set[str] = set()
            self._prepare()
            self._marks = self._ends() if start == "end" else dict.fromkeys(self._ends(), 0)
        except sqlite3.Error as error:
            self.close()
            raise faults.explain(error, self._where) from error

    def step(self) -> list[Finding]:
        """Judge what has come since the last step, and return what the rules found."""
        try:
            if any(judged.compiled is None and judged.fault for judged in self._rules):
                self._prepare()
            ends = self._ends()
            found: list[Finding] = []
            while True:
                # In chunks, so that a deadline means the same for a long file as for a short moment.
                spans = {
                    table: Span(low := self._marks.get(table, 0), min(end, low + self._chunk))
                    for table, end in ends.items()
                }
                if all(span.high <= span.low for span in spans.values()):
                    return found
                for judged in self._rules:
                    found += self._judge(judged, spans)
                self._marks.update({table: max(span.high, span.low) for table, span in spans.items()})
        except sqlite3.Error as error:
            raise faults.explain(error, self._where) from error

    def faults(self) -> dict[str, str]:
        """Return why rules could not be used or failed, by their ids."""
        faults = {judged.rule.id: judged.fault or judged.failed for judged in self._rules}
        return {rule: fault for rule, fault in faults.items() if fault}

    def outcomes(self, session: int | None = None) -> list[Outcome]:
        """Return what became of each rule in each session, or only in one, up to the last step."""
        try:
            with self.guard.deadline(60):
                coverage = Coverage(self._connection, self._events)
        except sqlite3.Error as error:
            raise faults.explain(error, self._where) from error
        found = []
        for judged in self._rules:
            for number in [session] if session else sorted({*coverage.sessions, *judged.fired} - {None}) or [None]:
                count = judged.fired.get(number, 0)
                if judged.compiled is None:
                    state, reason = State.NOT_EVALUATED, judged.fault
                else:
                    state, reason = coverage.state(number, judged.rule.triggers, judged.compiled.reads)
                if judged.failed and state is not State.NOT_EVALUATED:
                    state, reason = State.NOT_KNOWN, judged.failed
                if count:
                    state = State.FIRED
                found.append(Outcome(judged.rule.id, number, state, count, reason))
        return found

    def close(self) -> None:
        """Close the connection."""
        if self._owns:
            self._connection.close()

    def _prepare(self) -> None:
        self._events = {name for (name,) in self._connection.execute("SELECT name FROM drakmet_table WHERE event")}
        for judged in self._rules:
            if judged.compiled is not None:
                continue
            try:
                compiled = Compiled(judged.rule, self._connection, self.guard)
                missing = compiled.missing()
                judged.fault = f"its query does not select {', '.join(missing)}" if missing else None
                judged.compiled = None if missing else compiled
            except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
                judged.fault = (self.guard.denied and f"{self.guard.denied} is not allowed in a rule") or str(error)

    def _ends(self) -> dict[str, int]:
        tables = sorted({name for judged in self._rules if judged.compiled for name in judged.rule.triggers})
        if not tables:
            return {}
        sql = ", ".join(f"(SELECT coalesce(max(id), 0) FROM main.{quote(name)})" for name in tables)  # noqa: S608
        return dict(zip(tables, self._connection.execute(f"SELECT {sql}").fetchone(), strict=True))

    def _judge(self, judged: _Judged, spans: Mapping[str, Span]) -> list[Finding]:
        if judged.compiled is None or judged.strikes >= _STRIKES:
            return []
        if all(spans[name].high <= spans[name].low for name in judged.rule.triggers):
            return []
        try:
            with self.guard.deadline(self._seconds):
                findings = judged.compiled.findings(judged.compiled.rows(spans, self._limit))
        except (sqlite3.OperationalError, sqlite3.DataError, TooManyRowsError) as error:
            if isinstance(error, sqlite3.Error) and faults.code(error) in faults.FILE_FAULTS:
                raise
            judged.strikes += 1
            reason = f"it took longer than {self._seconds:g} s" if str(error) == "interrupted" else str(error)
            judged.failed = reason + (", and was given up" if judged.strikes >= _STRIKES else "")
            return []
        judged.strikes = 0
        if len(findings) > _MOST_FINDINGS:
            judged.failed = f"it found {len(findings)} at once, of which {_MOST_FINDINGS} were kept"
            del findings[_MOST_FINDINGS:]
        for finding in findings:
            judged.fired[finding.session] = judged.fired.get(finding.session, 0) + 1
        return findings


def judge(path: Path | str, rules: Iterable[Rule], lists: Mapping[str, List]) -> tuple[list[Finding], list[Outcome]]:
    """Judge a whole file, and return what was found and what became of each rule; raise `StoreError`."""
    evaluator = Evaluator(path, rules, lists, seconds=30.0)
    try:
        return evaluator.step(), evaluator.outcomes()
    finally:
        evaluator.close()
