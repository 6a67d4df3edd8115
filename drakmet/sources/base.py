# SPDX-License-Identifier: GPL-2.0-or-later
"""What every source of a guest offers, and how a URI names one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from drakmet.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from drakmet.guest.kernel import Kernel
    from drakmet.guest.memory import PhysicalMemory
    from drakmet.guest.profile import Profile


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


def isf_profiles(files: Iterable[Path]) -> tuple[Profile, ...]:
    """Return the kernels' profiles in ISF files; `UsageError` for a file that is none."""
    if not (paths := tuple(files)):
        return ()
    from drakmet.guest.profile import Profile

    return tuple(Profile.from_isf(path) for path in paths)


def give_profiles(source: Source, profiles: Sequence[Profile]) -> None:
    """Have a source try these before it looks for a kernel's symbols and types in the guest's memory.

    `UsageError` for a recording, which brings its own.
    """
    if not profiles:
        return
    if not hasattr(source, "profiles"):
        raise UsageError("a recording brings its kernel's profile: no ISF file can be given", where=source.uri)
    source.profiles = profiles


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
