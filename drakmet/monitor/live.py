# SPDX-License-Identifier: GPL-2.0-or-later
"""Driving a running domain: waits for its events, and does now and then what is not for each of them."""

from __future__ import annotations

import gc
import sys
import time
from typing import TYPE_CHECKING, Final

from drakmet.errors import XenError
from drakmet.monitor.engine import Engine
from drakmet.monitor.outcomes import DONE, FREED, GUEST_GONE, NO_GUARDIAN
from drakmet.monitor.throttle import Throttle
from drakmet.monitor.waiting import TICK, Marks

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet.guest.linux import LinuxGuest
    from drakmet.monitor.armed import ArmedTrap, Prepared
    from drakmet.monitor.dispatch import Hits
    from drakmet.monitor.engine import Domain
    from drakmet.monitor.pagecheck import Gap
    from drakmet.monitor.pageevents import PageEvents
    from drakmet.monitor.unnoticed import Change

_SWITCH: Final = 0.001
"""Seconds after which another thread has to give way to the loop: a vCPU may be waiting."""


class FreedError(XenError):
    """The guest is no longer ours."""

    def __init__(self) -> None:
        super().__init__(FREED, hint="was this process stopped, or a plugin busy for seconds?")


class LiveDriver:
    """The loop over a running domain."""

    def __init__(self, domain: Domain, guest: LinuxGuest | None) -> None:
        self.engine = Engine(domain, guest)
        self._marks = Marks(woken=self._woken)
        self._guardian = domain.guardian
        self.batches = 0

    def now(self) -> int:
        """Return the time that rows carry."""
        return time.time_ns()

    def learn(self, address: int) -> bool:
        """Arm a place that calls return to."""
        return self.engine.learn(address)

    def attach(
        self, prepared: Prepared, hits: Hits, note: Callable[..., None] | None, pages: PageEvents | None = None
    ) -> None:
        """Arm everything."""
        self.engine.attach(prepared.places, hits, prepared.registers, note, pages)

    def pump(self) -> None:
        """Handle what waits already."""
        self._woken()
        self.engine.batch()
        if self._guardian is not None:
            self._guardian.beat()

    def _woken(self) -> None:
        """Raise `FreedError` if the guest was taken from us, as while this process was stopped."""
        if self._guardian is not None and self._guardian.freed:
            raise FreedError

    def run(
        self,
        seconds: float | None,
        tick: Callable[[], bool],
        traps: list[ArmedTrap],
        turn: Callable[[ArmedTrap, bool], None],
    ) -> str:
        """Handle events until ``seconds`` are over, ``tick`` returns False, a signal comes or the guest goes.

        Return ``done``, `GUEST_GONE`, `NO_GUARDIAN` or `FREED`.
        """
        engine = self.engine
        channel, ring = engine.channel, engine.ring
        assert channel is not None  # noqa: S101  # attached before
        assert ring is not None  # noqa: S101  # attached before
        marks = self._marks
        wait, batch = channel.wait_for, engine.batch
        throttle = Throttle(traps, time.monotonic_ns())
        deadline = None if seconds is None else time.monotonic() + seconds
        interval = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH)
        collecting = gc.isenabled()
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            with marks.running():
                timed = marks.timed
                while True:
                    if wait(ring, TICK):
                        batch()
                        self.batches += 1
                    if not timed:
                        marks.look()
                    if marks.due or marks.stopping:
                        marks.due = False
                        ended = self._tick(throttle, tick, turn)
                        if ended is not None:
                            return ended
                        if marks.stopping or (deadline is not None and time.monotonic() >= deadline):
                            return DONE
        except FreedError as error:
            return error.what
        finally:
            sys.setswitchinterval(interval)
            gc.unfreeze()
            if collecting:
                gc.enable()

    def _tick(
        self, throttle: Throttle, tick: Callable[[], bool], turn: Callable[[ArmedTrap, bool], None]
    ) -> str | None:
        """Do what is due five times a second; return how the watch ends if it has to."""
        guardian = self._guardian
        if guardian is not None:
            self._woken()
            guardian.beat()
            if not guardian.alive:
                return NO_GUARDIAN
        out, back = throttle.look(time.monotonic_ns())
        for trap in out:
            turn(trap, False)
        for trap in back:
            turn(trap, True)
        if not tick():
            self.stop()
        # The young generations only: nothing that a hit makes lives long or refers to itself.
        gc.collect(0)
        return None if self.engine.alive() else GUEST_GONE

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

    def look(self) -> list[Change]:
        """Put right what no event told of; return what that was."""
        return self.engine.look()

    def gaps(self, *, ending: bool = False) -> list[Gap]:
        """Return what execute traps did not see since this was asked before."""
        return self.engine.gaps(ending=ending)

    def stop(self) -> None:
        """End `run` at the next tick."""
        self._marks.stopping = True

    def detach(self) -> list[tuple[str, Exception]]:
        """Take everything back."""
        return self.engine.detach()
