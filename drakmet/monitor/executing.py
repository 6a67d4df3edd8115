# SPDX-License-Identifier: GPL-2.0-or-later
"""Execute traps: no frame of the guest runs in the view before it was hashed, and none is written to while it may run.

A frame is readable and writable at first. Its first execution traps: it is made read-only, hashed, and made executable,
in this order, with the vCPU waiting; so what was hashed is what runs. Rights of the kind ``rx2rw`` have Xen itself take
execution away again when a vCPU writes to it (xen/arch/x86/mm/mem_access.c, p2m_mem_access_check), with no event; so
each trap is a first execution or one after a write. Frames with breakpoints have copies that are never readable: they
are barred from execution instead, and the copy gets what the guest wrote only when it is.

What dom0 or a device writes into a guest's frame goes past the view: `PageCheck` looks for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from drakmet.errors import GuestError, XenError
from drakmet.executions import ExecutionKind
from drakmet.guest.memory import PAGE_SIZE, extents
from drakmet.monitor.pageevents import Executed
from drakmet.pages import page_hash
from drakmet.pyxen import HOST_VIEW, Access

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from drakmet.guest.memory import PhysicalMemory
    from drakmet.monitor.pageevents import PageEvents
    from drakmet.monitor.shadow import Shadows
    from drakmet.monitor.viewrights import ViewRights
    from drakmet.pyxen import MemAccess, Ring

BARRED: Final = Access.RW
GRANTED: Final = Access.RX2RW
OPEN: Final = Access.RWX
MOST: Final = 16
"""Times a frame may be written and executed in turn within `WINDOW`, before it is let run unseen."""
BUSY: Final = 300
"""Such turns of all frames together within `WINDOW` after which a frame has only `FEW`."""
FEW: Final = 2
WINDOW: Final = 1_000_000_000
REST: Final = 30_000_000_000
"""Nanoseconds for which a frame is let run unseen."""
_SPECIAL: Final = range(0xFEFF0, 0xFF000)
"""Where the toolstack puts a guest's own pages for rings (tools/libs/guest/xg_dom_x86.c, special_pfn)."""


class Frame:
    """A frame that was executed: the hash of what ran, how often it was told of, and where it ran last."""

    __slots__ = ("count", "foreign", "granted", "hash", "opened", "place", "since", "times")

    def __init__(self) -> None:
        self.hash: bytes | None = None
        self.granted = False
        self.foreign = False
        self.opened = 0
        self.times = 0
        self.count = self.since = 0
        self.place: tuple[int, int] = (0, 0)


