# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows that wait to be stored, and the count of what became of the lines."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from drakmet.drakvuf.tables import BY_PLUGIN, DrakvufOther

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from drakmet.drakvuf.tables import DrakvufRecord


@dataclass(slots=True)
class Event:
    """A line as those see it who know what it means."""

    plugin: str
    method: str
    time: int
    process: int | None
    pid: int | None
    tid: int | None


if TYPE_CHECKING:
    Meaning = Callable[[Event, dict[str, Any]], None]
    Row = tuple[int, int | None, int, int | None, str | None, int | None, str]

_COLUMNS = ("time", "process", "line", "tid", "method", "event", "fields")


@dataclass
class Tally:
    """What became of a log's lines: none is left."""

    lines: int = 0
    bytes: int = 0
    records: int = 0
    quarantined: int = 0
    blank: int = 0
    joined: int = 0
    """Lines that were put to the one before, which goes on in them."""
    parted: int = 0
    """Lines that were two: one that was cut short, and the next."""
    backwards: int = 0
    """Lines whose time is before that of the line before."""
    by_plugin: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def balanced(self) -> bool:
        """Whether the sums come out."""
        return self.lines + self.parted == self.records + self.quarantined + self.blank + self.joined


class Table:
    """The rows of one table: time, process, line, tid, method, event and fields of each."""

    __slots__ = ("meanings", "methods", "other", "plugin", "raw", "record", "rows", "unreadable")

    def __init__(self, plugin: str, meanings: Mapping[str, Meaning]) -> None:
        self.plugin = plugin
        self.record: type[DrakvufRecord] = BY_PLUGIN.get(plugin, DrakvufOther)
        self.meanings = meanings
        self.methods: dict[str, tuple[str, Meaning | None]] = {}
        """Functions and what is to be done with their lines, by the text in which they stand in a line."""
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.rows: list[Row] = []
        self.other: list[str] = []
        self.unreadable: dict[int, str] = {}
        self.raw: dict[int, bytes] = {}

    def columns(self, session: int) -> dict[str, Sequence[Any]]:
        """Return the rows, of which there must be any."""
        count = len(self.rows)
        found: dict[str, Sequence[Any]] = {"session": [session] * count}
        found |= zip(_COLUMNS, zip(*self.rows, strict=True), strict=True)
        if self.unreadable:
            found["unreadable"] = [self.unreadable.get(place) for place in range(count)]
        if self.raw:
            found["raw"] = [self.raw.get(place) for place in range(count)]
        if self.record is DrakvufOther:
            found["plugin"] = self.other
        return found
