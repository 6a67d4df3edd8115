# SPDX-License-Identifier: GPL-2.0-or-later
"""What rules are about: which ATT&CK techniques they name, and which tables of records they read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from drakmet.rules import attack
from drakmet.rules.words import tokens

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from drakmet.records import Record
    from drakmet.rules.format import Rule


def by_technique(rules: Iterable[Rule]) -> Iterator[dict[str, Any]]:
    """Yield each technique that a rule names, and each tactic, even of no rule, with the rules."""
    known = attack.techniques()
    named: dict[str, set[str]] = {number: set() for number, one in known.items() if not one.tactics}
    for rule in rules:
        for number in rule.techniques:
            named.setdefault(number, set()).add(rule.id)
            for tactic in known[number].tactics if number in known else ():
                named[tactic].add(rule.id)
    for number, ids in sorted(named.items()):
        one = known.get(number)
        is_tactic = number.startswith("TA")
        yield {
            "kind": "tactic" if is_tactic else "technique",
            "id": number,
            "name": one.name if one else "",
            "tactics": [known[tactic].name for tactic in one.tactics] if one else [],
            "rules": sorted(ids),
        }


def by_table(rules: Iterable[Rule], records: Iterable[type[Record]]) -> Iterator[dict[str, Any]]:
    """Yield each table of records with the rules that read it."""
    words = {rule.id: {word.text.strip('"`[]') for word in tokens(rule.sql)} for rule in rules}
    for table in sorted({record.table for record in records}):
        ids = [rule for rule, its_words in words.items() if table in its_words]
        yield {"kind": "table", "id": table, "name": "", "tactics": [], "rules": sorted(ids)}
