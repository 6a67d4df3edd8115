# SPDX-License-Identifier: GPL-2.0-or-later
"""A test's rows out of events: what the store would hold if a guest had done that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from drakmet.rules.sigma.fields import Kind
from drakmet.text import escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from drakmet.rules.sigma.fields import Field, Source
    from drakmet.rules.sigma.match import Event

Rows = dict[str, list[dict[str, Any]]]
_APART = 1_000


def rows_of(source: Source, events: Iterable[Event], *, windows: bool) -> Rows:
    """Return rows by table for events of a log source: one for each, its process, and that process' start if asked."""
    rows: Rows = {}
    for number, event in enumerate(events):
        first = number * _APART
        row = {"at": number * 2 + 1.0, "process": first + 1, **source.given}
        process: dict[str, Any] = {"id": first + 1, "pid": first + 70, "ppid": first + 60}
        start: dict[str, Any] = {}
        places = {"row": row, "process": process, "start": start}
        for name, value in event.items():
            field = source.fields[name]
            place, column = field.place
            _put(places[place], column, value, field)
        rows.setdefault("process", []).append(process)
        if start:
            rows["process"].append(_starter(row, process, start, first, windows=windows))
            rows.setdefault("process_start", []).append({"at": number * 2 + 0.5, **start})
        if source.table == "process_start":
            row.setdefault("pid", first + (80 if windows else 70))
        rows.setdefault(source.table, []).append(row)
    return rows


def _starter(
    row: dict[str, Any], process: dict[str, Any], start: dict[str, Any], first: int, *, windows: bool
) -> dict[str, Any]:
    """Complete the row of a start, and return that of the process that it is told of."""
    of_parent = "process_start" if "path" in row or "argv" in row or "command_line" in row else ""
    who = process["ppid"] if of_parent and not windows else process["pid"]
    start["process"], start["pid"] = first + 2, who
    return {"id": first + 2, "pid": process["ppid"] if windows else who}


def _put(where: dict[str, Any], column: str, value: Any, field: Field) -> None:
    if value is None:
        where.pop(column, None)
        return
    if field.names is not None and not isinstance(value, int):
        value = field.names.get(str(value), value)
    if isinstance(value, str) and field.kind is not Kind.PLAIN:
        value = [escape(word) for word in value.split(" ")] if field.kind is Kind.WORDS else escape(value)
    where[column] = value


def judged(source: Source, rows: Rows, events: Iterable[Event], fields: Mapping[str, Field]) -> list[Event]:
    """Return all events that the rows tell of: a parent's start is judged as well."""
    more = []
    if source.table == "process_start":
        for row in rows.get("process_start", []):
            if row["process"] % _APART == 2:
                kept = {place: name for name, field in fields.items() if (place := field.place)[0] == "row"}
                more.append({name: _text(row.get(column)) for (_, column), name in kept.items()})
    return [*events, *more]


def _text(value: Any) -> Any:
    return " ".join(value) if isinstance(value, list) else value
