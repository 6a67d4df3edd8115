# SPDX-License-Identifier: GPL-2.0-or-later
"""A rule file's text."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WIDTH = 120


def document(keys: Mapping[str, Any], sql: str, tests: Sequence[Mapping[str, Any]]) -> str:
    """Return the TOML of a rule: its keys (those that are None or empty are left out), the SQL, and the tests."""
    lines = [f"{key} = {_value(value, len(key) + 3)}" for key, value in keys.items() if value not in (None, [], "", {})]
    lines += [f"sql = {_multi_line(sql)}"]
    return "\n".join(lines) + "\n" + "".join(map(test_block, tests))


def test_block(test: Mapping[str, Any]) -> str:
    """Return a ``[[test]]`` with its title, rows by table, and findings."""
    lines = ["", "[[test]]", f"title = {_value(test['title'])}"]
    lines += [f"rows.{table} = {_rows(rows)}" for table, rows in test["rows"].items()]
    lines += ["rows = {}"] if not test["rows"] else []
    return "\n".join([*lines, f"findings = {_value(test['findings'])}"]) + "\n"


def _value(value: Any, column: int = 0) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _prose(value) if column and "\n" in value else _string(value)
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        parts = [_value(one) for one in value]
        line = f"[{', '.join(parts)}]"
        if column + len(line) <= _WIDTH or not column:
            return line
        return "[\n" + "".join(f"    {part},\n" for part in parts) + "]"
    return repr(value)


def _rows(rows: Sequence[Mapping[str, Any]]) -> str:
    parts = [_value(dict(row)) for row in rows]
    if len(parts) == 1:
        return f"[{parts[0]}]"
    return "[\n" + "".join(f"    {part},\n" for part in parts) + "]"


def _string(text: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which JSON leaves as it is.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _prose(text: str) -> str:
    lines = (_string(line.rstrip())[1:-1] for line in text.strip().split("\n"))
    return '"""\n' + "\n".join(lines) + '\n"""'


def _multi_line(text: str) -> str:
    text = text.strip("\n")
    if "'''" not in text and all(character.isprintable() or character == "\n" for character in text):
        return f"'''\n{text}\n'''"
    escaped = "\n".join(_string(line)[1:-1] for line in text.split("\n"))
    return f'"""\n{escaped}\n"""'
