# SPDX-License-Identifier: GPL-2.0-or-later
"""What every source of a guest offers, and how a URI names one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from drakmet.errors import UsageError

if TYPE_CHECKING:
    from drakmet.guest.kernel import Kernel
    from drakmet.guest.memory import PhysicalMemory


class About(msgspec.Struct, frozen=True):
    """Whose memory it is: what the tables ``host`` and ``guest`` say."""

    host: str
    guest: str
    uuid: str | None = None
    xen: str | None = None
    vcpus: int = 1


class Source(Protocol):
    """A guest to look into. `close` may be called twice and leaves the guest as it was."""

    uri: str
    about: About

    @property
    def memory(self) -> PhysicalMemory:
        """The guest's memory; what was read from it last may have changed since."""

    def kernel(self, memory: PhysicalMemory | None = None) -> Kernel:
        """Return the guest's kernel, read through ``memory`` instead of `memory` if given; `GuestError` without one."""

    def close(self) -> None:
        """Let the guest go."""


def open_source(uri: str) -> Source:
    """Return the source that ``uri`` names: ``xen:NAME``, ``xen:DOMAIN-ID``, ``image:FILE`` or ``replay:FILE``.

    `UsageError` for a URI that is none of these or a guest or file that is not there, `XenError` where Xen refuses.
    """
    kind, colon, name = uri.partition(":")
    if colon and name:
        if kind == "xen":
            from drakmet.sources.xen import XenSource

            return XenSource(name)
        if kind == "image":
            from drakmet.sources.images import ImageSource

            return ImageSource(name)
        if kind == "replay":
            from drakmet.sources.replay import ReplaySource

            return ReplaySource(name)
    raise UsageError(
        f"{uri!r} names no guest",
        hint="xen:NAME or xen:ID for a running guest (`xl list` shows them), image:FILE for a file of its memory, "
        "replay:FILE for a recording",
    )
