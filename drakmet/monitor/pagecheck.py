# SPDX-License-Identifier: GPL-2.0-or-later
"""Looks for what no event tells of execute traps, some frames at a time, and tells it as gaps of the coverage.

Frames that come to the guest later (ballooning) or are exchanged have the rights of the guest's own memory in the view,
so that they run unseen until they are found. Frames that dom0 or a device wrote into hold something else than what was
hashed. Frames that were let run unseen for a while are barred again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

from drakmet.monitor.executing import BARRED, GRANTED, REST
from drakmet.pyxen import Access
from drakmet.records import CoverageKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet.monitor.executing import Executing

_MOMENT: Final = 5_000_000
"""Nanoseconds for looking at rights each time, and for hashing again: a hundredth of a CPU in all."""
_HURRIED: Final = 200_000_000
"""The same while memory comes and goes: no more at once, as the guardian waits for signs of life."""
_LEAST: Final = 16
"""Frames that are looked at all the same."""
_BETWEEN: Final = 32


class Gap(NamedTuple):
    """An interval in which execute traps did not see all."""

    begin: int
    end: int
    kind: CoverageKind
    reason: str
    missed: int | None = None


class PageCheck:
    """One session's looks. ``pages`` says how many frames the guest has now, ``between`` handles events meanwhile."""

    def __init__(self, executing: Executing, pages: Callable[[], int | None], between: Callable[[], object]) -> None:
        self._executing = executing
        self._pages = pages
        self._between = between
        self._size = pages()
        self._at = self._hashed = 0
        self._granted: list[int] = []
        self._rounds: list[int] = []
        self._left = 0
        self._open_since = 0
        self._open_most = 0
        self._untold: list[Gap] = []
        self._begun = 0

    def begin(self, now: int) -> None:
        """The guest is in the view from now on."""
        self._begun = now
        self._rounds = [now]

    def look(self, now: int) -> None:
        """Look at some frames; at all of them if the guest got or gave up memory."""
        size = self._pages()
        if size != self._size:
            self._size, self._left = size, len(self._executing.all)
        found = self._some_rights(now, _HURRIED if self._left > 0 else _MOMENT)
        if found:
            self._left = len(self._executing.all)  # memory seldom changes in one place only
            since = self._rounds[0]
            text = f"{found} frames came to the guest, or were exchanged, and could run unseen until they were found"
            self._untold.append(Gap(since, now, CoverageKind.CHANGED, text))
        self._hash_again(now)
        self._end_rests(now)

    def _some_rights(self, now: int, moment: int) -> int:
        frames = self._executing.all
        found, count, until = 0, 0, time.monotonic_ns() + moment
        while count < len(frames) and (count < _LEAST or time.monotonic_ns() < until):
            found += self._put_right(frames[self._at])
            count += 1
            self._at += 1
            if self._at >= len(frames):
                self._at = 0
                self._rounds = [*self._rounds[-1:], now]
            if count % _BETWEEN == 0:
                self._between()
        self._left -= count
        return found

    def _put_right(self, gfn: int) -> bool:
        """Bar a frame that may run without our leave; tell whether it was so."""
        executing = self._executing
        rights = executing.rights.get(gfn)
        if rights is None:
            # Not in the view: Xen would copy it as it is from the guest's own memory when it is touched.
            if not executing.rights.set(gfn, BARRED):
                return False
        elif rights is not Access.RWX or gfn in executing.open:
            return False
        else:
            executing.rights.set(gfn, BARRED)
        frame = executing.frames.get(gfn)
        if frame is not None:
            frame.granted = False
        refresh = getattr(executing.memory, "refresh", None)
        if refresh is not None:
            refresh([gfn])
        return True

    def _hash_again(self, now: int) -> None:
        if self._hashed >= len(self._granted):
            self._granted, self._hashed = granted(self._executing), 0
        changed, count, until = 0, 0, time.monotonic_ns() + _MOMENT
        while self._hashed < len(self._granted) and (count < _LEAST or time.monotonic_ns() < until):
            changed += self._was_changed(self._granted[self._hashed])
            self._hashed += 1
            count += 1
        if changed:
            text = f"{changed} pages that may run were written by dom0 or a device, and ran unseen until this was found"
            self._untold.append(Gap(self._begun, now, CoverageKind.CHANGED, text))

    def _was_changed(self, gfn: int) -> bool:
        """Bar a frame that holds something else than what was hashed, if no vCPU wrote it; tell whether it was so."""
        executing = self._executing
        frame = executing.frames[gfn]
        if not frame.granted or frame.opened or executing.read(gfn) == frame.hash:
            return False
        rights = executing.rights.get(gfn)
        if rights is Access.X:
            return False  # it has a copy: who looks after the copies bars it before it carries that over
        if rights is not GRANTED:
            frame.granted = False  # a vCPU wrote to it, and Xen took execution away
            return False
        if executing.read(gfn) == frame.hash:
            return False
        frame.foreign = True
        executing.bar_one(gfn, frame)
        return True

    def _end_rests(self, now: int) -> None:
        opened = self._executing.open
        if opened and not self._open_since:
            self._open_since = min(frame.opened for frame in opened.values())
        self._open_most = max(self._open_most, len(opened))
        for gfn, frame in list(opened.items()):
            if now - frame.opened > REST:
                frame.count, frame.since = 0, now
                self._executing.bar_one(gfn, frame)
        if self._open_since and not opened:
            self._tell_of_the_open(now)

    def _tell_of_the_open(self, now: int) -> None:
        text = (
            f"unverifiable: JIT: up to {self._open_most} pages at once were written and executed in turn too often, "
            "and were let run unseen"
        )
        self._untold.append(Gap(self._open_since, now, CoverageKind.UNVERIFIABLE, text))
        self._open_since = self._open_most = 0

    def gaps(self, now: int, *, ending: bool = False) -> list[Gap]:
        """Return what was not told yet."""
        if ending:
            opened = self._executing.open
            if opened and not self._open_since:
                self._open_since = min(frame.opened for frame in opened.values())
            self._open_most = max(self._open_most, len(opened))
            if self._open_since:
                self._tell_of_the_open(now)
            if refused := len(self._executing.refused):
                text = f"{refused} frames of the guest can be given no rights: what runs there was not seen"
                self._untold.append(Gap(self._begun, now, CoverageKind.NOT_ARMED, text))
        untold, self._untold = self._untold, []
        return untold


def granted(executing: Executing) -> list[int]:
    """Return the frames that may run and whose writes by vCPUs Xen would take notice of."""
    return [gfn for gfn, frame in executing.frames.items() if frame.granted and gfn not in executing.open]
