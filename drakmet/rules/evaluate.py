# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules over a file: what is new at each step, while it grows or until it is all judged."""

from __future__ import annotations

import re
import sqlite3
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from drakmet.rules.arrivals import ALWAYS, Arrivals, Span, Times
from drakmet.rules.bursts import Bursts
from drakmet.rules.compiled import Compiled
from drakmet.rules.exempt import Exempting
from drakmet.rules.lists import List, attach_lists
from drakmet.rules.outcome import Coverage, Outcome, State
from drakmet.rules.told import Told
from drakmet.rules.views import create_views
from drakmet.store import faults
from drakmet.store.coverage import read_coverage, rests_on
from drakmet.store.guard import Guard
from drakmet.store.reader import connect
from drakmet.store.schema import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from drakmet.records import Finding
    from drakmet.rules.format import Rule
    from drakmet.rules.site import Exemption

LONGEST = 4 << 20
"""The bytes that a value may have in a rule: a guest's longest are argument vectors, of some hundred KB."""

_STRIKES = 3
_LOOKING = 300.0
_MOST_FINDINGS = 1_000


@dataclass(slots=True)
class _Judged:
    """A rule in use, and how it fared."""

    rule: Rule
    exempting: Exempting
    compiled: Compiled | None = None
    fault: str | None = None
    strikes: int = 0
    failed: str | None = None
    absent: bool = False
    fired: dict[int | None, int] = field(default_factory=dict)
    excepted: dict[int | None, int] = field(default_factory=dict)
    bursts: Bursts | None = None
    told: Told | None = None

    @property
    def tables(self) -> set[str]:
        """The tables whose new rows matter: those it judges and, if it looks back, those it looks at."""
        return {*self.rule.triggers, *(self.compiled.reads if self.compiled and self.rule.reach else ())}


