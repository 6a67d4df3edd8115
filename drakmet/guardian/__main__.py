# SPDX-License-Identifier: GPL-2.0-or-later
"""The guardian: waits for the end of the monitor that started it, and frees the guest it leaves.

    python -m drakmet.guardian GUEST LEDGER LINE MONITOR

The last three are inherited files: the page shared with the monitor, the line to it, and its pidfd. Nothing the
monitor does to itself matters here: the end of a process shows in its pidfd, whatever it died of.

A monitor that lives but gives no sign of life while a vCPU waits for it keeps the guest for `PATIENCE` seconds; then
it is stopped, the guest is freed, and the monitor, let go again, finds in the ledger that it has no guest any more.
A monitor that somebody else has stopped stays so.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Final

from drakmet.errors import DrakmetError, XenError
from drakmet.guardian.line import ARM, ARMED, DISARM, MAX_MESSAGE, TAKE_OVER
from drakmet.guardian.stuck import Stillness
from drakmet.pyxen.control import Control
from drakmet.pyxen.failures import XenCallError
from drakmet.pyxen.ledger import Ledger
from drakmet.pyxen.recovery import recover

PATIENCE: Final = 5.0
"""Seconds without a sign of life of the monitor while a vCPU waits."""
_LOOK: Final = 1.0
"""Seconds between two looks at whether it gives one."""
_STOPPING: Final = 0.5
_TRIES: Final = 3
_KEPT: Final = (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD)


class Guard:
    """What the process does, from the first message to the freed guest."""

    def __init__(self, ledger: Ledger, line: socket.socket, monitor: int) -> None:
        self.ledger = ledger
        self.line: socket.socket | None = line
        self.monitor = monitor
        """A pidfd."""
        self.claim = -1
        self.control = Control()
        self.stillness = Stillness(self.control, ledger, PATIENCE)
        self.poller = select.poll()
        self.poller.register(monitor, select.POLLIN)
        self.poller.register(line, select.POLLIN)

    def run(self) -> None:
        """Guard until there is nothing left to guard."""
        while True:
            events = dict(self.poller.poll(_LOOK * 1000))
            if self.monitor in events:
                self.free()
                return
            if self.line is not None and self.line.fileno() in events and not self.hear():
                return
            if not self.ledger.armed:
                self.stillness.forget()
            elif self.stillness.look(time.monotonic()):
                self.take_away()

    def hear(self) -> bool:
        """Take a message; return False when the monitor wants no guardian any more."""
        assert self.line is not None  # noqa: S101  # polled only while it is there
        try:
            message, files, _, _ = socket.recv_fds(self.line, MAX_MESSAGE, 4)
        except OSError:
            message, files = b"", []
        if message == ARM and len(files) == 1:
            self.drop_claim()
            self.claim = files[0]
            self.line.send(ARMED)
        elif message == DISARM:
            self.drop_claim()
        elif message == TAKE_OVER:
            self.free()
            return False
        elif not message:
            # Closed in order, or by a plugin that closes all it finds: the monitor's end shows in its pidfd.
            self.poller.unregister(self.line)
            self.line.close()
            self.line = None
            return self.ledger.armed
        return True

    def drop_claim(self) -> None:
        """Leave the guest to the monitor alone."""
        claim, self.claim = self.claim, -1
        if claim >= 0:
            os.close(claim)

    def free(self, *, lives: bool = False) -> None:
        """Free the guest if the monitor has left anything on it; a guest that is gone needs nothing."""
        ledger = self.ledger
        for last in (*[False] * (_TRIES - 1), True):
            if not ledger.armed:
                return
            try:
                if self.control.domain(ledger.domid).handle == ledger.guest:
                    recover(
                        self.control,
                        ledger.domid,
                        pauses=ledger.pauses,
                        pausing=ledger.pausing,
                        from_the_living=lives,
                    )
            except XenError as error:
                if self.gone():
                    return
                if last:
                    log(f"cannot free domain {ledger.domid}: {error}; try: drakmet rescue {ledger.domid}")
                    raise
                time.sleep(_LOOK / 10)
            else:
                ledger.armed = False
                log(f"freed domain {ledger.domid} of what its monitor left on it")

    def gone(self) -> bool:
        """Tell whether the guest is there no more."""
        try:
            return self.control.domain(self.ledger.domid).handle != self.ledger.guest
        except XenCallError:
            return True

    def take_away(self) -> None:
        """Free the guest from a monitor that lives and does nothing for it."""
        stopped_before = self.stopped()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.monitor, signal.SIGSTOP)
        until = time.monotonic() + _STOPPING
        while not self.stopped() and time.monotonic() < until:
            time.sleep(0.005)
        self.ledger.freed = time.time_ns()
        try:
            self.free(lives=True)
        finally:
            self.drop_claim()
            if not stopped_before:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self.monitor, signal.SIGCONT)

    def stopped(self) -> bool:
        """Tell whether the monitor is stopped, or ended."""
        try:
            pid = next(
                line
                for line in Path(f"/proc/self/fdinfo/{self.monitor}").read_text().splitlines()
                if line[:4] == "Pid:"
            )
            state = Path(f"/proc/{int(pid[4:])}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, StopIteration, ValueError):
            return True
        return state in "TtZX"


def log(text: str) -> None:
    """Tell the system's log: there is no terminal here."""
    import syslog

    syslog.openlog("drakmet-guardian", syslog.LOG_PID, syslog.LOG_DAEMON)
    syslog.syslog(syslog.LOG_WARNING, text)


def unmoved() -> None:
    """Be no victim of signals, of the terminal or of too little memory."""
    for number in signal.valid_signals() - set(_KEPT):
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("-1000")


def main(arguments: list[str]) -> int:
    """Guard; return the exit code."""
    unmoved()
    page, line, monitor = (int(text) for text in arguments[1:4])
    said = socket.socket(fileno=line)
    try:
        guard = Guard(Ledger(page), said, monitor)
    except DrakmetError as error:
        with contextlib.suppress(OSError):
            said.send(str(error).encode()[:MAX_MESSAGE])
        return 1
    guard.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
