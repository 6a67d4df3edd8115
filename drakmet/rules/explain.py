# SPDX-License-Identifier: GPL-2.0-or-later
"""What a finding rests on, and what would silence it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from drakmet.store.schema import quote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from drakmet.rules.format import Rule
    from drakmet.store import Reader

_MOST_ROWS = 20
_PATHS = ("new_path", "script", "path")


def finding_row(reader: Reader, number: int) -> dict[str, Any] | None:
    """Return a row of the table of findings with the guest's and host's names; ``None`` if there is none."""
    sql = (
        "SELECT f.*, g.name AS guest, h.name AS host FROM finding AS f LEFT JOIN session AS s ON s.id = f.session"
        " LEFT JOIN guest AS g ON g.id = s.guest LEFT JOIN host AS h ON h.id = g.host WHERE f.id = :number"
    )
    _, rows = reader.select(sql, {"number": number})
    return next(rows, None)


def rows_of(reader: Reader, finding: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return rows that a finding rests on, as many as a person reads: ``table``, ``id`` and ``row`` without nulls."""
    known = {table.name for table in reader.tables()}
    found = []
    rests_on = finding["rests_on"]
    for table, number in (json.loads(rests_on) if isinstance(rests_on, str) else rests_on)[:_MOST_ROWS]:
        row = None
        if table in known:
            _, rows = reader.select(f"SELECT * FROM {quote(table)} WHERE id = :number", {"number": number})  # noqa: S608
            row = next(rows, None)
        kept = {name: value for name, value in row.items() if value is not None} if row else None
        found.append({"table": table, "id": number, "row": kept})
    return found


def exception(finding: Mapping[str, Any], rows: list[dict[str, Any]]) -> str:
    """Return the TOML of an exception that would take the finding and as little else as its rows allow to say."""
    exe = next((row["row"].get("exe") for row in rows if row["table"] == "process" and row["row"]), None)
    events = [row["row"] for row in rows if row["table"] != "process" and row["row"]]
    path = next((row[name] for row in events for name in _PATHS if isinstance(row.get(name), str)), None)
    values = {"rule": finding["rule"], "guest": finding["guest"], "process": exe, "path": path}
    lines = ["[[exception]]"]
    for name, value in values.items():
        if value:
            lines.append(f"{name} = {_toml(value if name == 'rule' else _literal(str(value)))}")
    return "\n".join([*lines, 'reason = "..."', "# until = 2027-12-31"])


def parameters(rule: Rule) -> str | None:
    """Return the TOML of a rule's parameters as a site would set them; ``None`` if it has none."""
    if not rule.written:
        return None
    lines = [f"[parameters.{_toml(rule.id) if '.' in rule.id else rule.id}]"]
    for name, value in rule.written.items():
        doc = rule.parameters[name].doc if name in rule.parameters else "how far back it looks"
        lines.append(f"{name} = {_toml(value)}  # {doc}")
    return "\n".join(lines)


def _literal(text: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in text)


def _toml(value: object) -> str:
    # JSON's strings, numbers and truths are TOML's; DEL is the one character that only TOML wants escaped.
    return json.dumps(value).replace("\x7f", "\\u007f")
