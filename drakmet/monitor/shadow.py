# SPDX-License-Identifier: GPL-2.0-or-later
"""Shadow frames: copies of the guest's code with breakpoints in them, shown in a view and only for execution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drakmet.errors import XenError
from drakmet.monitor.goon import INT3, LONGEST
from drakmet.pyxen import Access

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from drakmet.guest.memory import PhysicalMemory
    from drakmet.pyxen import Altp2m

PAGE: Final = 4096
_MASK: Final = PAGE - 1


class Shadow:
    """One frame: where its copy is, what the guest's own bytes are, and the offsets that have breakpoints."""

    __slots__ = ("copy", "gfn", "original", "points", "window")

    def __init__(self, gfn: int, copy: int, window: memoryview, original: bytes) -> None:
        self.gfn = gfn
        self.copy = copy
        self.window = window
        self.original = original
        self.points: dict[int, int] = {}

    def write(self) -> None:
        """Make the copy what it has to be."""
        page = bytearray(self.original)
        for offset in self.points:
            page[offset] = INT3
        self.window[:] = page


class Shadows:
    """All shadow frames of one view.

    ``spare`` are frame numbers that were populated for copies, mapped for writing in ``window`` one behind the other.
    A frame stays shadowed when its last breakpoint is gone: reads are what costs, and code is seldom read.
    """

    def __init__(
        self, altp2m: Altp2m, view: int, memory: PhysicalMemory, spare: Sequence[int], window: memoryview
    ) -> None:
        self._altp2m = altp2m
        self.view = view
        self._memory = memory
        self._spare = spare
        self._window = window
        self._used = 0
        self._frames: dict[int, Shadow] = {}
        self.access: Callable[[int, bytes], Access] = lambda _gfn, _original: Access.X
        """From a frame and what it holds to the rights that it begins with."""
        self.rewritten: Callable[[int], object] = lambda _: None
        """Called with a frame that the guest wrote to, before its copy has that."""

    def __contains__(self, gfn: int) -> bool:
        return gfn in self._frames

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def room(self) -> int:
        """How many more frames can be shadowed."""
        return len(self._spare) - self._used

    def arm(self, gpa: int) -> None:
        """Put a breakpoint at a guest-physical address; each call wants its `disarm`.

        The guest must be stopped if it is in the view and the frame is not shadowed yet. `XenError` when no spare
        frame is left.
        """
        gfn, offset = gpa >> 12, gpa & _MASK
        shadow = self._frames.get(gfn) or self._make(gfn)
        shadow.points[offset] = shadow.points.get(offset, 0) + 1
        shadow.window[offset] = INT3

    def disarm(self, gpa: int) -> None:
        """Take back one `arm`."""
        shadow, offset = self._frames[gpa >> 12], gpa & _MASK
        left = shadow.points[offset] - 1
        if left:
            shadow.points[offset] = left
        else:
            del shadow.points[offset]
            shadow.window[offset] = shadow.original[offset]

    def original(self, gpa: int) -> bytes:
        """Return the guest's own bytes at an address: `LONGEST` of them, less at a page's end or where not shadowed."""
        shadow = self._frames.get(gpa >> 12)
        offset = gpa & _MASK
        if shadow is None:
            return self._memory.read(gpa, min(LONGEST, PAGE - offset))
        return shadow.original[offset : offset + LONGEST]

    def page(self, gfn: int) -> bytes:
        """Return the guest's own bytes of a frame that is shadowed."""
        return self._frames[gfn].original

    def _make(self, gfn: int) -> Shadow:
        if not self.room:
            raise XenError("no frame is left for another breakpoint")
        index = self._used
        window = self._window[index * PAGE : (index + 1) * PAGE]
        shadow = Shadow(gfn, self._spare[index], window, self._memory.read(gfn << 12, PAGE))
        shadow.write()
        self._altp2m.change_gfn(self.view, gfn, shadow.copy)
        self._used += 1
        self._frames[gfn] = shadow
        self._altp2m.set_access(self.view, gfn, self.access(gfn, shadow.original))
        return shadow

    def refresh(self, gfn: int) -> list[int]:
        """Carry over what the guest wrote to a frame; return the addresses whose instruction may have changed."""
        shadow = self._frames.get(gfn)
        if shadow is None:
            return []
        now = self._memory.read(gfn << 12, PAGE)
        before = shadow.original
        if now == before:
            return []
        self.rewritten(gfn)
        shadow.original = now
        shadow.write()
        return [
            (gfn << 12) + offset
            for offset in shadow.points
            if now[offset : offset + LONGEST] != before[offset : offset + LONGEST]
        ]

    def refresh_all(self) -> list[int]:
        """Do that for every frame."""
        return [changed for gfn in self._frames for changed in self.refresh(gfn)]
