# SPDX-License-Identifier: GPL-2.0-or-later
"""A condition in SQL that a person can read, with as little Python called for a row as can be."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from drakmet.rules.sigma.fields import Field, Kind
from drakmet.rules.sigma.refusal import Refused
from drakmet.rules.sigma.tree import And, Atom, Cidr, Node, Not, Null, Number, Or, Present, Regex, Same, Text, Wild
from drakmet.text import escape

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_LONGEST_PATTERN = 480
_MOST_IN_A_ROW = 40
_DRIVE = re.compile(r"[A-Za-z]:\\")
_ESCAPE = "^"
_COSTS = ((Null, 0), (Present, 0), (Number, 1), (Text, 2), (Same, 3), (Cidr, 6), (Regex, 8))
Parts = tuple[str | Wild, ...]


class Writer:
    """Writes conditions over the fields of one log source."""

    def __init__(self, fields: Mapping[str, Field], *, windows: bool) -> None:
        self._fields, self._windows = fields, windows

    def write(self, node: Node) -> str:
        """Return a condition that holds or does not, and is never null where it is asked whether it does not."""
        return self._write(node, 0)

    def _write(self, node: Node, depth: int) -> str:
        if isinstance(node, And):
            parts = sorted(node.of, key=self._cost)
            return self._joined([self._bracketed(one, depth) for one in parts], "AND", depth)
        if isinstance(node, Or):
            return self._joined(list(self._alternatives(node, depth)), "OR", depth)
        if isinstance(node, Not):
            if isinstance(node.of, Atom) and isinstance(node.of.test, Null):
                return f"{self._fields[str(node.of.field)].sql} IS NOT NULL"
            if isinstance(node.of, Atom) and isinstance(node.of.test, Present):
                return f"{self._fields[str(node.of.field)].sql} IS NULL"
            return f"({self._write(node.of, depth + 1)}) IS NOT TRUE"
        if isinstance(node, Atom):
            return self._atom(node)
        return "TRUE" if node else "FALSE"

    def _bracketed(self, node: Node, depth: int) -> str:
        text = self._write(node, depth + 1)
        several = isinstance(node, Or | And) or (isinstance(node, Atom) and " OR " in text and text[0] != "(")
        return f"({text})" if several else text

    def _joined(self, parts: Sequence[str], word: str, depth: int) -> str:
        """Join parts, by the dozen in brackets: SQLite's tree of a long row of ORs is as deep as it is long."""
        if len(parts) > _MOST_IN_A_ROW:
            groups = [parts[at : at + _MOST_IN_A_ROW] for at in range(0, len(parts), _MOST_IN_A_ROW)]
            parts = [f"({self._joined(group, word, depth + 1)})" for group in groups]
        if sum(map(len, parts)) < 100 - 2 * depth and not any("\n" in part for part in parts):
            return f" {word} ".join(parts)
        return f"\n{'  ' * (depth + 1)}{word} ".join(parts)

    def _alternatives(self, node: Or, depth: int) -> Iterator[str]:
        """Yield alternatives, whole texts of one field together."""
        whole: dict[str, list[str]] = {}
        numbers: dict[str, list[str]] = {}
        rest: list[Node] = []
        for one in node.of:
            name, test = (one.field, one.test) if isinstance(one, Atom) else (None, None)
            if name and isinstance(test, Text) and self._is_plain_text(name, test):
                whole.setdefault(name, []).append(self._quoted(str(test.literal), name))
            elif name and isinstance(test, Number) and test.op == "=":
                numbers.setdefault(name, []).append(repr(test.number))
            else:
                rest.append(one)
        for name, values in numbers.items():
            yield f"{self._fields[name].sql} " + (f"IN ({', '.join(values)})" if values[1:] else f"= {values[0]}")
        for name, values in whole.items():
            sql = self._fields[name].sql
            yield (
                f"{sql} COLLATE NOCASE IN ({', '.join(values)})"
                if values[1:]
                else f"{sql} = {values[0]} COLLATE NOCASE"
            )
        for one in sorted(rest, key=self._cost):
            yield self._bracketed(one, depth) if isinstance(one, And) else self._write(one, depth + 1)

    def _is_plain_text(self, name: str, test: Text) -> bool:
        literal = test.literal
        drive = self._windows and self._fields[name].kind is Kind.PATH and _DRIVE.match(literal or "")
        return literal is not None and not test.cased and not _has_other_capitals(literal) and not drive

    def _atom(self, atom: Atom) -> str:
        name, test = str(atom.field), atom.test
        sql = self._fields[name].sql
        if isinstance(test, Null):
            return f"{sql} IS NULL"
        if isinstance(test, Present):
            return f"{sql} IS NOT NULL"
        if isinstance(test, Number):
            return f"{sql} {test.op} {test.number!r}"
        if isinstance(test, Cidr):
            return f"ip_in({sql}, {_quote(test.network)})"
        if isinstance(test, Regex):
            flags = f"(?{test.flags})" if test.flags else ""
            return f"matches({sql}, {_quote(flags + test.pattern)})"
        if isinstance(test, Same):
            return self._same(sql, self._fields[test.field].sql, test)
        return " OR ".join(self._text(sql, parts, test.cased, name) for parts in self._spellings(name, test.parts))

    def _same(self, one: str, other: str, test: Same) -> str:
        if test.starts and test.ends:
            return f"instr(casefold({one}), casefold({other})) > 0"
        if test.starts:
            return f"substr({one}, 1, length({other})) = {other} COLLATE NOCASE"
        if test.ends:
            return f"substr({one}, max(1, 1 + length({one}) - length({other}))) = {other} COLLATE NOCASE"
        return f"{one} = {other} COLLATE NOCASE"

    def _spellings(self, name: str, parts: Parts) -> list[Parts]:
        r"""Return how else a Windows path with a drive is written: ``\??\C:\x``, ``\Device\HarddiskVolume1\x``, ``\x``.

        A device's path does not tell the drive: any volume fits.
        """
        place = next((at for at, part in enumerate(parts) if isinstance(part, str)), None)
        if not self._windows or self._fields[name].kind is not Kind.PATH or place not in (0, 1):
            return [parts]
        first = str(parts[place])
        if not _DRIVE.match(first) or (place == 1 and parts[0] is Wild.ONE):
            return [parts]
        device: Parts = (*parts[:place], "\\Device\\HarddiskVolume", Wild.ONE, first[2:], *parts[place + 1 :])
        if place:
            return [parts, device]
        return [parts, ("\\??\\" + first, *parts[1:]), device, (first[2:], *parts[1:])]

    def _text(self, sql: str, parts: Parts, cased: bool, name: str) -> str:
        parts = tuple(
            part
            for part, before in zip(parts, (None, *parts), strict=False)
            if part != "" and not (part is before is Wild.ANY)
        ) or ("",)
        if all(part is Wild.ANY for part in parts):
            return f"{sql} IS NOT NULL"
        plain = self._fields[name].kind is Kind.PLAIN
        literal = Text(parts).literal
        folded = not cased and any(isinstance(part, str) and _has_other_capitals(part) for part in parts)
        if folded:
            # LIKE and NOCASE know the capitals of ASCII only.
            sql = f"casefold({sql})"
            parts = tuple(part.casefold() if isinstance(part, str) else part for part in parts)
            literal = literal and literal.casefold()
        if literal is not None:
            quoted = self._quoted(literal, name)
            return f"{sql} = {quoted}" + ("" if cased or folded else " COLLATE NOCASE")
        word, pattern = ("GLOB", _glob(parts, plain)) if cased else ("LIKE", _like(parts, plain))
        if len(pattern.encode()) > _LONGEST_PATTERN:
            return self._long(sql, parts, cased or folded, plain)
        escaped = f" ESCAPE '{_ESCAPE}'" if not cased and _ESCAPE in pattern else ""
        return f"{sql} {word} {_quote(pattern)}{escaped}"

    def _long(self, sql: str, parts: Parts, cased: bool, plain: bool) -> str:
        """Write what is too long for a pattern, if it is a single text that is to be contained."""
        if len(parts) != 3 or not isinstance(parts[1], str):
            raise Refused("modifier", f"a pattern has more than {_LONGEST_PATTERN} bytes")
        literal = parts[1] if cased else parts[1].casefold()
        return f"instr({sql if cased else f'casefold({sql})'}, {_quote(literal if plain else escape(literal))}) > 0"

    def _quoted(self, literal: str, name: str) -> str:
        return _quote(literal if self._fields[name].kind is Kind.PLAIN else escape(literal))

    def _cost(self, node: Node) -> int:
        if isinstance(node, Atom):
            cost = next(cost for kind, cost in _COSTS if isinstance(node.test, kind))
            field = self._fields[str(node.field)]
            computed = "(" in field.sql and not field.looks_back
            return cost + (2 if computed else 0) + (2 if field.sql.startswith("p.") else 0) + 20 * field.looks_back
        if isinstance(node, Not):
            return self._cost(node.of) + 1
        return max(map(self._cost, node.of)) + 1 if isinstance(node, And | Or) else 0


def _has_other_capitals(text: str) -> bool:
    """Tell whether a text has letters whose capitals LIKE and NOCASE do not know: those beyond ASCII."""
    return any(not one.isascii() and (one.casefold() != one or one.upper() != one) for one in text)


def _like(parts: Parts, plain: bool) -> str:
    def written(part: str | Wild) -> str:
        if isinstance(part, Wild):
            return "%" if part is Wild.ANY else "_"
        return re.sub(r"[%_^]", lambda match: _ESCAPE + match[0], part if plain else escape(part))

    return "".join(map(written, parts))


def _glob(parts: Parts, plain: bool) -> str:
    def written(part: str | Wild) -> str:
        if isinstance(part, Wild):
            return part.value
        return re.sub(r"[*?\[]", lambda match: f"[{match[0]}]", part if plain else escape(part))

    return "".join(map(written, parts))


def _quote(text: str) -> str:
    if not text.isprintable():
        # What a person does not see is written as JSON says it.
        return f"json_extract({_quote(json.dumps(text))}, '$')"
    return "'" + text.replace("'", "''") + "'"
