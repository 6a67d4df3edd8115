# SPDX-License-Identifier: GPL-2.0-or-later
"""The Sigma rules in tests/rules/sigma, imported, and held against the events that stand in them.

Each is a rule as people write them, with a key ``drakmet`` of ours: events that it must find (``fires``) and must not
(``silent``) as columns of its table, or the kind of reason for which it is refused.
``python tests/rules/sigma_rules.py`` prints what became of them, as the table in rules/sigma.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from drakmet.rules import bundled
from drakmet.rules.format import RuleFile
from drakmet.rules.lists import load_lists
from drakmet.rules.sigma.importer import IMPORTED, Entry, convert_rules, read_rules
from drakmet.rules.sigma.refusal import KINDS
from drakmet.rules.sigma.toml import test_block
from drakmet.rules.trial import Laboratory
from drakmet.text import escape

RULES = Path(__file__).parent / "sigma"


@dataclass
class Result:
    """What became of a rule, and what was expected of it."""

    name: str
    asked: str
    entry: Entry
    expected: dict[str, Any]
    fault: str | None


def results(laboratory: Laboratory) -> list[Result]:
    """Import the rules, and run them over their events."""
    lists = load_lists([bundled()])
    found = []
    for file in sorted(RULES.glob("*.yml")):
        text = file.read_text(encoding="utf-8")
        written = yaml.safe_load(text)
        (entry,) = convert_rules(read_rules([file]), lists, laboratory)
        asked = text.partition("detection:")[2].partition("drakmet:")[0]
        fault = _fault(entry, written["drakmet"], laboratory, lists)
        found.append(Result(file.stem, asked, entry, written["drakmet"], fault))
    return found


def _fault(entry: Entry, expected: dict[str, Any], laboratory: Laboratory, lists: Any) -> str | None:
    if "refused" in expected or entry.state != IMPORTED:
        return None if entry.kind == expected.get("refused") else f"{entry.kind}: {entry.reason}"
    if (note := expected.get("notes")) and note not in str(entry.text).partition("notes")[2]:
        return f"its notes do not name {note}"
    path = Path(f"{entry.rule}.toml")
    table = RuleFile(path, str(entry.text)).rule.triggers[0]
    blocks = [
        test_block({"title": kind, "rows": _rows(table, expected[kind]), "findings": count})
        for kind, count in (("fires", len(expected["fires"])), ("silent", 0))
    ]
    file = RuleFile(path, str(entry.text) + "".join(blocks))
    return next((f"{one.test}: {one.fault}" for one in laboratory.try_rule(file, lists) if one.fault), None)


def _rows(table: str, events: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {"process": []}
    for number, event in enumerate(events):
        row = {name: _escaped(value) for name, value in event.items() if name not in ("process", "before")}
        process, before = event.get("process", {}), event.get("before")
        rows["process"].append({"id": number * 10 + 1, **{name: _escaped(value) for name, value in process.items()}})
        if before:
            first = {name: _escaped(value) for name, value in before.items() if name != "process"}
            rows["process"].append({"id": number * 10 + 2, **before["process"]})
            rows.setdefault("process_start", []).append({"at": number * 10.0, "process": number * 10 + 2, **first})
        rows.setdefault(table, []).append({"at": number * 10.0 + 5, "process": number * 10 + 1, **row})
    return rows


def _escaped(value: Any) -> Any:
    if isinstance(value, list):
        return [escape(one) for one in value]
    return escape(value) if isinstance(value, str) else value


def table(found: list[Result]) -> str:
    """Return what became of the rules as a table for rules/sigma.md."""
    lines = ["| rule | log source | loads | fires | silent | refused |", "|---|---|---|---|---|---|"]
    for one in found:
        loads = "yes" if one.entry.state == IMPORTED else "no"
        fires, silent = (len(one.expected.get(kind, ())) or "" for kind in ("fires", "silent"))
        refused = f"{one.entry.kind}: {KINDS[one.entry.kind]}" if one.entry.kind else ""
        text = f"| {one.name} | {one.entry.category} | {loads} | {fires} | {silent} | {refused} |"
        lines.append(" ".join(text.split()))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    from drakmet.cli.known import known_records

    everything = results(Laboratory(known_records()))
    for result in everything:
        if result.fault:
            print(f"{result.name}: {result.fault}")
    print(table(everything), end="")
