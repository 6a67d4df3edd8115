# SPDX-License-Identifier: GPL-2.0-or-later
"""The linter: what is wrong with a rule before it misses anything."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from drakmet import __version__
from drakmet.rules import attack
from drakmet.rules.check_sql import SqlLinter
from drakmet.rules.issues import Issue
from drakmet.rules.lists import attach_lists
from drakmet.rules.views import VIEWS, create_views
from drakmet.rules.words import did_you_mean
from drakmet.store.guard import Guard

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Iterator, Mapping

    from drakmet.rules.format import RuleFile
    from drakmet.rules.lists import List
    from drakmet.rules.site import Site
    from drakmet.rules.trial import Laboratory

_VERSION = re.compile(r"\d{1,4}(\.\d{1,4}){1,2}")


class Linter:
    """Checks rules against the tables of a `Laboratory`. Close it when it has done its work."""

    def __init__(self, laboratory: Laboratory, lists: Mapping[str, List]) -> None:
        self._columns = {
            name: {"id", *record.__struct_fields__, *record.computed} for name, record in laboratory.classes.items()
        }
        self._connection = laboratory.connection()
        attach_lists(self._connection, dict(lists))
        create_views(self._connection)
        tables = self._columns | {name: set(view.columns) for name, view in VIEWS.items()}
        self._sql = SqlLinter(self._connection, Guard(self._connection), tables, lists, laboratory.events)

    def check(self, file: RuleFile) -> list[Issue]:
        """Return what is wrong with a rule, from the top of its file down."""
        issues = [*self._metadata(file), *self._tables(file), *self._tests(file)]
        if not any(issue.code == "unknown-table" for issue in issues):
            issues += self._sql.check(file)
        return sorted(issues, key=lambda issue: (issue.where.rpartition(":")[0], int(issue.where.rpartition(":")[2])))

    def close(self) -> None:
        """Close the database in memory."""
        self._connection.close()

    def _metadata(self, file: RuleFile) -> Iterator[Issue]:
        rule = file.rule
        if rule.id != file.path.stem:
            hint = f"call the file {rule.id}.toml, or the rule {file.path.stem}"
            yield Issue("error", "id", file.where("id"), f"the rule's id {rule.id!r} is not its file's name", hint)
        for entry in rule.attack:
            if fault := _wrong_technique(entry):
                yield Issue("error", "attack", file.where_of("attack", entry), *fault)
        if not rule.attack:
            hint = 'such as attack = ["T1059.004 Unix Shell"]'
            yield Issue("warning", "attack", file.where("id"), "the rule names no ATT&CK technique", hint)
        if rule.since and not _VERSION.fullmatch(rule.since):
            yield Issue("error", "since", file.where("since"), f"{rule.since!r} is no version", "such as 0.1 or 1.2.3")
        elif rule.since and _version(rule.since) > _version(__version__):
            text = f"the rule needs drakmet {rule.since}, this is {__version__}"
            yield Issue("error", "since", file.where("since"), text, "update drakmet")

    def _tables(self, file: RuleFile) -> Iterator[Issue]:
        for table in file.rule.triggers:
            if table not in self._columns:
                hint = did_you_mean(table, self._columns)
                yield Issue("error", "unknown-table", file.where("from"), f"there is no table {table}", hint)
            elif not {"session", "time"} <= self._columns[table]:
                hint = "take a table of events, or process"
                yield Issue("error", "from", file.where("from"), f"rows of {table} have no session and time", hint)
        if file.rule.once and len(file.rule.triggers) > 1:
            hint = "let the later event be the one in from"
            yield Issue("error", "once", file.where("once"), "once needs a rule with a single table in from", hint)

    def _tests(self, file: RuleFile) -> Iterator[Issue]:
        fires = [test for test in file.rule.tests if test.findings not in (0, [])]
        hint = "see the [[test]] blocks of the bundled rules"
        if not fires:
            yield Issue("error", "tests", file.where("test"), "no test shows what the rule finds", hint)
        if len(fires) == len(file.rule.tests):
            yield Issue("error", "tests", file.where("test"), "no test shows what the rule must not find", hint)


def check_site(site: Site, rules: Iterable[str], today: dt.date) -> Iterator[Issue]:
    """Yield what is doubtful in a site's exceptions."""
    known = list(rules)
    for exemption in site.exceptions:
        if not any(exemption.concerns(rule) for rule in known):
            names = exemption.rule if isinstance(exemption.rule, str) else " ".join(exemption.rule)
            text = f"the exception is for {names}, which no rule is called"
            yield Issue("warning", "exception", exemption.where, text, did_you_mean(names, known))
        if exemption.until and exemption.until < today:
            text = f"the exception ran out on {exemption.until}"
            yield Issue("warning", "exception", exemption.where, text, "remove it, or set another day in until")


def _wrong_technique(entry: str) -> tuple[str, str] | None:
    parts, known = attack.split(entry), attack.techniques()
    if parts is None:
        return f"{entry!r} is no ATT&CK id", "T1059.004 Unix Shell for a technique, TA0002 Execution for a tactic"
    number, name = parts
    if number not in known:
        by_name = [one.entry for one in known.values() if name and one.name.lower() == name.lower()]
        hint = f"did you mean {by_name[0]}?" if by_name else did_you_mean(number, known)
        return f"{number} is not in ATT&CK {attack.VERSION}", hint
    if name is not None and name != known[number].name:
        return f"{number} is not called {name!r}", f"it is {known[number].entry}"
    return None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])
