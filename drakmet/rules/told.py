# SPDX-License-Identifier: GPL-2.0-or-later
"""What a rule found before: so that a row that is judged again, because of a late one, tells only what is new."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from drakmet.rules.format import Rule

_REMEMBERED = 100_000


class Told:
    """The results of a rule so far, by the rows that they name; those that were used least recently are forgotten."""

    def __init__(self, rule: Rule) -> None:
        self._ids = list(rule.id_columns.values())
        self._known: OrderedDict[tuple[Any, ...], list[int]] = OrderedDict()

    def new(self, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return those of a query's rows that it did not give before.

        The same rows may be named by several results, and a result may read otherwise when more is known: what counts
        is how many there are.
        """
        groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            groups[self._key(row)].append(row)
        fresh: list[dict[str, Any]] = []
        for key, group in groups.items():
            known = self._known.setdefault(key, [])
            self._known.move_to_end(key)
            left = len(group) - len(known)
            for row in sorted(group, key=lambda row: _print(row) in known):
                if left <= 0:
                    break
                left -= 1
                known.append(_print(row))
                fresh.append(row)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return fresh

    def _key(self, row: dict[str, Any]) -> tuple[Any, ...]:
        others = [value for name, value in row.items() if name.endswith("_id") and isinstance(value, int)]
        return (*(row[name] for name in self._ids), *others)


def _print(row: dict[str, Any]) -> int:
    return hash(tuple(row.values()))
