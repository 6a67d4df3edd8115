# SPDX-License-Identifier: GPL-2.0-or-later
"""One page that a monitor shares with who guards it: what must be known when the monitor is no more.

It holds plain numbers, written with one store each, so that it says something true at whatever instant its writer is
killed. What takes a longer note (frames, limits) is in the `recovery.Journal`.
"""

from __future__ import annotations

import mmap
import os
import uuid
from typing import Final

SIZE: Final = mmap.PAGESIZE
_DOMID, _ARMED, _PAUSES, _PAUSING, _BEATS, _FREED, _UUID = range(7)
"""Indices of 64-bit words; the uuid takes two."""
NOBODY: Final = (1 << 64) - 1


class Ledger:
    """The page; ``fd`` is its file, to be inherited by the one that guards."""

    def __init__(self, fd: int | None = None) -> None:
        """Map the page of ``fd``, or make a new one."""
        self.fd = os.memfd_create("drakmet-ledger", os.MFD_CLOEXEC) if fd is None else fd
        if fd is None:
            os.ftruncate(self.fd, SIZE)
        self._area = mmap.mmap(self.fd, SIZE)
        self._view = memoryview(self._area)
        self._words = self._view.cast("Q")
        if fd is None:
            self._words[_DOMID] = NOBODY

    def close(self) -> None:
        """Let the page go; a second call does nothing."""
        if self.fd >= 0:
            self._words.release()
            self._view.release()
            self._area.close()
            os.close(self.fd)
            self.fd = -1

    @property
    def domid(self) -> int:
        """The guest's domain id, `NOBODY` before `name`."""
        return self._words[_DOMID]

    @property
    def guest(self) -> uuid.UUID:
        """The guest's handle: domain ids are used again."""
        return uuid.UUID(bytes=bytes(self._view[_UUID * 8 : _UUID * 8 + 16]))

    def name(self, domid: int, guest: uuid.UUID) -> None:
        """Say whom it is about."""
        self._view[_UUID * 8 : _UUID * 8 + 16] = guest.bytes
        self._words[_DOMID] = domid

    @property
    def armed(self) -> bool:
        """Whether there may be something to take back: set before the first call that changes the guest."""
        return bool(self._words[_ARMED])

    @armed.setter
    def armed(self, on: bool) -> None:
        self._words[_ARMED] = on

    @property
    def pauses(self) -> int:
        """How many pauses of the guest are surely the monitor's."""
        return self._words[_PAUSES]

    @pauses.setter
    def pauses(self, count: int) -> None:
        self._words[_PAUSES] = count

    @property
    def pausing(self) -> bool:
        """Whether the monitor was about to pause or unpause a guest that nobody else had paused."""
        return bool(self._words[_PAUSING])

    @pausing.setter
    def pausing(self, on: bool) -> None:
        self._words[_PAUSING] = on

    @property
    def beats(self) -> int:
        """A count that goes up while the monitor's loop goes round."""
        return self._words[_BEATS]

    def beat(self) -> None:
        """Give a sign of life."""
        self._words[_BEATS] += 1

    @property
    def freed(self) -> int:
        """When the guest was taken from a monitor that lives but gave no sign, in ns since 1970; 0: it was not."""
        return self._words[_FREED]

    @freed.setter
    def freed(self, time_ns: int) -> None:
        self._words[_FREED] = time_ns
