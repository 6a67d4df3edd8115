# SPDX-License-Identifier: GPL-2.0-or-later
"""What a rule asks of an event: a tree of conditions on fields, and what is left of it where fields are missing."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Wild(enum.Enum):
    """What stands for other text in a pattern."""

    ANY = "*"
    ONE = "?"


@dataclass(frozen=True, slots=True)
class Text:
    """The value is a text that fits a pattern; unless ``cased``, capital letters do not matter."""

    parts: tuple[str | Wild, ...]
    cased: bool = False

    @property
    def literal(self) -> str | None:
        """The whole text, if the pattern has nothing that stands for other text."""
        if any(isinstance(part, Wild) for part in self.parts):
            return None
        return "".join(str(part) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Number:
    """The value is a number for which ``value op number`` holds; ``op`` is as in SQL."""

    op: str
    number: int | float


@dataclass(frozen=True, slots=True)
class Null:
    """There is no value."""


@dataclass(frozen=True, slots=True)
class Present:
    """There is a value."""


@dataclass(frozen=True, slots=True)
class Regex:
    """A regular expression is found in the value; ``flags`` are some of i, m and s."""

    pattern: str
    flags: str = ""


@dataclass(frozen=True, slots=True)
class Cidr:
    """The value is an IP address in a network."""

    network: str


@dataclass(frozen=True, slots=True)
class Same:
    """The value is another field's, or begins or ends with it."""

    field: str
    starts: bool = False
    ends: bool = False


Test = Text | Number | Null | Present | Regex | Cidr | Same


@dataclass(frozen=True, slots=True)
class Atom:
    """A test of a field; without a field, of any of them (a keyword)."""

    field: str | None
    test: Test


@dataclass(frozen=True, slots=True)
class And:
    """All of them hold."""

    of: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """One of them holds."""

    of: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """It does not hold; a value that is not there fits no test but `Null`."""

    of: Node


Node = Atom | And | Or | Not | bool


def fields(node: Node) -> Iterator[str]:
    """Yield the fields that a condition asks for, as often as it does."""
    for atom in atoms(node):
        if atom.field is not None:
            yield atom.field
        if isinstance(atom.test, Same):
            yield atom.test.field


def atoms(node: Node) -> Iterator[Atom]:
    """Yield all tests in a condition."""
    if isinstance(node, Atom):
        yield node
    elif isinstance(node, Not):
        yield from atoms(node.of)
    elif isinstance(node, And | Or):
        for one in node.of:
            yield from atoms(one)


def replaced(node: Node, by: Callable[[Atom, bool], Node], wanted: bool = True) -> Node:
    """Return a condition with each test replaced; ``by`` gets it, and whether it is wanted or excepted."""
    if isinstance(node, Atom):
        return by(node, wanted)
    if isinstance(node, Not):
        inner = replaced(node.of, by, not wanted)
        return not inner if isinstance(inner, bool) else Not(inner)
    if isinstance(node, And | Or):
        return _joined(type(node), [replaced(one, by, wanted) for one in node.of])
    return node


def _joined(kind: type[And | Or], parts: list[Node]) -> Node:
    """Return parts joined, without those that change nothing and without brackets in brackets."""
    decides = kind is Or
    kept: list[Node] = []
    for part in parts:
        if isinstance(part, bool):
            if part is decides:
                return part
        else:
            kept += part.of if isinstance(part, kind) else (part,)
    kept = list(dict.fromkeys(kept))
    if not kept:
        return not decides
    return kept[0] if len(kept) == 1 else kind(tuple(kept))
