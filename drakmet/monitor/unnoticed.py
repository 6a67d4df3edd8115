# SPDX-License-Identifier: GPL-2.0-or-later
"""What no event tells of, as gaps of the coverage: code that changes or moves behind its copy, a ring without room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drakmet.records import CoverageKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from drakmet.monitor.armed import ArmedTrap, Place
    from drakmet.monitor.coverage import CoverageBook

WRITTEN, MOVED, GONE, BACK = "written", "moved", "gone", "back"
RING_FULL: Final = "ring full"
"""What the engine counts it under."""
_TEXTS: Final = {
    WRITTEN: "its code was written without an event: from outside the guest, say",
    MOVED: "its code is in another frame of the guest than it was",
    GONE: "its code is no longer mapped, or no frame is left for a copy of it",
    BACK: "its code was not mapped",
}

Change = tuple["Place", str]
"""A place, and one of the four words."""


class Unnoticed:
    """Writes one session's gaps of this kind. They begin at the look before, as nobody knows when it happened."""

    def __init__(self, book: CoverageBook, traps: list[ArmedTrap], now: int) -> None:
        self._book = book
        self._traps = traps
        self._begun = self._looked = now
        self._full = 0

    def tell(self, changes: Iterable[Change], now: int) -> None:
        """Note what a look has found."""
        since, self._looked = self._looked, now
        for place, what in changes:
            if place.traps:
                self._of_entry(place, what, since, now)
            if place.site:
                self._of_returns(what, since, now)

    def _of_entry(self, place: Place, what: str, since: int, now: int) -> None:
        for trap in place.traps:
            if what == WRITTEN:
                span = since, now
                self._book.partly(trap.key, trap.tables, span, CoverageKind.CHANGED, _TEXTS[what], None)
                continue
            if what != BACK:
                self._book.gap(trap.key, trap.tables, since, CoverageKind.CHANGED, _TEXTS[what])
            if what != GONE:
                self._book.armed(trap.key, trap.tables, now)

    def _of_returns(self, what: str, since: int, now: int) -> None:
        """A place that calls return to may be any such trap's."""
        for trap in self._traps:
            if trap.back is not None:
                text = f"where calls return to, the same happened: {_TEXTS[what]}"
                self._book.partly(trap.key, trap.tables, (since, now), CoverageKind.CHANGED, text, None)

    def tell_of_the_ring(self, events: Mapping[str, int], now: int) -> None:
        """Note how often the ring was full since this was noted before. Nothing is lost by that."""
        times, self._full = events.get(RING_FULL, 0) - self._full, events.get(RING_FULL, 0)
        begun, self._begun = self._begun, now
        if times:
            text = f"the event ring was full {times} times: further vCPUs waited for room in it"
            for trap in self._traps:
                self._book.partly(trap.key, trap.tables, (begun, now), CoverageKind.RING_FULL, text, 0)
