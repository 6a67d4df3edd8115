# SPDX-License-Identifier: GPL-2.0-or-later
"""A running Xen guest as a source."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from drakmet.errors import UsageError, XenError
from drakmet.guardian.handle import Guardian
from drakmet.guest import kernel as kernels
from drakmet.guest.memory import missing
from drakmet.guest.profile import ProfileCache
from drakmet.pyxen import (
    Altp2m,
    Channel,
    Control,
    ForeignMap,
    ForeignMemory,
    GuestMemory,
    Monitor,
    Xenstore,
)
from drakmet.pyxen.claim import Claim
from drakmet.pyxen.control import HVM_PARAM_ALTP2M
from drakmet.pyxen.failures import NO_ALTP2M
from drakmet.pyxen.patience import POLL
from drakmet.pyxen.recovery import Journal, abandoned, recover
from drakmet.pyxen.session import ExtraFrames
from drakmet.sources.base import About

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drakmet.guest.kernel import Kernel
    from drakmet.guest.memory import PhysicalMemory
    from drakmet.guest.profile import Profile
    from drakmet.pyxen import DomainInfo

_SPARE_FRAMES = 1024
"""Frames past the guest's memory limit that are looked at: a hole below 1 MiB shifts the RAM up."""
_HOLE = (4 << 30) - (256 << 20) >> 12
"""Guests that reach this frame have a hole below 4 GiB: their frame numbers say nothing of their size."""


class XenSource:
    """One running domain: everything the monitor needs of it, made where it is asked for."""

    def __init__(self, name: str) -> None:
        self.uri = f"xen:{name}"
        self._close = contextlib.ExitStack()
        self._memory: GuestMemory | None = None
        self.guardian: Guardian | None = None
        self.profiles: Sequence[Profile] = ()
        """Tried before the kernel's symbols and types are looked for in its memory."""
        self.poll = POLL
        """For how many seconds the loop may look for the next event before it gives the CPU away, see `Patience`."""
        self._claim: Claim | None = None
        self._journal: Journal | None = None
        try:
            self.control = self._close.enter_context(Control())
            self.domid, self.name = self._find(name)
            info = self.control.domain(self.domid)
            self._check(info)
            self.foreign = self._close.enter_context(ForeignMemory())
        except BaseException:
            self._close.close()
            raise
        self.about = About(
            host=socket.gethostname(),
            guest=self.name,
            uuid=str(info.handle),
            xen=self.control.version(),
            vcpus=info.vcpus,
        )

    def _find(self, name: str) -> tuple[int, str]:
        with Xenstore() as store:
            domid = store.find(name)
            return domid, store.name_of(domid) or name

    def _check(self, info: DomainInfo) -> None:
        if info.domid == 0:
            raise UsageError("this is dom0, no guest", where=self.uri)
        if info.dying or info.shutdown:
            raise UsageError("the guest is shutting down", where=self.uri, hint="start it anew")
        if not info.hvm or not info.hap:
            raise UsageError(
                "the guest cannot be watched: it is no HVM or PVH guest with hardware-assisted paging",
                where=self.uri,
                hint='type="pvh" or type="hvm" in its configuration',
            )

    @property
    def memory(self) -> GuestMemory:
        """The guest's memory, mapped read-only when it is first asked for."""
        if self._memory is None:
            info = self.control.domain(self.domid)
            frames = self.control.max_gpfn(self.domid) + 1
            ram = max(info.tot_pages, min(info.max_pages, info.tot_pages * 4)) + _SPARE_FRAMES
            if ram < _HOLE:
                frames = min(frames, ram)
            self._memory = self._close.enter_context(GuestMemory(self.foreign, self.domid, frames, missing=missing))
        return self._memory

    def kernel(self, memory: PhysicalMemory | None = None) -> Kernel:
        """Return the guest's kernel; the first time for a kernel this takes a second, after that it is in the cache."""
        found = kernels.find(self.memory, profiles=self.profiles, cache=ProfileCache())
        if memory is None:
            return found
        return kernels.Kernel(found.profile, memory, found.base, found.slide, found.levels)

    def state(self) -> DomainInfo | None:
        """Return what Xen says of the domain, None if it is gone or going."""
        try:
            info = self.control.domain(self.domid)
        except XenError:
            return None
        return None if info.dying or info.shutdown else info

    def altp2m(self) -> Altp2m:
        """Return the domain's views."""
        return Altp2m(self.control, self.domid)

    def check_traps(self) -> None:
        """Raise `UsageError` if Xen would refuse to set traps in this guest, `ClaimedError` if another drakmet has it.

        That is before anything else costs time; `monitor` makes sure.
        """
        if not self.control.hvm_param(self.domid, HVM_PARAM_ALTP2M):
            raise UsageError(
                "the guest cannot be watched: it was started without altp2m",
                where=self.uri,
                hint=NO_ALTP2M + " `drakmet scan` needs none of that.",
            )
        Claim(self.domid).close()

    def guard(self) -> None:
        """Start the process that frees the guest should this one die; it is ready when `monitor` needs it."""
        if self.guardian is None:
            self.guardian = Guardian(self.name)
            self._close.callback(self.guardian.close)

    def monitor(self) -> Monitor:
        """Return the domain's event ring, enabled; what a drakmet that died left on the guest is taken back first.

        From here on, up to `released`, it is known to whoever comes after us what is to be taken back.
        """
        control, domid = self.control, self.domid
        self._claim = Claim(domid)
        if abandoned(control, domid):
            recover(control, domid)
        info = control.domain(domid)
        if self.guardian is not None:
            control.ledger = self.guardian.arm(domid, info.handle, self._claim)
        journal = self._journal = Journal(domid, info.handle)
        journal.pool = control.paging_pool(domid)
        journal.save()
        try:
            return Monitor(control, domid)
        except BaseException as error:
            self.released()
            # Xen says of a guest that is dying what it says of one that another monitor has.
            if isinstance(error, XenError) and self.state() is None:
                raise XenError("the guest went away before it could be watched", where=self.uri) from error
            raise

    def released(self) -> None:
        """The guest is as it was, or gone: nothing is to be taken back any more."""
        if self._journal is not None:
            self._journal.clear()
            self._journal = None
        self.control.ledger = None
        if self.guardian is not None:
            self.guardian.disarm()
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def frames(self) -> ExtraFrames:
        """Return room for frames past the guest's own."""
        return ExtraFrames(self.control, self.domid, self._journal)

    def channel(self, port: int) -> Channel:
        """Return the event channel to the ring's ``port``."""
        # On a host's only CPU the guest could not run meanwhile.
        return Channel(self.domid, port, poll=self.poll if self.control.host().cpus > 1 else 0)

    def map(self, gfns: Sequence[int]) -> ForeignMap:
        """Return frames of the guest, mapped for writing."""
        return ForeignMap(self.foreign, self.domid, gfns, writable=True)

    def close(self) -> None:
        """Let the guest go."""
        self._close.close()
