# SPDX-License-Identifier: GPL-2.0-or-later
"""What pySigma read, as a `tree`. The only place that knows pySigma's conditions and values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sigma import conditions, types

from drakmet.rules.sigma.refusal import Refused
from drakmet.rules.sigma.tree import (
    And,
    Atom,
    Cidr,
    Node,
    Not,
    Null,
    Number,
    Or,
    Present,
    Regex,
    Same,
    Test,
    Text,
    Wild,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sigma.rule import SigmaRule

_DEEPEST = 60
_OPERATORS = {
    types.CompareOperators.LT: "<",
    types.CompareOperators.LTE: "<=",
    types.CompareOperators.GT: ">",
    types.CompareOperators.GTE: ">=",
}
_FLAGS = {
    types.SigmaRegularExpressionFlag.IGNORECASE: "i",
    types.SigmaRegularExpressionFlag.MULTILINE: "m",
    types.SigmaRegularExpressionFlag.DOTALL: "s",
}
_WILD = {types.SpecialChars.WILDCARD_MULTI: Wild.ANY, types.SpecialChars.WILDCARD_SINGLE: Wild.ONE}


def condition(rule: SigmaRule, lists: Mapping[str, Iterable[Any]]) -> Node:
    """Return what a rule asks for; ``lists`` are what may stand for placeholders (``%name%``).

    Several conditions are one of them. Raises `Refused` for what cannot be said, and pySigma's errors.
    """
    parsed = [one.parse() for one in rule.detection.parsed_condition]
    made = tuple(_node(one, lists, 0) for one in parsed)
    return made[0] if len(made) == 1 else Or(made)


def _node(item: Any, lists: Mapping[str, Iterable[Any]], depth: int) -> Node:
    if depth > _DEEPEST:
        raise Refused("condition", "the condition is nested too deeply")
    if isinstance(item, conditions.ConditionNOT):
        return Not(_node(item.args[0], lists, depth + 1))
    if isinstance(item, conditions.ConditionAND):
        return And(tuple(_node(one, lists, depth + 1) for one in item.args))
    if isinstance(item, conditions.ConditionOR):
        return Or(tuple(_node(one, lists, depth + 1) for one in item.args))
    if isinstance(item, conditions.ConditionFieldEqualsValueExpression):
        return _value(item.field, item.value, lists)
    if isinstance(item, conditions.ConditionValueExpression):
        return _value(None, item.value, lists)
    raise Refused("condition", "the condition asks for nothing")


def _value(field: str | None, value: types.SigmaType, lists: Mapping[str, Iterable[Any]]) -> Node:
    if isinstance(value, types.SigmaExpansion):
        return Or(tuple(_value(field, one, lists) for one in value.values))
    if isinstance(value, types.SigmaExists):
        present = Atom(field, Present())
        return present if value else Not(present)
    if isinstance(value, types.SigmaString | types.SigmaRegularExpression) and value.contains_placeholder():
        return _expanded(field, value, lists)
    if isinstance(value, types.SigmaCompareExpression) and value.op not in _OPERATORS:
        return Not(Atom(field, Number("=", value.number.number)))
    return Atom(field, _test(value))


def _test(value: types.SigmaType) -> Test:
    if isinstance(value, types.SigmaString):
        parts = tuple(part if isinstance(part, str) else _WILD[part] for part in value.s)  # type: ignore[index]
        return Text(parts or ("",), cased=isinstance(value, types.SigmaCasedString))
    if isinstance(value, types.SigmaTimestampPart):
        raise Refused("modifier", "it asks for a part of a time of day, which our rules cannot")
    if isinstance(value, types.SigmaNumber):
        return Number("=", value.number)
    if isinstance(value, types.SigmaBool):
        return Text(("true" if value.boolean else "false",))
    if isinstance(value, types.SigmaNull):
        return Null()
    if isinstance(value, types.SigmaRegularExpression):
        return Regex(value.regexp.to_plain(), "".join(sorted(_FLAGS[flag] for flag in value.flags)))
    if isinstance(value, types.SigmaCIDRExpression):
        return Cidr(str(value.network))
    if isinstance(value, types.SigmaCompareExpression):
        return Number(_OPERATORS[value.op], value.number.number)
    if isinstance(value, types.SigmaFieldReference):
        return Same(value.field, value.starts_with, value.ends_with)
    raise Refused("modifier", f"it has a value of the kind {type(value).__name__}")


def _expanded(
    field: str | None, value: types.SigmaString | types.SigmaRegularExpression, lists: Mapping[str, Iterable[Any]]
) -> Node:
    """Return one test for each value of the list that a placeholder names."""

    def values(placeholder: types.Placeholder) -> Iterator[Any]:
        name = re.sub("[^a-z0-9]+", "_", placeholder.name.lower()).strip("_")
        if name not in lists:
            raise Refused(
                "placeholder",
                f"%{placeholder.name}% is to be replaced by values of your site: write them into "
                f"lists/{name}.toml in the directory of --output, and import again",
            )
        yield from map(str, lists[name])

    filled = value.replace_placeholders(values)
    return Or(tuple(Atom(field, _test(one)) for one in filled))
