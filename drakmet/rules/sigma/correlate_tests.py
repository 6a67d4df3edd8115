# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests for correlations: events of the rules that they name, as often and in the order that is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from drakmet.rules.sigma.events import Maker
from drakmet.rules.sigma.refusal import Refused
from drakmet.rules.sigma.rows import Rows, rows_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drakmet.rules.sigma.correlate import Correlation
    from drakmet.rules.sigma.match import Event

_MOST_ROWS = 2_000


def tests_of(asked: Correlation, *, ordered: bool, counts: bool) -> list[dict[str, Any]]:
    """Return a test in which it is found once, and ones in which too little happens or too slowly."""
    events = [_event(asked, place) for place in range(len(asked.parts))]
    step = min(asked.seconds / (2 * max(asked.least, len(events))), 1.0)
    if counts:
        if asked.least > _MOST_ROWS:
            raise Refused("test", f"it counts {asked.least}: tests of at most {_MOST_ROWS} rows are written")
        enough = [(0, number * step) for number in range(asked.least)]
        slow = [(0, number * (asked.seconds + 1.0)) for number in range(asked.least)]
        tests = [_test("as many as it counts", asked, events, enough, 1)]
        if asked.least > 1:
            tests.append(_test("one too few", asked, events, enough[:-1], 0))
            tests.append(_test("too slowly", asked, events, slow[:20], 0))
        else:
            tests.append({"title": "nothing", "rows": {}, "findings": 0})
        return tests
    together = [(place, place * step) for place in range(len(events))]
    tests = [_test("one after the other", asked, events, together, 1)]
    slow = [(place, place * (asked.seconds + 1.0)) for place in range(len(events))]
    tests.append(_test("too slowly", asked, events, slow, 0))
    tests.append(_test("one is missing", asked, events, together[1:], 0))
    if ordered:
        backwards = [(len(events) - 1 - place, at) for place, at in together]
        tests.append(_test("the other way round", asked, events, backwards, 0))
    return tests


def _event(asked: Correlation, place: int) -> Event:
    part = asked.parts[place]
    fitting = Maker(part.source.fields, windows=part.windows).fitting(part.node, 1)
    if not fitting:
        raise Refused("test", "no event could be made that a rule it names finds")
    return fitting[0]


def _test(
    title: str, asked: Correlation, events: Sequence[Event], wanted: Sequence[tuple[int, float]], findings: int
) -> dict[str, Any]:
    rows: Rows = {}
    for number, (place, at) in enumerate(wanted):
        part = asked.parts[place]
        event = dict(events[place])
        _share_groups(asked, place, events, event)
        if asked.values and part.source.fields.get(asked.values[place]):
            event[asked.values[place]] = _different(asked, place, number, event)
        made = rows_of(part.source, [event], windows=part.windows)
        for table, several in made.items():
            for row in several:
                _renumber(row, table, number, at + 1.0, same_process=_by_process(asked))
                if table != "process" or row not in rows.get(table, []):
                    rows.setdefault(table, []).append(row)
    return {"title": title, "rows": rows, "findings": findings}


def _by_process(asked: Correlation) -> bool:
    return any(name in ("ProcessId", "ParentProcessId") for group in asked.groups for name in group)


def _renumber(row: dict[str, Any], table: str, number: int, at: float, *, same_process: bool) -> None:
    """Give the rows of each event numbers and times of their own."""
    apart = number * 1_000
    if table == "process":
        row["id"] += apart
        if not same_process:
            row["pid"] += apart
        return
    row["at"], row["process"] = round(at, 6), row["process"] + apart
    if table == "process_start" and not same_process and "pid" in row:
        row["pid"] += apart


def _share_groups(asked: Correlation, place: int, events: Sequence[Event], event: Event) -> None:
    """Give an event the values by which it belongs to the first one."""
    for mine, first in zip(asked.groups[place], asked.groups[0], strict=True):
        if mine in asked.parts[place].source.fields and mine not in event:
            event[mine] = events[0].get(first, 70 if mine.endswith("Id") else "shared")
        elif mine in event and events[0].get(first) is not None and place:
            event[mine] = events[0][first]


def _different(asked: Correlation, place: int, number: int, event: Event) -> Any:
    """Return a value of the field that is counted, another for each event."""
    name = asked.values[place]
    value = event.get(name)
    if isinstance(value, int) or name.endswith(("Port", "Id")):
        return (value if isinstance(value, int) else 1_000) + number
    if name.endswith("Ip"):
        return f"198.51.{number // 250}.{number % 250 + 1}"
    return f"{number} {value or 'other'}" if name == "CommandLine" else f"/{number}{value or 'other'}"
