# SPDX-License-Identifier: GPL-2.0-or-later
"""A text in which a regular expression is found."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

# What Python's own compiler makes of a pattern: the same in 3.11 to 3.14, though typeshed does not tell of it.
op: Any = import_module("re._constants")
parser: Any = import_module("re._parser")

_CATEGORIES = {
    op.CATEGORY_DIGIT: "0",
    op.CATEGORY_SPACE: " ",
    op.CATEGORY_WORD: "a",
    op.CATEGORY_NOT_DIGIT: "a",
    op.CATEGORY_NOT_SPACE: "a",
    op.CATEGORY_NOT_WORD: "-",
}
_TRIED = "ab0-_ x/.,:;=+!A"
_LONGEST = 5_000


def sample(pattern: str, flags: str = "") -> str | None:
    """Return a text that a pattern should be found in, ``None`` if none is known. It is for the caller to try it."""
    bits = sum({"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL}[flag] for flag in flags)
    try:
        return _sequence(parser.parse(pattern, bits), {})
    except (re.error, RecursionError, OverflowError, KeyError):
        return None


def _sequence(items: Any, groups: dict[int, str]) -> str:
    text = "".join(_one(kind, value, groups) for kind, value in items)
    if len(text) > _LONGEST:
        raise OverflowError("longer than what is worth a test")
    return text


def _one(kind: Any, value: Any, groups: dict[int, str]) -> str:
    if kind is op.LITERAL:
        return chr(value)
    if kind is op.NOT_LITERAL:
        return next(one for one in _TRIED if ord(one) != value)
    if kind is op.ANY:
        return "x"
    if kind is op.IN:
        return _member(value)
    if kind is op.BRANCH:
        return _sequence(value[1][0], groups)
    if kind is op.SUBPATTERN:
        text = _sequence(value[3], groups)
        groups[value[0]] = text
        return text
    if kind in (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT):
        least, _, what = value
        return _sequence(what, groups) * int(min(least, _LONGEST))
    if kind is op.GROUPREF:
        return groups[value]
    if kind is op.ATOMIC_GROUP:
        return _sequence(value, groups)
    if kind is op.AT and value is op.AT_NON_BOUNDARY:
        return ""
    return ""


def _member(choices: Any) -> str:
    if choices and choices[0][0] is op.NEGATE:
        return next((one for one in _TRIED if not any(_has(choice, one) for choice in choices[1:])), "\u00e9")
    kind, value = choices[0]
    if kind is op.LITERAL:
        return chr(value)
    return chr(value[0]) if kind is op.RANGE else _CATEGORIES[value]


def _has(choice: tuple[Any, Any], character: str) -> bool:
    kind, value = choice
    if kind is op.LITERAL:
        return bool(ord(character) == value)
    if kind is op.RANGE:
        return bool(value[0] <= ord(character) <= value[1])
    word, digit, space = character.isalnum() or character == "_", character.isdigit(), character.isspace()
    found: dict[Any, bool] = {
        op.CATEGORY_DIGIT: digit,
        op.CATEGORY_NOT_DIGIT: not digit,
        op.CATEGORY_SPACE: space,
        op.CATEGORY_NOT_SPACE: not space,
        op.CATEGORY_WORD: word,
        op.CATEGORY_NOT_WORD: not word,
    }
    return found[value]
