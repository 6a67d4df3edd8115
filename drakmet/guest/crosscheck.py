# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the kernel's books agree about the task that a CPU runs, with each other and with the CPU's page tables.

A hostile kernel writes its own books, and not what the MMU walks: a task that the list of tasks or the table of
process ids leaves out still executes, and one that borrows another's memory descriptor executes with its own tables.
`drakmet.scan` compares the books of a whole image (`hidden_processes`); this asks about one task, at a hit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drakmet.guest.lists import linked
from drakmet.guest.memory import Unreadable
from drakmet.guest.paging import ADDRESS_MASK

if TYPE_CHECKING:
    from drakmet.guest.kernel import Kernel

LIST: Final = "list of tasks"
TABLE: Final = "table of process ids"
RUNNING: Final = "what CPUs run"
_INTERNAL: Final = 2
_SLOTS: Final = 64  # XA_CHUNK_SIZE with CONFIG_BASE_SMALL off, include/linux/xarray.h
_MAX_DEPTH: Final = 11
_STEPS: Final = 16
_MAX_WALK: Final = 1 << 16
_U64: Final = (1 << 64) - 1


class Crosscheck:
    """Asks the books of one kernel about single tasks. `GuestError` if the kernel's types lack what it takes."""

    def __init__(self, kernel: Kernel) -> None:
        types = kernel.profile.types
        self._space = kernel.space
        self._kernel_root = kernel.cr3 & ADDRESS_MASK
        self._mm = types.offset("task_struct", "mm")
        self._active_mm = types.offset("task_struct", "active_mm")
        self._pgd = types.offset("mm_struct", "pgd")
        self._pid = types.offset("task_struct", "pid")
        self._tgid = types.offset("task_struct", "tgid")
        self._tasks = types.offset("task_struct", "tasks")
        self._leader = types.offset("task_struct", "group_leader")
        self._thread_pid = types.offset("task_struct", "thread_pid")
        self._link = types.offset("task_struct", "pid_links")
        self._first = types.offset("pid", "tasks")  # tasks[PIDTYPE_PID].first
        self._table = kernel.address("init_pid_ns") + types.offset("pid_namespace", "idr.idr_rt.xa_head")
        self._shift = types.offset("xa_node", "shift")
        self._slots = types.offset("xa_node", "slots")
        self._running = kernel.address("runqueues") + types.offset("rq", "curr")
        self._head = kernel.address("init_task") + self._tasks

    def roots(self, task: int) -> tuple[int, ...]:
        """Return the page tables with which a CPU may run a task, as guest-physical addresses.

        That is its own memory's, or, if it has none (a kernel thread, a process that is over), the ones it borrowed
        or the kernel's. The user's half of a pair (page-table isolation) is in no CR3 where a kernel function is
        entered.
        """
        mm = self._space.read_u64(task + self._mm)
        if mm:
            return (self._root(mm),)
        borrowed = self._space.read_u64(task + self._active_mm)
        return (self._kernel_root, self._root(borrowed)) if borrowed else (self._kernel_root,)

    def _root(self, mm: int) -> int:
        return self._space.translate(self._space.read_u64(mm + self._pgd))

    def absent(self, task: int, gs_base: int) -> list[str]:
        """Return the books that should have the task which the CPU with this base runs, and do not.

        In the middle of a context switch, where none of the bundled traps lies, the run queue is ahead of the CPU.
        """
        space, missing = self._space, []
        pid = space.read_uint(task + self._pid, 4)
        own = space.read_u64(task + self._thread_pid)
        # An idle task is in neither; one that is over was taken out of both, and its memory is gone.
        if pid and (own or space.read_u64(task + self._mm)):
            if not self._listed(space.read_u64(task + self._leader) + self._tasks):
                missing.append(LIST)
            found = self._lookup(pid)
            if not found or found != own or space.read_u64(found + self._first) - self._link != task:
                missing.append(TABLE)
        if space.read_u64(gs_base + self._running & _U64) != task:
            missing.append(RUNNING)
        return missing

    def _listed(self, node: int) -> bool:
        """Look at what is before a node; walk the list only if that is odd, as other CPUs may be changing it."""
        space, at = self._space, node
        try:
            for _ in range(_STEPS):
                before = space.read_u64(at + 8)
                if before == node or space.read_u64(before) != at:
                    break
                if before == self._head:
                    return True
                at = before
            else:
                return True
        except Unreadable:
            pass
        for number, one in enumerate(linked(space, self._head)):
            if one == node:
                return True
            if number > _MAX_WALK:
                raise Unreadable(f"more than {_MAX_WALK} tasks")
        return False

    def _lookup(self, pid: int) -> int:
        """Return the address of the ``struct pid`` of a number in the first namespace, 0 if there is none."""
        space = self._space
        entry = space.read_u64(self._table)
        for _ in range(_MAX_DEPTH):
            if entry & 3 != _INTERNAL or entry <= 4096:
                return entry if not entry & 3 else 0
            shift = space.read_uint(entry - _INTERNAL + self._shift, 1)
            if pid >> shift >= _SLOTS and pid >> shift >> 6:
                return 0
            slot = pid >> shift & _SLOTS - 1
            pid &= (1 << shift) - 1
            entry = space.read_u64(entry - _INTERNAL + self._slots + 8 * slot)
        raise Unreadable("the table of process ids has no end")

    def owner(self, root: int) -> int | None:
        """Return the id of the first listed process whose page tables these are, None if they are nobody's."""
        space = self._space
        for number, node in enumerate(linked(space, self._head)):
            if number > _MAX_WALK:
                raise Unreadable(f"more than {_MAX_WALK} tasks")
            task = node - self._tasks
            mm = space.read_u64(task + self._mm)
            if mm and self._root(mm) == root:
                return space.read_uint(task + self._tgid, 4)
        return None
