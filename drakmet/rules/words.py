# SPDX-License-Identifier: GPL-2.0-or-later
"""Words of SQL, and what somebody may have meant by a wrong one."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))|(?P<string>'(?:[^']|'')*')|(?P<quoted>"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\])"""
    r"""|(?P<parameter>[:@$][A-Za-z_]\w*|\?\d*)|(?P<name>[A-Za-z_]\w*)|(?P<number>\d[\w.]*)|(?P<dot>\.)|(?P<other>\S)""",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Token:
    """A word of SQL: its kind (a group of the pattern above), its text, and the offset of its line from the first."""

    kind: str
    text: str
    line: int


def tokens(sql: str) -> Iterator[Token]:
    """Yield the words of SQL, without comments."""
    line, end = 0, 0
    for match in _TOKEN.finditer(sql):
        line += sql.count("\n", end, match.start())
        end = match.start()
        if match.lastgroup != "comment":
            yield Token(match.lastgroup or "other", match.group(), line)


def unqualified(sql: str, name: str) -> int:
    """Return how often a table's name stands in SQL as a table to read, without a schema before it."""
    words = list(tokens(sql))
    count = 0
    for place, word in enumerate(words):
        if word.kind in ("name", "quoted") and word.text.strip('"`[]').lower() == name.lower():
            before = words[place - 1].text.lower() if place else ""
            after = words[place + 1].text if place + 1 < len(words) else ""
            # `name.column`, `x AS name` and `schema.name` are no tables to read; a comma joins tables or columns.
            if before in ("from", "join") or (before == "," and after not in (".", ",", ")")):
                count += 1
    return count


def qualified(sql: str, name: str) -> bool:
    """Tell whether SQL reads a table as ``main.NAME``, which is the whole of it."""
    words = [word.text.strip('"`[]').lower() for word in tokens(sql)]
    return any(words[place : place + 3] == ["main", ".", name.lower()] for place in range(len(words)))


def aliases(sql: str) -> dict[str, str]:
    """Return the tables that stand behind the names that SQL gives them: ``main.a AS x`` and ``JOIN a x``."""
    words = [word.text for word in tokens(sql) if word.kind in ("name", "dot", "quoted", "other")]
    found = {}
    for place, word in enumerate(words):
        if word.lower() not in ("from", "join", ",") or place + 1 >= len(words):
            continue
        rest = words[place + 1 : place + 6]
        if rest[1:2] == ["."]:
            rest = rest[2:]
        if len(rest) > 1:
            alias = rest[2] if rest[1].lower() == "as" and len(rest) > 2 else rest[1]
            found[alias] = rest[0]
    return found


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint with the words that look like a wrong one."""
    known = sorted(set(known))
    near = difflib.get_close_matches(word.lower(), known, n=3, cutoff=0.6)
    near += [name for name in known if word.lower() in name.split("_") and name not in near]
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there are {', '.join(known[:40])}{', ...' if len(known) > 40 else ''}"
