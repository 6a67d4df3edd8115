# SPDX-License-Identifier: GPL-2.0-or-later
"""Marks that a timer and signals leave for the loop, so that it needs no clock to know that something is due."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TICK: Final = 0.2
"""Seconds between two ticks, and the longest sleep."""


class Marks:
    """`due` says that a tick is due, `stopping` that the watch is to end; both may be set at any time."""

    def __init__(self, tick: float = TICK, woken: Callable[[], object] = lambda: None) -> None:
        """Take how often a tick is due, and what is to be called when this process was stopped and goes on."""
        self._tick = tick
        self._woken = woken
        self._next = 0.0
        self.due = False
        self.stopping = False
        self.timed = False
        """Whether a timer sets `due`; without one `look` has to be called."""

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Take over timer and signals for the time of the ``with`` block; in any but the main thread there are none."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, handler)
            for number, handler in (
                (signal.SIGALRM, self._alarm), (signal.SIGINT, self._stop), (signal.SIGTERM, self._stop),
                (signal.SIGHUP, self._stop), (signal.SIGCONT, self._continued),
            )
        }  # fmt: skip
        signal.setitimer(signal.ITIMER_REAL, self._tick, self._tick)
        self.timed = True
        try:
            yield
        finally:
            self.timed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)

    def look(self) -> None:
        """Look at the clock whether a tick is due."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._tick
            self.due = True

    def _alarm(self, _number: int, _frame: Any) -> None:
        self.due = True

    def _continued(self, _number: int, _frame: Any) -> None:
        self._woken()

    def _stop(self, _number: int, _frame: Any) -> None:
        self.stopping = True
