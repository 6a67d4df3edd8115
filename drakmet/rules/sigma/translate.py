# SPDX-License-Identifier: GPL-2.0-or-later
"""A condition in terms of what our records have."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drakmet.rules.sigma.fields import Field, Kind, Source
from drakmet.rules.sigma.refusal import Refused
from drakmet.rules.sigma.tree import Atom, Node, Null, Number, Or, Present, Regex, Same, Text, Wild, replaced

if TYPE_CHECKING:
    from collections.abc import Sequence

_CONTAINED = (Wild.ANY,)


@dataclass(frozen=True, slots=True)
class Translated:
    """A condition over our fields, and what is to be told of fields that could not be mapped."""

    node: Node
    notes: Sequence[str]


def translated(node: Node, source: Source) -> Translated:
    """Return a condition over the fields of a log source; raise `Refused` if nothing of it is left.

    What asks for a field that our records lack counts as not fulfilled, and where it excepts something as fulfilled:
    the rule finds less, and nothing that the Sigma rule would not.
    """
    wanted, excepted = Counter[str](), Counter[str]()

    def missing(name: str, where_wanted: bool) -> bool:
        (wanted if where_wanted else excepted)[name] += 1
        return not where_wanted

    def replace(atom: Atom, where_wanted: bool) -> Node:
        if atom.field is None:
            return _keyword(atom, source)
        test = atom.test
        for name in (atom.field, *([test.field] if isinstance(test, Same) else [])):
            if name not in source.fields and name not in source.constant:
                return missing(name, where_wanted)
        if atom.field in source.constant:
            from drakmet.rules.sigma.match import fits

            return fits(atom, source.constant)
        if isinstance(test, Same) and test.field in source.constant:
            return replace(Atom(atom.field, Text((source.constant[test.field],))), where_wanted)
        made = _in_our_values(atom, source.fields[atom.field])
        return missing(f"{atom.field} (other than root)", where_wanted) if made is None else made

    left = replaced(node, replace)
    names = sorted({*wanted, *excepted})
    if isinstance(left, bool):
        if left:
            raise Refused("condition", "the condition is true of every event")
        if not names:
            raise Refused("condition", "the condition cannot be true")
        lacking = [name for name in names if name in wanted] or names
        only = " only excepts events by" if not wanted else " needs"
        raise Refused("field", f"it{only} {', '.join(lacking)}, which our records do not have")
    return Translated(left, list(_notes(wanted, excepted)))


def _notes(wanted: Counter[str], excepted: Counter[str]) -> list[str]:
    notes = []
    if wanted:
        notes.append(f"not mapped: {', '.join(sorted(wanted))}; what asks for them counts as not fulfilled")
    if excepted:
        notes.append(
            f"not mapped in exceptions: {', '.join(sorted(excepted))}; what asks for them there counts as fulfilled"
        )
    return notes


def _in_our_values(atom: Atom, field: Field) -> Node | None:
    """Return a test in our own values; ``None`` if they do not tell."""
    test = atom.test
    if field.names is not None:
        return _named(atom, field)
    if field.kind is Kind.NUMBER:
        if isinstance(test, Text) and test.literal is not None:
            digits = test.literal.isascii() and test.literal.isdecimal() and len(test.literal) < 19
            return Atom(atom.field, Number("=", int(test.literal))) if digits else False
        if isinstance(test, Number) and abs(test.number) >= 1 << 63:
            return False
        return atom
    if isinstance(test, Number):
        if test.op != "=":
            raise Refused("modifier", f"it compares {atom.field}, which is text, with a number")
        return Atom(atom.field, Text((str(test.number),)))
    return atom


def _named(atom: Atom, field: Field) -> Node | None:
    test = atom.test
    if isinstance(test, Null | Present):
        return atom
    literal = test.literal if isinstance(test, Text) else None
    known = (field.names or {}).get((literal or "").casefold())
    if known is None:
        return None
    return Atom(atom.field, Text((known,)) if isinstance(known, str) else Number("=", known))


def _keyword(atom: Atom, source: Source) -> Node:
    """Return a search in all texts of an event."""
    test = atom.test
    if isinstance(test, Number):
        test = Text((str(test.number),))
    if isinstance(test, Text):
        test = Text((*_CONTAINED, *test.parts, *_CONTAINED), test.cased)
    elif not isinstance(test, Regex):
        raise Refused("modifier", "it looks in all fields for something that is no text")
    names = [
        name
        for name, field in source.fields.items()
        if field.kind is not Kind.NUMBER and field.names is None and not field.looks_back
    ]
    return Or(tuple(Atom(name, test) for name in names))
