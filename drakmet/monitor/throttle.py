# SPDX-License-Identifier: GPL-2.0-or-later
"""Decides which traps fire too often to stay armed. It looks at counters now and then: a hit pays nothing for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drakmet.monitor.armed import ArmedTrap

WINDOW: Final = 1_000_000_000
"""Nanoseconds over which hits are counted."""
REST: Final = 10_000_000_000
"""Nanoseconds that a trap stays out."""


class Throttle:
    """Counts per trap over a sliding second; times are those of one clock, in nanoseconds."""

    def __init__(self, traps: Sequence[ArmedTrap], now: int) -> None:
        self._begun = now
        self._counts = {trap: trap.hits for trap in traps}
        self._resting: dict[ArmedTrap, int] = {}

    def look(self, now: int) -> tuple[list[ArmedTrap], list[ArmedTrap]]:
        """Return the traps to take out now, and those to put back."""
        back = [trap for trap, until in self._resting.items() if now >= until]
        for trap in back:
            del self._resting[trap]
            self._counts[trap] = trap.hits
        out = []
        whole = now - self._begun >= WINDOW
        for trap, before in self._counts.items():
            if trap not in self._resting and trap.hits - before > trap.limit:
                out.append(trap)
                self._resting[trap] = now + REST
        if whole:
            self._begun = now
            self._counts = {trap: trap.hits for trap in self._counts}
        return out, back
