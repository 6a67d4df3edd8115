# SPDX-License-Identifier: GPL-2.0-or-later
"""Attaching to a domain and leaving it again, in the order that leaves no trace."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

from drakmet.pyxen.altp2m import HOST_VIEW, Altp2m
from drakmet.pyxen.control import HVM_PARAM_MONITOR_RING_PFN
from drakmet.pyxen.evtchn import Channel
from drakmet.pyxen.failures import XenCallError
from drakmet.pyxen.foreign import ForeignMemory
from drakmet.pyxen.monitor import Monitor
from drakmet.pyxen.recovery import Journal
from drakmet.pyxen.ring import RingError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from drakmet.pyxen.control import Control

_QUIET_SECONDS = 0.002
_TRIES = 50
_LOOK_BACK = 256


class ExtraFrames:
    """Frames that a domain is given for the time of a session, past all of its own.

    Its memory limit is raised for them and set back by `close`, which must come when no view shows them any more.
    What is to be taken back is noted before it is given (see `recovery`).
    """

    def __init__(self, control: Control, domid: int, journal: Journal | None = None) -> None:
        """Take the session's ``journal``; without one, one of its own is kept from the first frame to `close`."""
        self._control = control
        self.domid = domid
        self.gfns: list[int] = []
        self._limit: int | None = None
        self._journal = journal or Journal(domid, control.domain(domid).handle)
        self._clears = journal is None

    def add(self, count: int) -> list[int]:
        """Return the frame numbers of ``count`` new frames, of unknown content.

        Never populate a frame number that is in use: Xen takes the old frame's place without a word.
        """
        if count <= 0:
            return []
        info = self._control.domain(self.domid)
        if self._limit is None:
            self._limit = self._journal.max_memkb = info.max_memkb
        first = self._first_free(count)
        gfns = list(range(first, first + count))
        self._journal.gfns = self.gfns + gfns
        self._journal.save()
        needed = (info.tot_pages + count + 1) * 4  # one more, so that the ring's page fits again
        if needed > info.max_memkb:
            self._control.set_max_memkb(self.domid, needed)
        self.gfns += gfns  # before they are there: a part of them may be, if it fails
        self._control.populate(self.domid, gfns)
        return gfns

    def _first_free(self, count: int) -> int:
        """Return the first frame number past all that are in use.

        Xen's highest one never goes down: the frames of the session before this, which are free again, are among the
        last below it.
        """
        ring = self._control.hvm_param(self.domid, HVM_PARAM_MONITOR_RING_PFN)  # in use, if not in the guest's map
        last = max(self._control.max_gpfn(self.domid), ring)
        looked_at = range(max(last - count - _LOOK_BACK, 0) + 1, last + 1)
        with ForeignMemory() as foreign, foreign.map(self.domid, looked_at) as frames:
            used = [gfn for index, gfn in enumerate(looked_at) if index not in frames.errors or gfn == ring]
        return used[-1] + 1 if used else last + 1

    def close(self) -> None:
        """Take the frames back and set the memory limit as it was; a second call does nothing."""
        gfns, self.gfns = self.gfns, []
        try:
            self._control.depopulate(self.domid, gfns)
        except XenCallError:
            for gfn in gfns:
                with contextlib.suppress(XenCallError):
                    self._control.depopulate(self.domid, [gfn])
        finally:
            limit, self._limit = self._limit, None
            if limit is not None:
                self._control.set_max_memkb(self.domid, limit)
                if self._clears:
                    self._journal.clear()


class Session:
    """An event ring, its channel, altp2m and room for shadow frames of one domain.

    On return from the constructor breakpoints and single steps are reported, altp2m is on, no view was made yet and
    the domain runs; it was never stopped for longer than Xen's own calls take. `close` may be called at any time, from
    the thread that answers events, and twice.
    """

    def __init__(self, control: Control, domid: int) -> None:
        self.control = control
        self.domid = domid
        info = control.domain(domid)
        self.vcpus = info.vcpus
        journal = Journal(domid, info.handle)
        self.frames = ExtraFrames(control, domid, journal)
        self.altp2m = Altp2m(control, domid)
        self._undo = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            # Undone in the opposite order: no view may be left when frames go, no trap when the ring goes.
            clear = undo.enter_context(contextlib.ExitStack())
            undo.callback(self.frames.close)
            self.monitor = undo.enter_context(Monitor(control, domid))
            clear.callback(journal.clear)  # not before: it may be another monitor's
            journal.save()
            self.channel = undo.enter_context(Channel(domid, self.monitor.port))
            self.ring = self.monitor.ring
            self.altp2m.turn_on()
            undo.callback(self.altp2m.close)
            self.monitor.software_breakpoint()
            self.monitor.singlestep()
            self._undo = undo.pop_all()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def drain(self) -> int:
        """Let every vCPU that waits go on, nothing changed; return how many answers that were."""
        ring = self.ring
        count = 0
        with contextlib.suppress(RingError):
            while ring.unconsumed():
                ring.proceed(ring.take())
                count += 1
        if count or ring.unanswered():
            ring.push()
        self.channel.notify()
        return count

    def close(self) -> None:
        """Leave the domain as it was found; a second call does nothing.

        Every vCPU is put into the guest's own memory first; then it meets the original instruction again wherever it
        stood at a trap, so that an event needs no other answer than to go on.
        """
        if self._closed:
            return
        self._closed = True
        control, domid = self.control, self.domid
        try:
            self.channel.unmask()  # a loop that ended in the middle leaves it masked
            for _ in range(_TRIES):
                # With the domain running: vCPUs that wait for room in the ring can only then put their events.
                self.altp2m.switch(HOST_VIEW)
                self.drain()
                if not self.channel.poll(_QUIET_SECONDS):
                    break
                self.channel.unmask()
        finally:
            with control.paused(domid):
                try:
                    self.altp2m.switch(HOST_VIEW)
                    self.drain()
                    self.monitor.events_off()
                    self.steps_off()
                finally:
                    self._undo.close()

    def steps_off(self) -> None:
        """End single steps that are under way: without a monitor a vCPU would never come out of them."""
        for vcpu in range(self.vcpus):
            try:
                self.control.single_step_off(self.domid, vcpu)
            except XenCallError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # no such CPU feature, no such vCPU
                    raise
