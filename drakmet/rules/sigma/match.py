# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether an event fits a condition, said without SQL: what the SQL of an imported rule is held against.

An event is a dict of Sigma's fields; its texts are as the guest has them, not guest text.
"""

from __future__ import annotations

import functools
import ipaddress
import operator
import re
from typing import TYPE_CHECKING, Any

from drakmet.rules.sigma.tree import And, Atom, Cidr, Node, Not, Null, Number, Or, Present, Regex, Same, Text, Wild

if TYPE_CHECKING:
    from collections.abc import Mapping

Event = dict[str, Any]

_COMPARE = {"=": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def fits(node: Node, event: Mapping[str, Any]) -> bool:
    """Tell whether an event fits a condition."""
    if isinstance(node, And):
        return all(fits(one, event) for one in node.of)
    if isinstance(node, Or):
        return any(fits(one, event) for one in node.of)
    if isinstance(node, Not):
        return not fits(node.of, event)
    return _atom(node, event) if isinstance(node, Atom) else node


def _atom(atom: Atom, event: Mapping[str, Any]) -> bool:
    value, test = event.get(str(atom.field)), atom.test
    if isinstance(test, Null) or value is None:
        return isinstance(test, Null) and value is None
    if isinstance(test, Present):
        return True
    if isinstance(test, Number):
        return bool(_COMPARE[test.op](value, test.number))
    if isinstance(test, Cidr):
        try:
            return ipaddress.ip_address(str(value)) in ipaddress.ip_network(test.network, strict=False)
        except ValueError:
            return False
    if isinstance(test, Same):
        return _same(str(value).casefold(), event.get(test.field), test)
    if isinstance(test, Regex):
        return compiled(test).search(str(value)) is not None
    return pattern(test).fullmatch(str(value)) is not None


def _same(one: str, other: Any, test: Same) -> bool:
    if other is None:
        return False
    other = str(other).casefold()
    if test.starts and test.ends:
        return other in one
    return one.startswith(other) if test.starts else one.endswith(other) if test.ends else one == other


@functools.lru_cache(maxsize=4096)
def pattern(test: Text) -> re.Pattern[str]:
    """Return the regular expression of a pattern."""
    wild = {Wild.ANY: ".*", Wild.ONE: "."}
    parts = (wild[part] if isinstance(part, Wild) else re.escape(part) for part in test.parts)
    return re.compile("".join(parts), re.DOTALL if test.cased else re.DOTALL | re.IGNORECASE)


@functools.lru_cache(maxsize=1024)
def compiled(test: Regex) -> Any:
    """Return a regular expression that takes a time linear in the text; raise `ValueError` if RE2 does not take it."""
    from drakmet.store.functions import regular_expression

    made = regular_expression((f"(?{test.flags})" if test.flags else "") + test.pattern)
    if made is None:
        raise ValueError("RE2 does not take it")
    return made
