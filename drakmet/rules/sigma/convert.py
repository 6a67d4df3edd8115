# SPDX-License-Identifier: GPL-2.0-or-later
"""One Sigma rule made one of ours: its keys, its SQL, its tests, and whether the SQL does what the rule says."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drakmet import __version__
from drakmet.rules import attack
from drakmet.rules.fmt import formatted
from drakmet.rules.format import RuleFile
from drakmet.rules.sigma import toml
from drakmet.rules.sigma.events import Maker, regular_expressions
from drakmet.rules.sigma.fields import source_of
from drakmet.rules.sigma.match import compiled, fits
from drakmet.rules.sigma.parse import condition
from drakmet.rules.sigma.refusal import Refused
from drakmet.rules.sigma.rows import judged, rows_of
from drakmet.rules.sigma.sql import Writer
from drakmet.rules.sigma.translate import translated
from drakmet.rules.sigma.tree import fields

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sigma.rule import SigmaRule

    from drakmet.rules.lists import List
    from drakmet.rules.sigma.fields import Source
    from drakmet.rules.sigma.match import Event
    from drakmet.rules.sigma.tree import Node
    from drakmet.rules.trial import Laboratory

LOOK_BACK = "1d"
"""How far back a process' own start is looked for."""

HEAD = "# Made by `drakmet rules import sigma`: what is changed here is lost when it is imported again.\n\n"
_MOST_FITTING, _MOST_NEAR = 4, 6
_SLUG = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Part:
    """What a Sigma rule asks for, in terms of a table of ours."""

    source: Source
    system: str | None
    node: Node
    sql: str
    notes: Sequence[str]

    @property
    def windows(self) -> bool:
        """Whether it is about Windows guests."""
        return self.system == "windows"

    @property
    def looks_back(self) -> bool:
        """Whether it asks for what happened before."""
        return any(self.source.fields[name].looks_back for name in fields(self.node))


def part_of(rule: SigmaRule, lists: Mapping[str, List]) -> Part:
    """Return what a rule asks for; raise `Refused`."""
    log = rule.logsource
    source, system = source_of(log.product, log.category, log.service)
    values = {name: one.values for name, one in lists.items() if one.values}
    asked = translated(condition(rule, values), source)
    for expression in regular_expressions(asked.node):
        try:
            compiled(expression)
        except ValueError as error:
            raise Refused("regular expression", f"{error}: {expression.pattern!r:.100}") from error
    written = Writer(source.fields, windows=system == "windows").write(asked.node)
    notes = list(asked.notes)
    if source.meaning:
        notes.append(f"{log.category} is here: {source.meaning}")
    return Part(source, system, asked.node, written, notes)


def converted(rule: SigmaRule, name: str, where: str, lists: Mapping[str, List], laboratory: Laboratory) -> str:
    """Return the text of a rule file for a Sigma rule; raise `Refused`."""
    part = part_of(rule, lists)
    source = part.source
    conditions = [*source.where, part.sql if " OR " not in part.sql or part.sql[0] == "(" else f"({part.sql})"]
    sql = (
        f"SELECT s.id, {source.told}\nFROM {source.table} AS s\n"
        f"LEFT JOIN process AS p ON p.id = s.process\nWHERE {conditions[0]}"
    ) + "".join(f"\n  AND {one}" for one in conditions[1:])
    keys = {
        **metadata(rule, name, where, part.notes),
        "os": part.system,
        "from": source.table,
        "within": LOOK_BACK if part.looks_back else None,
        "message": source.message,
    }
    return finished(keys, sql, _tests(part), lists, laboratory)


def finished(
    keys: Mapping[str, Any],
    sql: str,
    tests: Sequence[Mapping[str, Any]],
    lists: Mapping[str, List],
    laboratory: Laboratory,
) -> str:
    """Return the text of a rule file, having run its tests; raise `Refused` if one fails."""
    path = Path(f"{keys['id']}.toml")
    file = RuleFile(path, HEAD + toml.document(keys, sql, tests))
    for verdict in laboratory.try_rule(file, lists):
        if verdict.fault:
            raise Refused("test", f"what SQL finds is not what the rule says: {verdict.fault}"[:500])
    return formatted(file)


def metadata(rule: Any, name: str, where: str, notes: Sequence[str]) -> dict[str, Any]:
    """Return the keys of a rule file that tell about a Sigma rule."""
    entries, tags, unknown = _tags(rule.tags)
    notes = [*notes, *([f"not in ATT&CK {attack.VERSION}: {', '.join(unknown)}"] if unknown else [])]
    if rule.level is None:
        notes.append("it has no level; medium is ours")
    status = rule.status.name.lower() if rule.status else "experimental"
    return {
        "id": name,
        "title": _line(rule.title),
        "level": rule.level.name.lower() if rule.level else "medium",
        "status": status if status in ("experimental", "test", "stable", "deprecated") else "experimental",
        "description": (rule.description or rule.title).strip(),
        "attack": entries,
        "tags": tags,
        "references": [str(one) for one in rule.references or []],
        "false_positives": [str(one) for one in rule.falsepositives or []],
        "since": ".".join(__version__.split(".")[:2]),
        "author": rule.author,
        "license": rule.license,
        "date": _date(rule.date),
        "modified": _date(rule.modified),
        "source": f"Sigma {rule.id or ''} {where}".replace("  ", " "),
        "notes": notes,
    }


def slug(text: str) -> str:
    """Return a rule's id out of a file's name or a title."""
    return "sigma-" + (_SLUG.sub("-", text.lower()).strip("-") or "rule")[:80]


def _tags(tags: Sequence[Any]) -> tuple[list[str], list[str], list[str]]:
    known = attack.techniques()
    tactics = {one.name.lower().replace(" ", "-"): one for one in known.values() if one.id.startswith("TA")}
    entries, others, unknown = [], [], []
    for tag in tags:
        name = tag.name.lower().replace("_", "-")
        if tag.namespace != "attack" or re.fullmatch(r"[gsc]\d{4}", name):
            others.append(f"{tag.namespace}.{tag.name}")
        elif (technique := known.get(name.upper()) or tactics.get(name)) is not None:
            entries.append(technique.entry)
        else:
            unknown.append(tag.name)
    return list(dict.fromkeys(entries)), others, unknown


def _tests(part: Part) -> list[dict[str, Any]]:
    maker = Maker(part.source.fields, windows=part.windows)
    fitting = maker.fitting(part.node, _MOST_FITTING)
    if not fitting:
        raise Refused("test", "no event could be made that the condition is true of")
    # An event may bring another with it, its parent's start, that fits as well.
    near = [event for event in maker.near(part.node, fitting, _MOST_NEAR) if not _findings(part, [event])]
    return [
        _test("what the condition asks for", part, fitting),
        _test("what comes near it, or is excepted", part, near),
    ]


def _test(title: str, part: Part, events: list[Event]) -> dict[str, Any]:
    rows = rows_of(part.source, events, windows=part.windows)
    return {"title": title, "rows": rows, "findings": _findings(part, events)}


def _findings(part: Part, events: list[Event]) -> int:
    rows = rows_of(part.source, events, windows=part.windows)
    return sum(fits(part.node, event) for event in judged(part.source, rows, events, part.source.fields))


def _date(value: Any) -> dt.date | None:
    return value.date() if isinstance(value, dt.datetime) else value


def _line(text: str) -> str:
    return " ".join(text.split()) or "untitled"
