# SPDX-License-Identifier: GPL-2.0-or-later
"""Named stages on standard error, with their seconds."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator


class Progress:
    """Tells what is being done and how long it took; one line a stage that took a noticeable time."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """Return the seconds since this progress began."""
        return time.monotonic() - self._begun

    def note(self, text: str) -> None:
        """Write a line of its own."""
        if not self._quiet:
            print(f"lab: {self.seconds:6.1f} s  {text}", file=self._stream, flush=True)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Name a stage when it begins, and say its seconds when it ends."""
        begun = time.monotonic()
        self.note(f"{name} ...")
        yield
        self.note(f"{name}: done in {time.monotonic() - begun:.1f} s")
