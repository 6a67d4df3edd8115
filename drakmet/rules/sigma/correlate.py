# SPDX-License-Identifier: GPL-2.0-or-later
"""Correlations: counts and sequences of what other Sigma rules find, in SQL that looks back from the last event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sigma.collection import SigmaCollection
from sigma.correlations import (
    CorrelationConditionAND,
    SigmaCorrelationCondition,
    SigmaCorrelationRule,
    SigmaCorrelationType,
    SigmaExtendedCorrelationCondition,
)
from sigma.exceptions import SigmaRuleNotFoundError
from sigma.rule import SigmaRule

from drakmet.rules.sigma.convert import Part, finished, metadata, part_of
from drakmet.rules.sigma.correlate_sql import counting, in_any_order, in_order
from drakmet.rules.sigma.correlate_tests import tests_of
from drakmet.rules.sigma.refusal import Refused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from drakmet.rules.lists import List
    from drakmet.rules.trial import Laboratory

_LONGEST = 30 * 86_400
_MOST_RULES = 10
_COUNTS = (SigmaCorrelationType.EVENT_COUNT, SigmaCorrelationType.VALUE_COUNT)
_SEQUENCES = (SigmaCorrelationType.TEMPORAL, SigmaCorrelationType.TEMPORAL_ORDERED)


@dataclass(frozen=True, slots=True)
class Correlation:
    """What is counted or follows one another: the parts, by which fields of each they are grouped, and within what."""

    parts: Sequence[Part]
    groups: Sequence[Sequence[str]]
    seconds: int
    least: int = 1
    values: Sequence[str] = ()
    """The field of each part of which different values are counted."""


def resolve(rules: Sequence[Any]) -> set[int]:
    """Find the rules that correlations name; return the ids of those that are only parts of correlations."""
    collection = SigmaCollection([one for one in rules if one is not None], resolve_references=False)
    parts: set[int] = set()
    for rule in collection.rules:
        if isinstance(rule, SigmaCorrelationRule):
            try:
                rule.resolve_rule_references(collection)
            except SigmaRuleNotFoundError:
                continue  # told when it is tried
            if not rule.generate:
                parts |= {id(one.rule) for one in rule.rules or []}
    return parts


def correlated(
    rule: SigmaCorrelationRule, name: str, where: str, lists: Mapping[str, List], laboratory: Laboratory
) -> str:
    """Return the text of a rule file for a correlation; raise `Refused`."""
    asked = _asked(rule, lists)
    ordered = rule.type is SigmaCorrelationType.TEMPORAL_ORDERED
    write = counting if rule.type in _COUNTS else in_order if ordered else in_any_order
    tables, sql = write(asked)
    systems = {part.system for part in asked.parts}
    notes = [note for part in asked.parts for note in part.notes]
    keys = {
        **metadata(rule, name, where, list(dict.fromkeys(notes))),
        "os": systems.pop() if len(systems) == 1 else None,
        "from": tables[0] if len(tables) == 1 else tables,
        "within": f"{asked.seconds}s",
    }
    if rule.type in _COUNTS:
        what = "values" if asked.values else "events"
        keys["once"] = {"by": ["grouped"], "within": f"{asked.seconds}s"}
        keys["parameters"] = {"least": {"default": asked.least, "doc": f"{what} within the time"}}
        keys["message"] = f"{_braced(rule.title)}: {{least}} {what} within {{within}} ({{grouped}})"
    else:
        keys["message"] = f"{_braced(rule.title)} ({{grouped}})"
    return finished(keys, sql, tests_of(asked, ordered=ordered, counts=rule.type in _COUNTS), lists, laboratory)


def _asked(rule: SigmaCorrelationRule, lists: Mapping[str, List]) -> Correlation:
    if rule.type not in (*_COUNTS, *_SEQUENCES):
        raise Refused("modifier", f"correlations of the kind {rule.type.name.lower()} are not imported")
    if not 0 < rule.timespan.seconds <= _LONGEST:
        raise Refused("modifier", f"it looks back {rule.timespan.spec}: at most 30 days are imported")
    references = rule.rules or []
    if missing := ", ".join(one.reference for one in references if not hasattr(one, "rule")):
        raise Refused("rule", f"it names {missing}, which is not among the rules given or was refused")
    named = [one.rule for one in references if isinstance(one.rule, SigmaRule)]
    if len(named) < len(references) or not 0 < len(named) <= _MOST_RULES:
        raise Refused("modifier", f"it correlates correlations, or not 1 to {_MOST_RULES} rules")
    parts = [part_of(one, lists) for one in named]
    if any(part.looks_back for part in parts):
        raise Refused("modifier", "it correlates what itself looks back, at a parent's command line say")
    groups = [[_field(rule, group, reference) for group in rule.group_by or []] for reference in references]
    for part, group in zip(parts, groups, strict=True):
        _known(part, group)
    if rule.type in _SEQUENCES:
        if not _all_of(rule):
            raise Refused("modifier", "it is a sequence of some of its rules, not of all")
        if len(named) < 2:
            raise Refused("condition", "a sequence of a single rule")
        return Correlation(parts, groups, rule.timespan.seconds)
    return _counted(rule, parts, groups)


def _counted(rule: SigmaCorrelationRule, parts: list[Part], groups: list[list[str]]) -> Correlation:
    condition = rule.condition
    if not isinstance(condition, SigmaCorrelationCondition) or condition.op.name not in ("GTE", "GT"):
        raise Refused("modifier", "it counts fewer, or exactly so many: what is not there yet cannot be told")
    least = int(condition.count) + (condition.op.name == "GT" or condition.count != int(condition.count))
    if not 0 < least <= 10_000:
        raise Refused("modifier", f"it counts {least}: 1 to 10,000 are imported")
    values: list[str] = []
    if rule.type is SigmaCorrelationType.VALUE_COUNT:
        if not isinstance(condition.fieldref, str):
            raise Refused("modifier", "it counts the values of several fields")
        values = [_field(rule, condition.fieldref, reference) for reference in rule.rules or []]
        for part, value in zip(parts, values, strict=True):
            _known(part, [value])
    return Correlation(parts, groups, rule.timespan.seconds, least, values)


def _all_of(rule: SigmaCorrelationRule) -> bool:
    condition = rule.condition
    if isinstance(condition, SigmaExtendedCorrelationCondition):
        asked = condition.parsed
        names = [getattr(one, "reference", None) for one in getattr(asked, "args", [])]
        return isinstance(asked, CorrelationConditionAND) and names == [one.reference for one in rule.rules or []]
    # Without a condition pySigma says gte 1, and all are meant.
    least = condition.count + (condition.op.name == "GT")
    return condition.op.name in ("GTE", "GT", "EQ") and least in (1, len(rule.rules or []))


def _field(rule: SigmaCorrelationRule, group: str, reference: Any) -> str:
    """Return what a group's field is called in the events of a rule."""
    alias = rule.aliases.aliases.get(group)
    if alias is None:
        return group
    found = next((name for one, name in alias.mapping.items() if one.reference == reference.reference), None)
    if found is None:
        raise Refused("rule", f"the alias {group} does not say what it is in {reference.reference}")
    return found


# Who and where: our sessions are of one guest each.
_GUEST = ("Computer", "ComputerName", "Hostname", "host", "hostname")


def _known(part: Part, names: Sequence[str]) -> None:
    for name in names:
        field = part.source.fields.get(name)
        if name not in _GUEST and (field is None or field.looks_back):
            raise Refused("field", f"it groups by {name}, which our records do not have")


def _braced(text: str) -> str:
    return " ".join(text.split()).replace("{", "{{").replace("}", "}}")
