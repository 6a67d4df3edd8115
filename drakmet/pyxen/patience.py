# SPDX-License-Identifier: GPL-2.0-or-later
"""How long a loop looks into the ring again before it gives the CPU away, learned from whether that paid.

Where the guest runs on a CPU of its own, the next event comes while the loop waits, and to sleep meanwhile puts two
switches of Xen's scheduler and two of Linux' into the guest's way. So the loop looks again for a bounded time (as KVM
polls for a halted vCPU). That costs dom0 a busy CPU: where events are rare, or the guest needs this CPU, each look is
for nothing, and after one or two of these the loop leaves it for longer and longer.
"""

from __future__ import annotations

import time
from typing import Final

POLL: Final = 500e-6
"""Seconds to look again at the most, after each event; some hundred times what an event costs on hardware."""
_FIRST: Final = 64
"""Looks, before it was measured how many there are in a microsecond."""
_MOST: Final = 1 << 20
_WORTH: Final = 4
"""Events that came between two looks for nothing for these to have been worth it."""
_LONGEST: Final = 1024
_M32: Final = 0xFFFF_FFFF


class Patience:
    """How often to look: `rounds` times, 0 for not at all. Events found are counted by ``taken``, so cost nothing."""

    __slots__ = ("_begun", "_full", "_pause", "_resting", "_taken", "most", "rounds")

    def __init__(self, seconds: float = POLL) -> None:
        """Take how long to look at the most; 0 for never."""
        self.most = int(seconds * 1e9)
        self._full = _FIRST
        self._taken = 0
        self._pause = 0
        self._resting = 0
        self._begun = 0
        self.rounds = _FIRST if self.most else 0

    def begin(self, taken: int) -> int:
        """Return how often to look now; ``taken`` is the ring's count of requests taken."""
        if self.rounds:
            self._begun = time.monotonic_ns()
            return self.rounds
        if self._resting:
            self._resting -= 1
            if not self._resting:
                self.rounds, self._taken = self._full, taken
        return 0

    def missed(self, taken: int) -> None:
        """Nothing came in all that time."""
        took = max(time.monotonic_ns() - self._begun, 1)
        self._full = max(1, min(_MOST, self.rounds * self.most // took))
        self.rounds = self._full
        if taken - self._taken & _M32 >= _WORTH:
            self._pause = 0
        else:
            self._pause = min(self._pause * 2 or 1, _LONGEST)
            self._resting, self.rounds = self._pause, 0
        self._taken = taken
