# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting for the guest, a signal or the next tick, whichever comes first, with one system call.

Looking with select() before each read would cost a system call at every hit. So the wait is a plain blocking read, and
timer and signals end it by raising from their handler; outside the wait they only leave a mark.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TICK: Final = 0.2
"""Seconds between two ticks."""


class Woken(BaseException):
    """Ends a wait; it never leaves this module."""


class Waiter:
    """`due` says that a tick is due, `stopping` that the watch is to end; both may be set at any time."""

    def __init__(self, fd: int, tick: float = TICK) -> None:
        self._fd = fd
        self._tick = tick
        self._waiting = False
        self._signals = False
        self._next = 0.0
        self.due = False
        self.stopping = False
        self.wait: Callable[[], None] = self._poll

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Take over timer and signals for the time of the ``with`` block."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, handler)
            for number, handler in (
                (signal.SIGALRM, self._alarm), (signal.SIGINT, self._stop), (signal.SIGTERM, self._stop),
            )
        }  # fmt: skip
        self.wait = self._block
        signal.setitimer(signal.ITIMER_REAL, self._tick, self._tick)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)
            self.wait = self._poll

    def stop(self) -> None:
        """End the watch; safe in any thread, but only noticed at the next tick."""
        self.stopping = True

    def _alarm(self, _number: int, _frame: Any) -> None:
        self.due = True
        if self._waiting:
            raise Woken

    def _stop(self, _number: int, _frame: Any) -> None:
        self.stopping = True
        if self._waiting:
            raise Woken

    def _block(self) -> None:
        """Wait until the channel has something, a tick is due or the watch is to end."""
        try:
            self._waiting = True
            # A mark left before this line would not end the read.
            if not self.due and not self.stopping:
                os.read(self._fd, 4)
            self._waiting = False
        except Woken:
            self._waiting = False

    def _poll(self) -> None:
        """Do the same without signals, for threads that get none."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._tick
            self.due = True
        if not self.stopping and select.select([self._fd], [], [], self._tick)[0]:
            os.read(self._fd, 4)
