# SPDX-License-Identifier: GPL-2.0-or-later
"""The start of a rule: a file that passes its checks and tests, to be changed from there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from drakmet import __version__
from drakmet.records import EventRecord, columns

if TYPE_CHECKING:
    from drakmet.records import Column, Record

_FAVOURITES = ("path", "name", "new_path", "address", "file_name", "command_line", "key")
_VALUES: dict[str, Any] = {"INTEGER": 1, "REAL": 1.0, "TEXT": "x", "BLOB": None}

_TEMPLATE = """\
id = {id}
title = "What the rule finds, in a few words"
level = "medium"  # informational, low, medium, high, critical
status = "experimental"  # then test, stable
description = "What it means, and why somebody should look."
attack = []  # such as "T1059.004 Unix Shell"; `drakmet rules fmt` adds the names
references = []
false_positives = []
since = {since}
# Columns of {table}: {columns}
from = "{table}"
# once = {{ by = ["exe"], within = "10m" }}  # one finding of a burst
message = "{{exe}} (pid {{pid}}): {{{column}}}"
sql = \"\"\"
SELECT {table}.id, {table}.{column}, p.exe, p.pid
FROM {table}
LEFT JOIN process AS p ON p.id = {table}.process
WHERE {condition}
\"\"\"

[[test]]
title = "what is to be found"
rows.process = [{{ id = 1, pid = 7, exe = "/usr/bin/example" }}]
rows.{table} = [{{ process = 1, {found} }}]
findings = [{message}]

[[test]]
title = "what looks like it and is harmless"
rows.{table} = [{{ {harmless} }}]
findings = 0
"""


def suitable(record: type[Record]) -> bool:
    """Tell whether a rule can be begun with a table: events, with a text that can be asked for."""
    return issubclass(record, EventRecord) and _text_column(record) is not None


def starter(name: str, record: type[Record]) -> str:
    """Return the text of a rule of that id over a table that is `suitable`."""
    column = _text_column(record)
    assert column is not None  # noqa: S101 - asked before
    value = "/opt/example/x" if "path" in column else "example"
    condition = f"{record.table}.{column} " + ("GLOB '/opt/example/*'" if "path" in column else "= 'example'")
    needed = {one.name: [] if one.is_json else _VALUES[one.sql_type] for one in columns(record) if _needed(one)}
    return _TEMPLATE.format(
        id=json.dumps(name),
        since=json.dumps(".".join(__version__.split(".")[:2])),
        table=record.table,
        columns=", ".join([*(one.name for one in columns(record)), *record.computed]),
        column=column,
        condition=condition,
        found=_row(needed | {column: value}),
        harmless=_row(needed | {column: "/usr/bin/x" if "path" in column else "other"}),
        message=json.dumps(f"/usr/bin/example (pid 7): {value}"),
    )


def _text_column(record: type[Record]) -> str | None:
    inherited = set(EventRecord.__struct_fields__)
    texts = [one.name for one in columns(record) if one.sql_type == "TEXT" and not one.is_json]
    texts = [name for name in texts if name not in inherited and name != "fields"] + list(record.computed)
    return next((name for name in _FAVOURITES if name in texts), texts[0] if texts else None)


def _needed(column: Column) -> bool:
    # What other columns are computed from is made of them.
    inherited = (*EventRecord.__struct_fields__, "fields")
    return not column.nullable and column.name not in inherited and column.sql_type != "BLOB"


def _row(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {json.dumps(value)}" for name, value in values.items())
