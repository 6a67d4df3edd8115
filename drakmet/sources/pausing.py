# SPDX-License-Identifier: GPL-2.0-or-later
"""A pause that ends even if whoever asked for it is killed in the middle of it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
import warnings
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator


_READY: Final = b"r"
_PAUSING: Final = b"p"
_DONE: Final = b"d"


class Pauser(Protocol):
    """What pauses and unpauses domains: `drakmet.pyxen.Control`."""

    def pause(self, domid: int) -> None:
        """Stop a domain."""

    def unpause(self, domid: int) -> None:
        """Undo one `pause`."""


class Pause:
    """How long a pause was, known when it is over."""

    nanoseconds = 0


@contextlib.contextmanager
def guarded_pause(control: Pauser, domid: int) -> Iterator[Pause]:
    """Keep a domain paused, and tell afterwards for how long it was.

    A child of this process undoes the pause if this process ends before it could.

    The child is in a session of its own, so that a signal to this process' group leaves it alone, and takes no signal
    but SIGKILL. It waits for a word or for the end of the line, and so never outlives the pause for long.
    """
    line, childs = socket.socketpair()
    with line, childs, warnings.catch_warnings():
        # Other threads have locks that the child must not want; it only reads, makes one hypercall and ends.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
        if not child:
            _wait_and_undo(control, domid, line, childs)
        childs.close()
        try:
            line.recv(1)  # it is in a session of its own now
            line.send(_PAUSING)
            told, begun = Pause(), time.monotonic_ns()
            try:
                control.pause(domid)
            except BaseException:
                line.send(_DONE)
                raise
            try:
                yield told
            finally:
                control.unpause(domid)
                told.nanoseconds = time.monotonic_ns() - begun
                line.send(_DONE)
        finally:
            line.close()
            os.waitpid(child, 0)


def _wait_and_undo(control: Pauser, domid: int, parents: socket.socket, line: socket.socket) -> None:
    """Be the child: undo the pause if it was begun and its end is not told. Never returns."""
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        parents.close()
        line.send(_READY)
        said = b""
        with contextlib.suppress(ConnectionError):
            while part := line.recv(1):
                said += part
        if said == _PAUSING:
            control.unpause(domid)
    finally:
        os._exit(0)
