# SPDX-License-Identifier: GPL-2.0-or-later
"""Moves what was committed from the write-ahead log into the file, beside the thread that writes.

SQLite does it at every thousandth page inside a commit, and waits for the disk there: tens of milliseconds, in which
the guest's next traps would go unanswered. Here another connection does it in a thread of its own; writers never wait
for this kind of checkpoint (``PASSIVE``).
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Checkpointer:
    """Checkpoints a file every ``pause`` seconds in which ``count`` has changed, until it is stopped."""

    def __init__(self, path: Path, count: Callable[[], int], *, pause: float = 5.0) -> None:
        self.runs = 0
        self._path = path
        self._count = count
        self._pause = pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and wait for a checkpoint that is being made."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        done = 0
        with contextlib.closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            while not self._stop.wait(self._pause):
                if (now := self._count()) == done:
                    continue
                # A disk that is full or broken will be told by the writer, whose log then grows until it meets it.
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                    self.runs += 1
                    done = now
