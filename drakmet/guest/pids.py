# SPDX-License-Identifier: GPL-2.0-or-later
"""Tasks by the kernel's other books: its table of process ids, and what each CPU runs."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from drakmet.guest.memory import Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.guest.kernel import Kernel

_SLOTS: Final = 64  # XA_CHUNK_SIZE with CONFIG_BASE_SMALL off, include/linux/xarray.h
_MAX_DEPTH: Final = 11
_MAX_ENTRIES: Final = 1 << 22  # PID_MAX_LIMIT
_MAX_CPUS: Final = 8192
_INTERNAL: Final = 2
_KERNEL_HALF: Final = 1 << 63
_U64: Final = (1 << 64) - 1


class Pids:
    """Reads the table of process ids, and the run queues, of one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        types = kernel.profile.types
        self._kernel = kernel
        self._space = kernel.space
        self._root = kernel.address("init_pid_ns") + types.offset("pid_namespace", "idr.idr_rt.xa_head")
        self._slots = types.offset("xa_node", "slots")
        self._first = types.offset("pid", "tasks")  # tasks[PIDTYPE_PID].first
        self._link = types.offset("task_struct", "pid_links")
        self._current = types.offset("rq", "curr")

    def tasks(self) -> Iterator[int]:
        """Yield the tasks, threads among them, that process ids of the first namespace lead to."""
        for pid in self._entries(self._space.read_u64(self._root), 0, set()):
            node = self._space.read_u64(pid + self._first)
            if node:  # else it only names a group or a session that outlived its leader
                yield node - self._link

    def _entries(self, entry: int, depth: int, seen: set[int]) -> Iterator[int]:
        if entry & 3 != _INTERNAL:
            if entry & _KERNEL_HALF and not entry & 3:
                yield entry
            return
        if depth > _MAX_DEPTH or entry in seen or len(seen) > _MAX_ENTRIES:
            raise Unreadable("the table of process ids runs in a circle")
        seen.add(entry)
        raw = self._space.read(entry - _INTERNAL + self._slots, 8 * _SLOTS)
        for (slot,) in struct.iter_unpack("<Q", raw):
            if slot:
                yield from self._entries(slot, depth + 1, seen)

    def running(self) -> Iterator[int]:
        """Yield the task that each CPU runs, its idle task among them."""
        space, kernel = self._space, self._kernel
        count = space.read_uint(kernel.address("nr_cpu_ids"), 4)
        if not 0 < count <= _MAX_CPUS:
            raise Unreadable(f"{count} CPUs")
        queue, offsets = kernel.address("runqueues"), kernel.address("__per_cpu_offset")
        for number in range(count):
            base = space.read_u64(offsets + 8 * number)
            # CPUs that never came still have the offset of the image's own copy.
            if base & _KERNEL_HALF and not space.image_start <= base + queue & _U64 < space.image_end:
                yield space.read_u64((base + queue + self._current) & _U64)
