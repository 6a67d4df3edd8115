# SPDX-License-Identifier: GPL-2.0-or-later
"""Process records: one row for each state of a process, whose number the events carry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from drakmet.errors import GuestError
from drakmet.guest.paging import ADDRESS_MASK
from drakmet.monitor.identity import IdentityCheck
from drakmet.monitor.values import settle
from drakmet.records import Process

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet.guest import tasks
    from drakmet.guest.linux import LinuxGuest
    from drakmet.records import Record

_LIMIT: Final = 1 << 16
_FIELDS: Final = (
    "ppid", "start_time", "comm", "exe", "uid", "euid", "gid", "kernel_thread", "container", "pid_ns", "mnt_ns",
    "net_ns",
)  # fmt: skip
_NAMES: Final = {"cgroup": "container"}


class Known:
    """A process as the guest view has it, with its row; ``wanted`` by the filters, ``stack`` pages by address.

    ``root`` are the page tables that were found to be, or not to be, its own; 0 before the first comparison.
    """

    __slots__ = ("record", "root", "source", "stack", "wanted")

    def __init__(self, source: tasks.Process, record: Process, wanted: bool) -> None:
        self.source = source
        self.record = record
        self.wanted = wanted
        self.root = 0
        self.stack: dict[int, int] = {}


class Processes:
    """Gives each state of a process one row, and puts it out when it is first met."""

    def __init__(
        self,
        guest: LinuxGuest,
        session: int,
        first: int,
        put: Callable[[Record], object],
        wants: Callable[[Process], bool] | None,
    ) -> None:
        self._get = guest.process
        self._current = guest.current_task
        self._session = session
        self._next = first
        self._put = put
        self._wants = wants
        self._tasks: dict[int, Known] = {}
        self._rows: dict[tuple[Any, ...], Known] = {}
        self.count = 0
        self.identity = IdentityCheck(guest.kernel, session, put)
        self.current = self._finder()
        """From a hit's registers, and the time, to who runs there; None if it cannot be read."""

    def _finder(self) -> Callable[[Any, int], Known | None]:
        # A closure, as this runs at every hit: its names are half as dear as attributes.
        current_task, get, find, intern = self._current, self._get, self._tasks.get, self._intern
        check, mask = self.identity.check, ADDRESS_MASK

        def current(registers: Any, time: int) -> Known | None:
            try:
                task = current_task(registers.gs_base)
                source = get(task)
            except GuestError:
                return None
            known = find(task)
            if known is None or known.source is not source:
                known = intern(task, source, time)
            if registers.cr3 & mask != known.root:
                check(known, task, registers, time)
            return known

        return current

    def of(self, task: int, time: int) -> Known | None:
        """Return the process at ``task``; None if it cannot be read."""
        try:
            source = self._get(task)
        except GuestError:
            return None
        known = self._tasks.get(task)
        if known is not None and known.source is source:
            return known
        return self._intern(task, source, time)

    def _intern(self, task: int, source: tasks.Process, time: int) -> Known:
        values = {name: settle(getattr(source, name)) for name in _FIELDS}
        missing = sorted({_NAMES.get(name, name) for name in source.missing} & set(_FIELDS))
        key = (source.tgid, source.pid, *values.values(), *missing)
        known = self._rows.get(key)
        if known is None:
            record = Process(
                id=self._next,
                session=self._session,
                time=time,
                pid=source.tgid,
                tid=source.pid,
                unreadable=",".join(missing) or None,
                **values,
            )
            self._next += 1
            self.count += 1
            known = Known(source, record, self._wants is None or self._wants(record))
            if len(self._rows) >= _LIMIT:
                self._rows.clear()
            self._rows[key] = known
            self._put(record)
        else:
            known = Known(source, known.record, known.wanted)
        if len(self._tasks) >= _LIMIT:
            self._tasks.clear()
        self._tasks[task] = known
        return known
