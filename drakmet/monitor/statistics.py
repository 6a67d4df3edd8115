# SPDX-License-Identifier: GPL-2.0-or-later
"""What a watch counts while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class TrapStatistics:
    """One trap: ``state`` is ``armed`` or why it is not."""

    plugin: str
    trap: str
    function: str | None = None
    state: str = "armed"
    hits: int = 0
    records: int = 0
    errors: int = 0
    last_error: str | None = None


@dataclass
class Statistics:
    """One watch. Times in nanoseconds; ``events`` counts what came through the ring by kind."""

    traps: list[TrapStatistics] = field(default_factory=list)
    events: dict[str, int] = field(default_factory=dict)
    batches: int = 0
    records: int = 0
    processes: int = 0
    gaps: int = 0
    shadow_frames: int = 0
    paused_attach: int | None = None
    paused_detach: int | None = None

    @property
    def hits(self) -> int:
        """Hits of all traps."""
        return sum(trap.hits for trap in self.traps)

    @property
    def errors(self) -> int:
        """Hits that a plugin failed on."""
        return sum(trap.errors for trap in self.traps)
