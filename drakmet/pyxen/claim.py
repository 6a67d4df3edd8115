# SPDX-License-Identifier: GPL-2.0-or-later
"""One drakmet to a guest: a lock that its holder's death lets go of, whatever it died of."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from drakmet.errors import XenError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

FOLDER: Final = Path("/run/drakmet")
_PATIENCE: Final = 2.0
"""Seconds that a guardian may need to free a guest whose monitor has just died."""
_PAUSE: Final = 0.02


class ClaimedError(XenError):
    """Another drakmet has the guest; ``pid`` is its process, if it is known."""

    def __init__(self, domid: int, pid: int | None) -> None:
        who = "another drakmet" if pid is None else f"another drakmet (process {pid})"
        super().__init__(f"{who} watches this guest", where=f"domain {domid}", hint="end it first")
        self.pid = pid


class Claim:
    """The lock on one guest. Whoever inherits ``fd`` holds it as well, until all have closed it."""

    def __init__(self, domid: int, seconds: float = _PATIENCE) -> None:
        """Take it, within ``seconds``; `ClaimedError` if another has it for longer."""
        FOLDER.mkdir(mode=0o700, exist_ok=True)
        path = FOLDER / f"domain-{domid}.lock"
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        until = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    pid = holder(self.fd)
                    self.close()
                    raise ClaimedError(domid, pid) from None
                time.sleep(_PAUSE)
            else:
                break
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, str(os.getpid()).encode(), 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close our end of it; a second call does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def holder(fd: int) -> int | None:
    """Return the process that wrote itself down in a lock's file."""
    with contextlib.suppress(ValueError, OSError):
        return int(os.pread(fd, 32, 0))
    return None
