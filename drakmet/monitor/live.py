# SPDX-License-Identifier: GPL-2.0-or-later
"""Driving a running domain: waits for its events, and does now and then what is not for each of them."""

from __future__ import annotations

import gc
import os
import sys
import time
from typing import TYPE_CHECKING, Final

from drakmet.monitor.engine import Engine
from drakmet.monitor.throttle import Throttle
from drakmet.monitor.waiting import Waiter, Woken

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet.guest.linux import LinuxGuest
    from drakmet.monitor.armed import ArmedTrap, Prepared
    from drakmet.monitor.dispatch import Hits
    from drakmet.monitor.engine import Domain

_SWITCH: Final = 0.001
"""Seconds after which another thread has to give way to the loop: a vCPU may be waiting."""
_PORT_BYTES: Final = 4


class LiveDriver:
    """The loop over a running domain."""

    def __init__(self, domain: Domain, guest: LinuxGuest) -> None:
        self.engine = Engine(domain, guest)
        self._waiter: Waiter | None = None
        self._stopped = False
        self.batches = 0

    def now(self) -> int:
        """Return the time that rows carry."""
        return time.time_ns()

    def learn(self, address: int) -> bool:
        """Arm a place that calls return to."""
        return self.engine.learn(address)

    def attach(self, prepared: Prepared, hits: Hits, note: Callable[..., None] | None) -> None:
        """Arm everything."""
        self.engine.attach(prepared.places, hits, prepared.registers, note)

    def pump(self) -> None:
        """Handle what waits already."""
        self.engine.batch()

    def run(
        self,
        seconds: float | None,
        tick: Callable[[], bool],
        traps: list[ArmedTrap],
        turn: Callable[[ArmedTrap, bool], None],
    ) -> str:
        """Handle events until ``seconds`` are over, ``tick`` returns False, a signal comes or the guest goes.

        Return ``done`` or ``guest gone``.
        """
        channel = self.engine.channel
        assert channel is not None  # noqa: S101  # attached before
        waiter = self._waiter = Waiter(channel.fd)
        waiter.stopping = self._stopped
        fd, batch = channel.fd, self.engine.batch
        unmask, port, write = channel.unmask, channel.port.to_bytes(_PORT_BYTES, sys.byteorder), os.write
        throttle = Throttle(traps, time.monotonic_ns())
        deadline = None if seconds is None else time.monotonic() + seconds
        interval = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH)
        collecting = gc.isenabled()
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            with waiter.running():
                wait = waiter.wait
                # What came before the first wait.
                unmask()
                batch()
                while True:
                    try:
                        wait()
                    except Woken:
                        waiter.due = True
                    # Unmasked before the ring is looked at: what comes later brings a notification of its own.
                    write(fd, port)
                    batch()
                    self.batches += 1
                    if waiter.due or waiter.stopping:
                        waiter.due = False
                        if not self._tick(throttle, tick, turn):
                            return "guest gone"
                        if waiter.stopping or (deadline is not None and time.monotonic() >= deadline):
                            return "done"
        finally:
            sys.setswitchinterval(interval)
            gc.unfreeze()
            if collecting:
                gc.enable()
            self._waiter = None

    def _tick(self, throttle: Throttle, tick: Callable[[], bool], turn: Callable[[ArmedTrap, bool], None]) -> bool:
        out, back = throttle.look(time.monotonic_ns())
        for trap in out:
            turn(trap, False)
        for trap in back:
            turn(trap, True)
        if not tick():
            self.stop()
        # The young generations only: nothing that a hit makes lives long or refers to itself.
        gc.collect(0)
        return self.engine.alive()

    def arm(self, trap: ArmedTrap) -> None:
        """Put a trap back."""
        trap.place.traps.append(trap)
        self.engine.add(trap.place)

    def disarm(self, trap: ArmedTrap) -> None:
        """Take a trap out."""
        if trap in trap.place.traps:
            trap.place.traps.remove(trap)
        if not trap.place.traps:
            self.engine.remove(trap.place)

    def stop(self) -> None:
        """End `run` at the next tick."""
        self._stopped = True
        if self._waiter is not None:
            self._waiter.stop()

    def detach(self) -> list[tuple[str, Exception]]:
        """Take everything back."""
        return self.engine.detach()
