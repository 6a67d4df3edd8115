# SPDX-License-Identifier: GPL-2.0-or-later
"""Who did what a line tells of: process rows out of what each line says of its process.

DRAKVUF names a process by its pid alone, and a pid is used again. A life lasts from what tells that the process was
made to what tells that the next one with its pid was; after an end there are still lines, of what the kernel closes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from drakmet.drakvuf.lenient import guest_text
from drakmet.records import Process

if TYPE_CHECKING:
    from collections.abc import Callable

_LIMIT = 1 << 16
_KTHREADD = 2
_UNTOLD = "start_time,comm,euid,gid,container,pid_ns,mnt_ns,net_ns"
_NOTHING_TOLD = "ppid,start_time,comm,exe,uid,euid,gid,kernel_thread,container,pid_ns,mnt_ns,net_ns"
_BITS = 1 << 63


class Actor(NamedTuple):
    """The process and thread of a line; ``prefix`` begins the JSON of the line's other keys."""

    process: int
    tid: int
    prefix: str
    pid: int


class Told(NamedTuple):
    """What a line says of its process."""

    pid: int
    ppid: int
    tid: int
    user: int
    name: str
    user_name: str | None


class _Life:
    """One process, from its beginning to its end."""

    __slots__ = ("actors", "ended", "final", "first", "made", "parent", "ppid", "rows")

    def __init__(self) -> None:
        self.first: int | None = None
        self.parent: int | None = None
        self.ppid: int | None = None
        self.made = False
        self.ended = False
        self.final: int | None = None
        """When that was told which comes once in a life."""
        self.rows: dict[tuple[int | None, int | None, str | None], int] = {}
        self.actors: list[str] = []


class Processes:
    """Gives each state of each process one row; ``put`` gets it when it is first met."""

    def __init__(self, session: int, first: int, put: Callable[[Process], object]) -> None:
        self.actors: dict[str, Actor] = {}
        self.windows: bool | None = None
        self._session = session
        self._next = first
        self._put = put
        self._lives: dict[int, _Life] = {}
        self._over: dict[int, None] = {}
        """The pids of those that have ended, in the order of their ends."""

    def actor(self, key: str, told: Told, time: int) -> Actor:
        """Return, and remember under ``key``, who is told of."""
        life = self._life(told.pid)
        row = self._row(life, told.pid, told.ppid, told.user, told.name, told.tid, time)
        prefix = "{" if told.user_name is None else f'{{"UserName":"{told.user_name}",'
        actor = Actor(row, told.tid, prefix, told.pid)
        if len(self.actors) >= _LIMIT:
            self.actors.clear()
            for one in self._lives.values():
                one.actors.clear()
        self.actors[key] = actor
        life.actors.append(key)
        return actor

    def known(self, pid: int, time: int) -> int | None:
        """Return the newest row of the process that has this pid now, or a row that says only its pid."""
        if not 0 <= pid < _BITS:
            return None
        life = self._life(pid)
        return next(reversed(life.rows.values())) if life.rows else self._row(life, pid, None, None, None, None, time)

    def running(self, pid: int, ppid: int, name: str, time: int) -> int:
        """A process is listed as running when the log begins."""
        life = self._life(pid)
        if life.made or life.ended:
            life = self._begin(pid)
        life.made = True
        # What runs is listed in the order in which it was made: who has the parent's pid now is the parent.
        life.ppid, life.parent = ppid, self._first_of(ppid) if ppid != pid else None
        return self._row(life, pid, ppid, None, name, None, time)

    def made(self, pid: int, maker: int, name: str | None, time: int) -> None:
        """A process was made by the one with the pid ``maker``."""
        parent = self._first_of(maker)
        life = self._lives.get(pid)
        # On another vCPU the new process may have been faster than the return of what made it.
        if life is None or life.ended or life.made:
            life = self._begin(pid)
        life.made = True
        life.ppid, life.parent = maker, parent
        self._row(life, pid, maker, None, name, None, time)

    def ended(self, pid: int, time: int, *, final: bool) -> bool:
        """A process has ended, or was told to; False if that was known.

        ``final`` is what comes once in a life: the second one is another process's, whose beginning was not seen.
        """
        life = self._life(pid)
        if final and life.final not in (None, time):
            life = self._begin(pid)
        was, life.ended = life.ended, True
        if final:
            life.final = time
        self._over[pid] = None
        return not was

    def strange(self, pid: int) -> bool:
        """Tell whether nothing but its end is known of the process that has this pid now."""
        life = self._lives.get(pid)
        return life is None or not life.rows

    def _first_of(self, pid: int) -> int | None:
        life = self._lives.get(pid)
        return life.first if life else None

    def _life(self, pid: int) -> _Life:
        return self._lives.get(pid) or self._begin(pid)

    def _begin(self, pid: int) -> _Life:
        if (old := self._lives.pop(pid, None)) is not None:
            for key in old.actors:
                self.actors.pop(key, None)
        self._over.pop(pid, None)
        if len(self._lives) >= _LIMIT:
            # Who has ended is asked for no more, but by what was on its way; so those go first.
            gone = next(iter(self._over or self._lives))
            self._over.pop(gone, None)
            for key in self._lives.pop(gone).actors:
                self.actors.pop(key, None)
        life = self._lives[pid] = _Life()
        return life

    def _row(
        self,
        life: _Life,
        pid: int,
        ppid: int | None,
        user: int | None,
        name: str | None,
        tid: int | None,
        time: int,
    ) -> int:
        key = (ppid, user, name)
        row = life.rows.get(key)
        if row is not None:
            return row
        row, self._next = self._next, self._next + 1
        if life.first is None:
            life.first = row
        if len(life.rows) >= _LIMIT:
            life.rows.clear()
        life.rows[key] = row
        if ppid is not None and ppid != life.ppid:
            # An orphan of Linux gets another parent; on Windows, only what was made in another's name changes it.
            if life.parent is None or self.windows:
                life.parent = self._first_of(ppid) if ppid != pid else None
            life.ppid = ppid
        self._put(self._record(row, life.first, life.parent, pid, ppid, user, name, tid, time))
        return row

    def _record(
        self,
        row: int,
        life: int,
        parent: int | None,
        pid: int,
        ppid: int | None,
        user: int | None,
        name: str | None,
        tid: int | None,
        time: int,
    ) -> Process:
        if self.windows is None and name is not None and (name.startswith(("/", "\\")) or pid == _KTHREADD):
            self.windows = name.startswith("\\")
        untold = _UNTOLD if name is not None else _NOTHING_TOLD if ppid is None else _NOTHING_TOLD[5:]
        exe = comm = None
        kernel = False if name else None
        if not self.windows and (ppid == _KTHREADD or (pid in (0, _KTHREADD) and ppid == 0)):
            kernel, comm = True, name
        elif name and (self.windows or "/" in name):
            exe = name
        elif name:  # process-170, once its memory is gone; or the name of its thread
            comm, untold = name, untold + ",exe"
        if user is None and name is not None:
            untold += ",uid"
        return Process(
            id=row,
            session=self._session,
            time=time,
            pid=pid,
            tid=tid,
            ppid=ppid,
            comm=None if comm is None else guest_text(comm),
            exe=None if exe is None else guest_text(exe),
            uid=None if self.windows else user,
            windows_session=user if self.windows else None,
            kernel_thread=kernel,
            life=life,
            parent=parent,
            unreadable=untold,
        )
