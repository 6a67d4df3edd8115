# SPDX-License-Identifier: GPL-2.0-or-later
"""How much SQLite makes of a query before it runs it: subqueries in subqueries can multiply without end.

While it prepares a statement SQLite copies each common table expression for each use, and each expression of a subquery
for each mention of its column. Neither a deadline nor a limit of its own reaches that (before 3.41 at least).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from drakmet.rules.words import Token, tokens

HEAVIEST = 100_000
"""What no query that a person writes comes near: the bundled rules weigh less than 200."""
_DEEPEST = 100
_BEGINS = frozenset(("select", "with", "values", "("))


@dataclass(slots=True)
class _Select:
    """What stands between two brackets: how often it says each word, and what stands in brackets inside."""

    words: Counter[str] = field(default_factory=Counter)
    inside: list[_Select] = field(default_factory=list)
    weight: int | None = None


def weight(sql: str) -> int:
    """Return a rough upper bound of the copies that SQLite makes of parts of a query, `HEAVIEST` for more than that."""
    top = _Select()
    open_ones, named = [top], {}
    last: list[str] = []
    words = list(tokens(sql))
    for word, after in zip(words, [*words[1:], None], strict=False):
        if word.text == "(":
            if after and after.text.lower() not in _BEGINS and not _name_before(last):
                # An expression in brackets is written once, and belongs to what it stands in.
                open_ones.append(open_ones[-1])
                inner = None
            else:
                inner = _Select()
                open_ones[-1].inside.append(inner)
                open_ones.append(inner)
            if len(open_ones) > _DEEPEST:
                return HEAVIEST
            if inner and (name := _name_before(last)):
                named[name] = inner
        elif word.text == ")" and len(open_ones) > 1:
            open_ones.pop()
        elif word.kind in ("name", "quoted"):
            open_ones[-1].words[_plain(word)] += 1
        last = [*last[-12:], _plain(word)]
    return _weigh(top, named, frozenset())


def _name_before(last: list[str]) -> str | None:
    """Return the name that `NAME [(columns)] AS [NOT] [MATERIALIZED] (` gives to what follows."""
    words = list(last)
    while words and words[-1] in ("not", "materialized"):
        words.pop()
    if not words or words.pop() != "as" or not words:
        return None
    if words[-1] == ")":
        while words and words.pop() != "(":
            pass
    return words[-1] if words else None


def _weigh(select: _Select, named: dict[str, _Select], above: frozenset[int]) -> int:
    if select.weight is not None:
        return select.weight
    if id(select) in above:
        return 0  # a recursive one, which SQLite does not copy into itself
    above |= {id(select)}
    total = 1 + sum(_weigh(inner, named, above) for inner in select.inside)
    for name, uses in select.words.items():
        if name in named and named[name] not in select.inside:
            total += uses * _weigh(named[name], named, above)
    often = max((uses for name, uses in select.words.items() if name not in _KEYWORDS), default=1)
    select.weight = min(total * often if select.inside or total > 1 else 1, HEAVIEST)
    return select.weight


def _plain(word: Token) -> str:
    return word.text.strip('"`[]').lower()


_KEYWORDS = frozenset(
    (
        *("select", "from", "where", "and", "or", "not", "in", "is", "null", "as", "on", "join", "left", "inner"),
        *("cross", "union", "all", "with", "like", "glob", "between", "exists", "case", "when", "then", "else", "end"),
        *("group", "by", "order", "having", "limit", "desc", "asc", "distinct", "escape", "cast", "over", "partition"),
        *("value", "basename", "coalesce", "instr", "lower", "upper", "replace", "materialized", "recursive"),
    )
)
