# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps the book of when each trap was armed, and when and why it was not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drakmet.records import Coverage, CoverageKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from drakmet.records import Record

Key = tuple[str, str]
"""Plugin and trap."""
PAUSES: Final = ("monitor", "pause")
"""Under which the guest's pauses are told of: they are no trap's."""


class CoverageBook:
    """Writes an interval when it begins and again when it ends; a store replaces the first by the second."""

    def __init__(self, session: int, put: Callable[[Record], object]) -> None:
        self._session = session
        self._put = put
        self._open: dict[Key, Coverage] = {}
        self.gaps = 0

    def armed(self, key: Key, tables: Iterable[str], time: int) -> None:
        """A trap is armed from ``time`` on."""
        self._begin(key, tables, time, CoverageKind.ARMED, None)

    def gap(self, key: Key, tables: Iterable[str], time: int, kind: CoverageKind, reason: str) -> None:
        """A trap sees nothing from ``time`` on, until it is armed again."""
        self.gaps += 1
        self._begin(key, tables, time, kind, reason)

    def partly(
        self,
        key: Key,
        tables: Iterable[str],
        span: tuple[int, int],
        kind: CoverageKind,
        reason: str,
        missed: int | None,
    ) -> None:
        """A trap did not see all in an interval though it was armed; ``missed`` hits are known to be lost."""
        self.gaps += 1
        begin, end = min(span), max(span)  # the host's clock may have been set back in between
        self._put(self._row(key, tables, begin, kind, reason, end=end, missed=missed))

    def paused(self, spans: Iterable[tuple[int, int]]) -> None:
        """The guest was stopped by us; no table misses anything by it, so it counts as no trap's gap."""
        for begin, end in spans:
            reason = f"the guest was stopped by this watch for {(end - begin) / 1e6:.1f} ms: nothing happened in it"
            self._put(self._row(PAUSES, (), begin, CoverageKind.PAUSED, reason, end=end, missed=0))

    def clock_set(self, expected: int, now: int) -> None:
        """The host's clock, which should have said ``expected``, says ``now``: intervals end in the old, begin anew."""
        by = (now - expected) / 1e9
        reason = (
            f"this host's clock was set {'forward' if by > 0 else 'back'} by {abs(by):.1f} s: times are of two scales"
        )
        for key, row in list(self._open.items()):
            self.partly(key, row.tables, (expected, now), CoverageKind.CLOCK_SET, reason, 0)
            self.close(key, expected)
            again = self._open[key] = self._row(key, row.tables, now, CoverageKind(row.kind), row.gap)
            self._put(again)

    def _begin(self, key: Key, tables: Iterable[str], time: int, kind: CoverageKind, reason: str | None) -> None:
        self.close(key, time)
        row = self._open[key] = self._row(key, tables, time, kind, reason)
        self._put(row)

    def _row(
        self, key: Key, tables: Iterable[str], begin: int, kind: CoverageKind, gap: str | None, **more: int | None
    ) -> Coverage:
        return Coverage(
            session=self._session,
            plugin=key[0],
            trap=key[1],
            tables=list(tables),
            begin=begin,
            kind=kind.value,
            gap=gap,
            **more,
        )

    def close(self, key: Key, time: int) -> None:
        """The interval that is open for a trap, if any, ends."""
        row = self._open.pop(key, None)
        if row is not None:
            row.end = max(row.begin, time)
            self._put(row)

    def close_all(self, time: int) -> None:
        """Every open interval ends."""
        for key in list(self._open):
            self.close(key, time)
