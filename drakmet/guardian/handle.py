# SPDX-License-Identifier: GPL-2.0-or-later
"""The monitor's end of its guardian: starts it, tells it when there is something to guard, sees whether it lives.

The guardian is a program of its own and not a fork: it has none of the monitor's memory, threads or open files, does
not look like it to ``killall`` and ``pkill -f 'drakmet watch'``, and starts while the monitor looks for the kernel.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from drakmet.errors import XenError
from drakmet.guardian.line import ARM, ARMED, DISARM, MAX_MESSAGE, TAKE_OVER
from drakmet.pyxen.ledger import Ledger

if TYPE_CHECKING:
    import uuid

    from drakmet.pyxen.claim import Claim

_START_SECONDS: Final = 30.0
_END_SECONDS: Final = 5.0
_NO_CORE: Final = 1
"""A limit for core files that the kernel takes for none, also where they go to a program (fs/coredump.c)."""


def start(guest: str, inherited: tuple[int, int, int]) -> subprocess.Popen[bytes]:
    """Start the process, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "drakmet.guardian", guest, *map(str, inherited)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=inherited,
        start_new_session=True,
        cwd="/",
    )


class Guardian:
    """A guardian process for one guest, started at once; `arm` waits until it is ready."""

    def __init__(self, guest: str) -> None:
        """Start it; ``guest`` is only what its command line says."""
        self.ledger = Ledger()
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        myself = os.pidfd_open(os.getpid())
        inherited = (self.ledger.fd, theirs.fileno(), myself)
        _no_core()
        try:
            self._process = start(guest, inherited)
        except BaseException:
            self._line.close()
            self.ledger.close()
            raise
        finally:
            theirs.close()
            os.close(myself)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it is still there."""
        return self._process.poll() is None

    @property
    def freed(self) -> int:
        """When it took the guest from us, in ns since 1970; 0 if it did not."""
        return self.ledger.freed

    def beat(self) -> None:
        """Give a sign of life."""
        self.ledger.beat()

    def arm(self, domid: int, guest: uuid.UUID, claim: Claim) -> Ledger:
        """Have it guard a guest from now on; it keeps the claim with us. Before the guest is changed in any way."""
        self.ledger.name(domid, guest)
        self.ledger.beat()
        self._line.settimeout(_START_SECONDS)
        with contextlib.suppress(OSError):  # it has ended then, and what it said last is still to be read
            socket.send_fds(self._line, [ARM], [claim.fd])
        answer = self._answer()
        if answer != ARMED:
            reason = answer.decode("utf-8", "replace") or "it ended"
            raise XenError(f"the guardian cannot guard the guest: {reason}", hint="--no-guardian does without one")
        self.ledger.armed = True
        return self.ledger

    def _answer(self) -> bytes:
        try:
            try:
                return self._line.recv(MAX_MESSAGE)
            except ConnectionResetError:
                # It ended with our message unread. That is told once, and before what it has said.
                return self._line.recv(MAX_MESSAGE)
        except OSError as error:
            return str(error).encode()

    def disarm(self) -> None:
        """The guest is as it was: there is nothing to guard any more."""
        self.ledger.armed = False
        with contextlib.suppress(OSError):
            self._line.send(DISARM)

    def close(self) -> None:
        """End it; what is still armed it takes back now. A second call does nothing."""
        if self.ledger.fd < 0:
            return
        with contextlib.suppress(OSError):
            if self.ledger.armed:
                self._line.send(TAKE_OVER)
        self._line.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.ledger.close()


def _no_core() -> None:
    """Have a crash of this process leave no core file: the guest would wait for it, and it holds the guest's data."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if hard == resource.RLIM_INFINITY or hard >= _NO_CORE:
        resource.setrlimit(resource.RLIMIT_CORE, (_NO_CORE, hard))