class Evaluator:
    """Judges each new row of a file once, with every rule.

    ``start`` says whether the rows that are there already are new ("begin") or not ("end"). A row that comes late,
    stored after rows that happened after it, makes rules that look back judge these again, and tell what is new.
    ``where`` says of rules, by their ids, where their SQL stands, for what is told of their faults.
    ``whole`` says that the file does not grow: then nothing is late, and of a burst the earliest result is told.

    A rule that takes more than ``seconds`` of CPU for ``chunk`` rows of a table, or whose query gives over ``limit``
    rows for them, has failed there; one that fails three times in a row is not tried again. Others go on.

    Use it from one thread at a time. It never writes; raises `StoreError` if the file cannot be read.
    """

    def __init__(
        self,
        path: Path | str | sqlite3.Connection,
        rules: Iterable[Rule],
        lists: Mapping[str, List] | None = None,
        *,
        exceptions: Iterable[Exemption] = (),
        where: Mapping[str, str] | None = None,
        start: Literal["begin", "end"] = "begin",
        whole: bool = False,
        seconds: float = 5.0,
        limit: int = 50_000,
        chunk: int = 20_000,
    ) -> None:
        self._owns = not isinstance(path, sqlite3.Connection)
        self._connection = path if isinstance(path, sqlite3.Connection) else connect(path)
        self._where = "memory" if isinstance(path, sqlite3.Connection) else str(path)
        self._seconds, self._limit, self._chunk, self._whole = seconds, limit, chunk, whole
        try:
            attach_lists(self._connection, dict(lists or {}))
            create_views(self._connection)
            self.guard = Guard(self._connection, longest=LONGEST)
            self._arrivals = Arrivals(self._connection)
            self._places = dict(where or {})
            known = list(exceptions)
            self._rules = [
                _Judged(rule, Exempting(self._connection, [one for one in known if one.concerns(rule.id)]))
                for rule in rules
            ]
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
            new = {table: Span(self._marks.get(table, 0), end) for table, end in ends.items()}
            found: list[Finding] = []
            for spans in self._chunks(new):
                for judged in self._rules:
                    found += self._judge(judged, spans)
            if not self._whole:
                found += self._late(new)
            self._marks.update({table: max(span.high, span.low) for table, span in new.items()})
            found += self._last()
            self._say_what_they_rest_on(found)
        except sqlite3.Error as error:
            raise faults.explain(error, self._where) from error
        return found

    def faults(self) -> dict[str, str]:
        """Return why rules could not be used or failed, by their ids."""
        faults = {judged.rule.id: judged.fault or judged.failed for judged in self._rules}
        return {rule: fault for rule, fault in faults.items() if fault}

    def outcomes(self, session: int | None = None) -> list[Outcome]:
        """Return what became of each rule in each session, or only in one, up to the last step."""
        try:
            read = {table for judged in self._rules if judged.compiled for table in judged.compiled.reads}
            with self.guard.deadline(_LOOKING, of_work=True):
                coverage = Coverage(self._connection, self._events & read, whole=self._whole)
        except sqlite3.Error as error:
            raise faults.explain(error, self._where) from error
        found = []
        for judged in self._rules:
            for number in [session] if session else sorted({*coverage.sessions, *judged.fired} - {None}) or [None]:
                count = judged.fired.get(number, 0)
                if judged.compiled is None:
                    state, reason = State.NOT_EVALUATED, judged.fault
                else:
                    state, reason = coverage.state(number, judged.rule, judged.compiled.reads)
                if judged.failed and state is not State.NOT_EVALUATED:
                    state, reason = State.NOT_KNOWN, judged.failed
                if count:
                    state = State.FIRED
                faulty = judged.failed is not None or (judged.compiled is None and not judged.absent)
                excepted = judged.excepted.get(number, 0)
                found.append(Outcome(judged.rule.id, number, state, count, reason, excepted, faulty))
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
                text = f"its query does not select {', '.join(missing)}"
                judged.fault = self._at(judged, text) if missing else None
                judged.compiled = None if missing else compiled
                judged.bursts = Bursts(judged.rule.quiet) if judged.rule.once else None
                # A row that is judged once cannot tell a thing twice, but two tables can: each tells of a pair.
                twice = not self._whole or len(judged.rule.triggers) > 1
                judged.told = Told(judged.rule) if judged.rule.reach and twice else None
            except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
                judged.fault = self._why_not(judged, str(error))

    def _ends(self) -> dict[str, int]:
        # What a rule reads may be a list or a view: only what the file describes has rows that come in.
        known = {name for judged in self._rules if judged.compiled for name in judged.tables}
        tables = sorted(known & (self._events | {"process"}))
        if not tables:
            return {}
        sql = ", ".join(f"(SELECT coalesce(max(id), 0) FROM main.{quote(name)})" for name in tables)  # noqa: S608
        return dict(zip(tables, self._connection.execute(f"SELECT {sql}").fetchone(), strict=True))

    def _chunks(self, new: Mapping[str, Span]) -> Iterator[dict[str, Span]]:
        """Yield new rows piece by piece, so that a deadline means the same for a long file as for a short moment."""
        most = max((span.high - span.low for span in new.values()), default=0)
        for begin in range(0, most, self._chunk):
            yield {
                table: Span(min(span.low + begin, span.high), min(span.low + begin + self._chunk, span.high))
                for table, span in new.items()
            }

    def _late(self, spans: Mapping[str, Span]) -> list[Finding]:
        """Judge again what lies after the new rows in time and was judged in a step before, without them."""
        looking = [judged for judged in self._rules if judged.compiled and judged.rule.reach]
        seen = {name for judged in looking for name in judged.tables if name in self._events and name in spans}
        fresh = {table: self._arrivals.fresh(table, spans[table]) for table in seen}
        found: list[Finding] = []
        for judged in looking:
            its_fresh = [fresh[table] for table in judged.tables if table in fresh]
            for table in judged.rule.triggers:
                for span, times in self._arrivals.judged(table, its_fresh, judged.rule.reach or 0):
                    found += self._judge(judged, {table: span}, times)
        for table in {name for judged in looking for name in judged.rule.triggers if name in spans}:
            self._arrivals.keep(table, spans[table])
        return found

    def _last(self) -> list[Finding]:
        found = []
        for judged in self._rules if self._whole else ():
            for finding in judged.bursts.firsts() if judged.bursts else ():
                judged.fired[finding.session] = judged.fired.get(finding.session, 0) + 1
                found.append(finding)
        return found

    def _say_what_they_rest_on(self, found: list[Finding]) -> None:
        reads = {judged.rule.id: judged.compiled.reads for judged in self._rules if judged.compiled}
        rows = {session: read_coverage(self._connection, session) for session in {one.session for one in found}}
        now = 0 if self._whole else time.time_ns()
        for one in found:
            # Where nothing was armed, as in the log of another program, there is nothing to say.
            if rows[one.session]:
                one.coverage = rests_on(rows[one.session], reads[one.rule], now)

    def _judge(self, judged: _Judged, spans: Mapping[str, Span], times: Times = ALWAYS) -> list[Finding]:
        if judged.compiled is None or judged.strikes >= _STRIKES:
            return []
        its_spans = {name: spans.get(name, Span(0, 0)) for name in judged.rule.triggers}
        if all(span.high <= span.low for span in its_spans.values()):
            return []
        try:
            with self.guard.deadline(self._seconds, of_work=True):
                rows = judged.compiled.rows(its_spans, self._limit, times, self._sessions(judged.rule))
                findings = self._findings(judged, judged.compiled, rows)
        except Exception as error:
            if isinstance(error, sqlite3.Error) and faults.code(error) in faults.FILE_FAULTS:
                raise
            judged.strikes += 1
            reason = self.guard.why(error) or str(error) or type(error).__name__
            judged.failed = self._at(judged, reason + (", and was given up" if judged.strikes >= _STRIKES else ""))
            return []
        judged.strikes = 0
        if len(findings) > _MOST_FINDINGS:
            judged.failed = f"it found {len(findings)} at once, of which {_MOST_FINDINGS} were kept"
            del findings[_MOST_FINDINGS:]
        for finding in findings:
            judged.fired[finding.session] = judged.fired.get(finding.session, 0) + 1
        return findings

    def _findings(self, judged: _Judged, compiled: Compiled, rows: list[dict[str, Any]]) -> list[Finding]:
        made = []
        for row in judged.told.new(rows) if judged.told else rows:
            finding = compiled.finding(row)
            if judged.exempting.taken(finding):
                judged.excepted[finding.session] = judged.excepted.get(finding.session, 0) + 1
            elif judged.bursts is None:
                made.append(finding)
            else:
                order = tuple(row[name] or 0 for name in judged.rule.id_columns.values())
                if judged.bursts.add(compiled.burst(row, finding), finding, order) and not self._whole:
                    made.append(finding)
        return made

    def _why_not(self, judged: _Judged, error: str) -> str:
        if self.guard.denied:
            return self._at(judged, f"{self.guard.denied} is not allowed in a rule")
        match = _NO_TABLE.fullmatch(error)
        judged.absent = match is not None
        if match:
            # A record's table is there once something was to be stored in it; else the name is wrong.
            return f"{match[1]} was not collected: there is no such table in the file"
        return self._at(judged, error)

    def _at(self, judged: _Judged, text: str) -> str:
        place = self._places.get(judged.rule.id)
        return f"{place}: {text}" if place else text

    def _sessions(self, rule: Rule) -> list[int]:
        if not rule.os:
            return []
        return [number for (number,) in self._connection.execute(_OF_SYSTEM, (rule.os,))]


_NO_TABLE = re.compile(r"no such table: (?:main\.)?(\w+)")
_OF_SYSTEM = "SELECT s.id FROM session AS s JOIN guest AS g ON g.id = s.guest WHERE g.os = ?"


def judge(
    path: Path | str,
    rules: Iterable[Rule],
    lists: Mapping[str, List] | None = None,
    exceptions: Iterable[Exemption] = (),
    *,
    where: Mapping[str, str] | None = None,
) -> tuple[list[Finding], list[Outcome]]:
    """Judge a whole file, and return what was found and what became of each rule; raise `StoreError`."""
    evaluator = Evaluator(path, rules, lists, exceptions=exceptions, where=where, whole=True, seconds=10.0)
    try:
        return evaluator.step(), evaluator.outcomes()
    finally:
        evaluator.close()
