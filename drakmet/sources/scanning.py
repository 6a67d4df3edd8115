# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests as a scan takes them: only read, so without what a watch needs, and paused for a moment if wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drakmet.errors import GuestError, UsageError, XenError
from drakmet.guest import unknown
from drakmet.pyxen import Control, Xenstore
from drakmet.sources.base import open_source
from drakmet.sources.pausing import guarded_pause
from drakmet.sources.xen import XenSource

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from drakmet.guest.kernel import Kernel
    from drakmet.guest.memory import PhysicalMemory
    from drakmet.pyxen import DomainInfo
    from drakmet.sources.base import Source


class XenScanSource(XenSource):
    """A running domain that is only read: no altp2m, no monitor, any CPU maker's."""

    moves = True
    """Its memory changes while it is read."""

    def _check(self, info: DomainInfo) -> None:
        if info.domid == 0:
            raise UsageError("this is dom0, no guest", where=self.uri)
        if info.dying or info.shutdown:
            raise XenError("the guest is shutting down", where=self.uri)
        if not info.hvm:
            raise XenError(
                "a PV guest: its page tables hold the host's frame numbers, which cannot be read",
                where=self.uri,
                hint='type="pvh" or type="hvm" in its configuration',
            )

    def kernel(self, memory: PhysicalMemory | None = None) -> Kernel:
        """Return the guest's kernel; `GuestError` says what else the guest may be."""
        try:
            return super().kernel(memory)
        except GuestError as error:
            raise unknown.explained(self.memory, error, self.uri) from error

    def paused(self) -> AbstractContextManager[object]:
        """Return what pauses the guest while it is entered; pauses of others are counted apart."""
        return guarded_pause(self.control, self.domid)


def open_for_scan(uri: str) -> Source:
    """Return the source that ``uri`` names: ``xen:GUEST``, ``image:FILE`` or ``vmi:...``; `UsageError` for others."""
    kind, _, name = uri.partition(":")
    if name and kind == "xen":
        return XenScanSource(name)
    if name and kind == "vmi":
        from drakmet.sources.vmi import VmiSource

        return VmiSource(name)
    if name and kind == "image":
        return open_source(uri)
    raise UsageError(
        f"{uri!r} names nothing that can be scanned",
        hint="xen:GUEST for a running guest, image:FILE for a file of its memory, or --all for all guests of this host",
    )


def guests() -> list[str]:
    """Return the URI of every guest of this host, in the order of their ids; `XenError` where there is no Xen."""
    with Control() as control, Xenstore() as store:
        names = store.names()
        return [f"xen:{names.get(info.domid, str(info.domid))}" for info in control.domains() if info.domid]
