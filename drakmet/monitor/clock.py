# SPDX-License-Identifier: GPL-2.0-or-later
"""Notices that this host's clock was set while a guest is watched: times before and after are not of one scale then."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST: Final = 1_000_000_000
"""Nanoseconds by which it has to be off; what NTP adds to or takes from each second is far less."""
_TOGETHER: Final = 50_000_000
_TRIES: Final = 5


class HostClock:
    """Compares the clock that rows bear with one that nobody sets."""

    def __init__(
        self,
        wall: Callable[[], int] = lambda: time.time_ns(),  # noqa: PLW0108  # looked up anew each time
        steady: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME),
    ) -> None:
        """Begin; both clocks are in nanoseconds."""
        self._clocks = wall, steady
        self._wall, self._steady = self._read() or (wall(), steady())

    def _read(self) -> tuple[int, int] | None:
        """Return both at one moment, None if this process was held up each time between the two."""
        wall, steady = self._clocks
        for _ in range(_TRIES):
            before = steady()
            now = wall()
            if steady() - before < _TOGETHER:
                return now, before
        return None

    def look(self) -> tuple[int, int] | None:
        """Return what the clock would say now had it not been set since the last look, and what it says; else None."""
        read = self._read()
        if read is None:
            return None
        now, steady = read
        expected = self._wall + steady - self._steady
        self._wall, self._steady = now, steady
        return (expected, now) if abs(now - expected) >= LEAST else None
