# SPDX-License-Identifier: GPL-2.0-or-later
"""From the execution of a page to the handlers that want to be told of it, live and replayed."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from drakmet.errors import GuestError
from drakmet.executions import Execution, ExecutionKind
from drakmet.guest.memory import Unreadable
from drakmet.guest.paging import ADDRESS_MASK
from drakmet.monitor.armed import ArmedTrap, Place

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet.executions import ExecuteTrap
    from drakmet.guest.linux import LinuxGuest
    from drakmet.monitor.dispatch import Hits
    from drakmet.monitor.origins import Origins
    from drakmet.monitor.processes import Known, Processes

REGISTERS: Final = ("rip", "cr3", "gs_base", "shadow_gs", "cs_sel", "vcpu_id")
"""What is read of every execution."""
EXECUTE, RESOLVED = "execute", "resolved"
"""Moments of a recording: a page was executed; what it is was looked up, and its handler was run."""
_NAMES: Final = ("kind", "gfn", "hash", "address", "rip", "cr3", "kernel", "times", "origin")
_PAGE: Final = 4095
_USER_TABLES: Final = 4096
"""What the user's half of a pair of page tables has in its address (PTI_USER_PGTABLE_MASK, arch/x86 asm/pgtable.h)."""
_ALWAYS: Final = 1 << 62
_EVERY_PAGE: Final = "every page"


class Executed(NamedTuple):
    """What the MMU told of one page: ``hash`` None if the frame could not be read, ``gla`` None if it gave none."""

    kind: ExecutionKind
    gfn: int
    hash: bytes | None
    gla: int | None
    times: int

    def text(self) -> str:
        """Return it as a recording keeps it."""
        digest = "-" if self.hash is None else self.hash.hex()
        return f"{self.kind.value} {digest} {'-' if self.gla is None else self.gla} {self.times}"

    @classmethod
    def parse(cls, gfn: int, text: str) -> Executed:
        """Return what `text` was made of; ValueError if it was made of nothing."""
        kind, digest, gla, times = text.split()
        return cls(
            ExecutionKind(kind),
            gfn,
            None if digest == "-" else bytes.fromhex(digest),
            None if gla == "-" else int(gla),
            int(times),
        )


class ArmedExecute(ArmedTrap):
    """An execute trap of a plugin, with the counters that every trap has."""

    __slots__ = ()
    event: ClassVar[type[Execution]] = Execution
    last: ClassVar[bool] = True

    def __init__(self, plugin: str, trap: ExecuteTrap) -> None:
        common: Any = _Common(trap)
        super().__init__(plugin, common, Place(0, _EVERY_PAGE))
        self.names = _NAMES


class _Common:
    """The parts of an execute trap under the names that other traps have them."""

    fetch: ClassVar[dict[str, str]] = {}
    returns = None
    limit = _ALWAYS

    def __init__(self, trap: ExecuteTrap) -> None:
        self.label = trap.label
        self.tables = trap.tables
        self.handler = trap.handler
        self.record = trap.record


class PageEvents:
    """Hands what was executed to the traps that want it; who ran it is read at once, what it is later."""

    def __init__(
        self,
        traps: list[ArmedExecute],
        hits: Hits,
        processes: Processes | None,
        guest: LinuxGuest | None,
        origins: Origins | None,
    ) -> None:
        self.traps = traps
        self._hits = hits
        self._processes = processes
        self._guest = guest
        self._origins = origins

    def tell(self, executed: Executed, registers: Any, time: int) -> None:
        """Read who runs there and leave the rest for later; the vCPU still waits."""
        for job in self.jobs(executed, registers, time):
            self._hits.later.append(job)
            self._hits.mixed = True

    def jobs(self, executed: Executed, registers: Any, time: int) -> list[Any]:
        """Return what is to be done when the guest was let go, for each trap."""
        kernel = registers.cs_sel & 3 != 3  # the CPU's privilege is that of CS: 3 in user mode
        known, mm = self._who(registers, time, kernel)
        if known is not None and not known.wanted:
            return []
        address = None if executed.gla is None else executed.gla & ~_PAGE
        origin = None
        if self._origins is not None:
            origin = functools.cache(functools.partial(self._origins.of, address, mm, registers.cr3, kernel))
        digest = Unreadable("no such frame could be read") if executed.hash is None else executed.hash.hex()
        values = (
            executed.kind, executed.gfn, digest, address, registers.rip, registers.cr3, kernel, executed.times, origin,
        )  # fmt: skip
        jobs = []
        for trap in self.traps:
            trap.hits += 1
            jobs.append((trap, values, known, registers.vcpu_id, time))
        return jobs

    def _who(self, registers: Any, time: int, kernel: bool) -> tuple[Known | None, int]:
        """Return the process and its mm_struct, as far as they can be told.

        In user mode the kernel's base is the one that swapgs keeps aside; a program can make its own look like any.
        In kernel mode it may not have been swapped yet. There, in the middle of a switch of tasks, the CPU may have the
        next task's page tables already: so only in user mode the one is held against the other.
        """
        guest, processes = self._guest, self._processes
        if guest is None or processes is None:
            return None, 0
        base = registers.gs_base if kernel and registers.gs_base >> 63 else registers.shadow_gs
        try:
            task = guest.current_task(base)
            mm = guest.task_reader.mm(task)
            if kernel:
                return processes.of(task, time), mm
            root = registers.cr3 & ADDRESS_MASK
            own = guest.task_reader.cr3(mm) if mm else root
        except GuestError:
            return None, 0
        cr3 = own if root == own | _USER_TABLES else registers.cr3
        return processes.current(registers._replace(gs_base=base, cr3=cr3), time), mm


def noting(trap: ArmedExecute, note: Callable[..., None], now: Callable[[], int]) -> None:
    """Have it noted whenever the trap's handler has run: what was read for it belongs to that moment."""
    handler: Any = trap.handler

    def handle(execution: Execution) -> Any:
        try:
            return handler(execution)
        finally:
            note(RESOLVED, now())

    trap.handler = handle  # type: ignore[assignment]  # it takes an Execution, which is a Hit
