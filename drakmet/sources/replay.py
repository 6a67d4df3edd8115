# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording as a source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from drakmet.errors import UsageError
from drakmet.guest.kernel import Kernel
from drakmet.guest.profile import Profile
from drakmet.sources.base import About
from drakmet.sources.recording import Moment, Recording, ReplayedMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.guest.memory import PhysicalMemory


class ReplaySource:
    """A guest as a recording has it; `next` goes from moment to moment, and `memory` along with it."""

    def __init__(self, name: str) -> None:
        self.uri = f"replay:{name}"
        self.recording = Recording(Path(name))
        head = self.head = self.recording.head
        self.about = About(head.host, head.guest, head.uuid, head.xen, head.vcpus)
        self.memory = ReplayedMemory(head.size)
        self._moments: Iterator[Moment] = self.recording.moments()
        self._profile = Profile.from_json(head.profile, where=name)

    def next(self) -> Moment | None:
        """Return the next moment, with `memory` as it was then; None at the end."""
        moment = next(self._moments, None)
        if moment is not None:
            self.memory.begin(moment.reads)
        return moment

    def kernel(self, memory: PhysicalMemory | None = None) -> Kernel:
        """Return the recorded guest's kernel."""
        first = self.next()
        if first is None or first.kind != "open":
            raise UsageError("the recording does not begin with its kernel", where=self.uri)
        head = self.head
        return Kernel(self._profile, memory or self.memory, head.base, head.slide, head.levels)

    def close(self) -> None:
        """Forget the recording."""
        self._moments = iter(())