class Executing:
    """The frames of one guest in one view. ``many``: whether other vCPUs run while one waits."""

    def __init__(
        self,
        rights: ViewRights,
        shadows: Shadows,
        memory: PhysicalMemory,
        ring: Ring,
        pages: PageEvents,
        events: dict[str, int],
        *,
        many: bool,
    ) -> None:
        self.rights = rights
        self.memory = memory
        self._shadows = shadows
        self._ring = ring
        self._pages = pages
        self._events = events
        self._many = many
        self.frames: dict[int, Frame] = {}
        self.all: list[int] = []
        """Every frame that has rights in the view."""
        self.refused: list[int] = []
        """Frames that Xen lets nobody set rights on."""
        self.open: dict[int, Frame] = {}
        self._turns = self._since = 0
        self.note: Callable[..., None] | None = None
        self.changed: Callable[[list[int]], None] = lambda _: None
        shadows.access, shadows.rewritten = self._shadow_access, self._rewritten

    def bar(self, extra: Iterable[int] = ()) -> None:
        """Take execution from every frame, and from ``extra`` ones; the guest is not in the view yet, and runs."""
        look = getattr(self.memory, "look_everywhere", None)
        if look is not None:
            look()
        found = [gfn for start, length in extents(self.memory) for gfn in range(start >> 12, start + length >> 12)]
        wanted = sorted({*found, *extra, *_SPECIAL})
        refused = set(self.rights.set_many(wanted, BARRED))
        self.all = [gfn for gfn in wanted if gfn not in refused]
        self.refused = sorted(refused.intersection(found))

    def executed(self, slot: int, event: MemAccess, registers: Any, time: int) -> None:
        """A vCPU waits to execute a frame that may not be: hash it, grant it, answer, and have it told."""
        gfn, ring = event.gfn, self._ring
        place = (event.gla or 0) & -PAGE_SIZE, registers.cr3 & -2 * PAGE_SIZE
        frame = self.frames.get(gfn)
        if frame is None:
            frame = self.frames[gfn] = Frame()
            kind = ExecutionKind.FIRST
        elif (frame.granted or frame.opened) and self._still(gfn):
            # Two vCPUs came to it at once, and the other's event was before this one.
            self._count("executed already")
            ring.proceed(slot)
            return
        elif frame.foreign:
            kind = ExecutionKind.CHANGED
        elif self._too_often(frame, time):
            kind = ExecutionKind.JIT
        else:
            kind = ExecutionKind.REWRITTEN if place == frame.place else ExecutionKind.REUSED
        frame.place, frame.foreign = place, False
        frame.times += 1
        if self._grant(gfn, frame, time if kind is ExecutionKind.JIT else 0):
            ring.proceed(slot)
        else:
            self._count("not granted")
            ring.step_fast(slot, self.rights.view, HOST_VIEW)
        self._count("execute")
        executed = Executed(kind, gfn, frame.hash, event.gla, frame.times)
        self._pages.tell(executed, registers, time)
        if self.note is not None:
            self.note(executed, registers, time)

    def _still(self, gfn: int) -> bool:
        """Tell whether a frame that was granted still is: Xen takes it back at a write and says nothing."""
        if not self._many and gfn not in self._shadows:
            return False
        return self.rights.get(gfn) in (GRANTED, OPEN, Access.X, Access.RX)

    def _too_often(self, frame: Frame, time: int) -> bool:
        if time - frame.since > WINDOW:
            frame.since, frame.count = time, 0
        if time - self._since > WINDOW:
            self._since, self._turns = time, 0
        frame.count += 1
        self._turns += 1
        return frame.count > (MOST if self._turns <= BUSY else FEW)

    def _grant(self, gfn: int, frame: Frame, opened: int) -> bool:
        """Hash a frame and let it run, ``opened`` without being told of writes; return whether Xen let us."""
        rights = self.rights
        if gfn in self._shadows:
            self.changed(self._shadows.refresh(gfn))
            frame.hash = page_hash(self._shadows.page(gfn))
            done = rights.set(gfn, Access.X)
        elif opened:
            frame.hash = self.read(gfn)
            done = rights.set(gfn, OPEN)
        else:
            # With one vCPU there is nobody who could write meanwhile: it waits.
            if self._many and not rights.set(gfn, Access.R):
                return False
            frame.hash = self.read(gfn)
            done = rights.set(gfn, GRANTED)
        if opened and done:
            self.open[gfn] = frame
        frame.opened = opened if done else 0
        frame.granted = done
        return done

    def read(self, gfn: int) -> bytes | None:
        """Return the hash of what a frame holds; None if it cannot be read."""
        for again in (False, True):
            try:
                return page_hash(self.memory.read(gfn << 12, PAGE_SIZE))
            except GuestError:
                refresh = getattr(self.memory, "refresh", None)
                if again or refresh is None:
                    break
                try:
                    refresh([gfn])
                except XenError:
                    break
        self._count("unreadable frame")
        return None

    def written(self, gfn: int) -> None:
        """A vCPU waits to write to a frame that is, or just was, not writable: let it, and take execution away."""
        self._count("write to code")
        self.rights.set(gfn, BARRED)
        frame = self.frames.get(gfn)
        if frame is not None:
            frame.granted = False

    def bar_one(self, gfn: int, frame: Frame) -> None:
        """Have the next execution of a frame trap again."""
        if gfn in self._shadows:
            self.rights.set(gfn, Access.N)
        else:
            self.rights.set(gfn, BARRED)
        frame.granted, frame.opened = False, 0
        self.open.pop(gfn, None)

    def _shadow_access(self, gfn: int, original: bytes) -> Access:
        """Return the rights that a frame begins with when it gets its copy."""
        frame = self.frames.get(gfn)
        if frame is None:
            return Access.N
        if frame.opened or (frame.granted and frame.hash == page_hash(original)):
            return Access.X
        frame.granted = False
        return Access.N

    def _rewritten(self, gfn: int) -> None:
        """The guest wrote to a frame that has a copy, which does not have it yet."""
        frame = self.frames.get(gfn)
        if frame is not None and frame.granted and not frame.opened:
            self.rights.set(gfn, Access.N)
            frame.granted = False

    def _count(self, kind: str) -> None:
        self._events[kind] = self._events.get(kind, 0) + 1
