# SPDX-License-Identifier: GPL-2.0-or-later
"""Return traps: breakpoints where calls return to, learned at the first call and then left in place.

A pending call is known by its stack pointer: kernel stacks are not shared, so one stack pointer is one frame of one
task, and a new call there replaces what was left of an older one. The task is compared as well: a stack can be given
to another task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from drakmet.errors import GuestError

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet.guest.linux import LinuxGuest
    from drakmet.monitor.armed import ArmedTrap
    from drakmet.monitor.processes import Known

    Waiting = list[tuple[ArmedTrap, tuple[Any, ...]]]
    Call = tuple[Waiting, Any, Known | None]

_MAX_PENDING: Final = 4096
_MAX_SITES: Final = 2048
_PAGE: Final = 4095


class Returns:
    """Calls that have not returned yet, on any number of vCPUs.

    ``learn`` is called with each return address that is new, before the call goes on; it returns whether returns
    there will be told of.
    """

    def __init__(self, guest: LinuxGuest, learn: Callable[[int], bool]) -> None:
        self._guest = guest
        self._space = guest.space
        self._current = guest.current_task
        self._learn = learn
        self._sites: dict[int, bool] = {}
        self._pending: dict[int, tuple[Waiting, Any, Known | None, int]] = {}
        self._physical = guest.memory.read_u64
        self.lost = 0

    def enter(self, registers: Any, waiting: Waiting, known: Known | None) -> None:
        """A function whose return is wanted was entered."""
        rsp = registers.rsp
        try:
            address = self._return_address(rsp, known)
            task = self._current(registers.gs_base)
        except GuestError:
            self._lose(waiting)
            return
        told = self._sites.get(address)
        if told is None:
            if not address >> 63 or len(self._sites) >= _MAX_SITES:
                self._lose(waiting)
                return
            told = self._sites[address] = self._learn(address)
        if not told:
            self._lose(waiting)
            return
        pending = self._pending
        if len(pending) >= _MAX_PENDING:
            self._lose(pending.pop(next(iter(pending)))[0])
        pending[rsp + 8] = waiting, registers, known, task

    def _return_address(self, rsp: int, known: Known | None) -> int:
        """Read the word at the top of a kernel stack.

        Stacks are mapped one by one and a walk costs four reads. A task keeps its stack's pages for its life, and
        ``known.source`` is a new object when it is another task: so the pages found are kept there.
        """
        space = self._space
        if known is None or space.page_offset <= rsp < space.direct_end:
            return space.read_u64(rsp)
        page = rsp & ~_PAGE
        frame = known.stack.get(page)
        if frame is None:
            frame = known.stack[page] = space.translate(page)
        return self._physical(frame + (rsp & _PAGE))

    def forget(self, rsp: int) -> None:
        """A call that nobody wants to hear of takes the place of one that is pending."""
        self._pending.pop(rsp + 8, None)

    def leave(self, registers: Any) -> Call | None:
        """Return the call that returns here now; None for one whose entry was not seen."""
        call = self._pending.pop(registers.rsp, None)
        if call is None:
            return None
        waiting, entry, known, task = call
        try:
            if self._current(registers.gs_base) != task:
                self._lose(waiting)
                return None
        except GuestError:
            self._lose(waiting)
            return None
        return waiting, entry, known

    def _lose(self, waiting: Waiting) -> None:
        self.lost += len(waiting)
        for trap, _ in waiting:
            trap.lost += 1

    def abandon(self) -> list[Call]:
        """Return every call that has not returned, and forget them: the watch ends."""
        calls = [(waiting, registers, known) for waiting, registers, known, _ in self._pending.values()]
        self._pending.clear()
        return calls

    def drop(self, trap: ArmedTrap) -> None:
        """Forget the calls that ``trap`` waits for."""
        for rsp, (waiting, registers, known, task) in list(self._pending.items()):
            left = [one for one in waiting if one[0] is not trap]
            if not left:
                del self._pending[rsp]
            elif len(left) != len(waiting):
                self._pending[rsp] = left, registers, known, task

    @property
    def pending(self) -> int:
        """How many calls have not returned."""
        return len(self._pending)
