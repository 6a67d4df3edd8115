# SPDX-License-Identifier: GPL-2.0-or-later
"""The processes of a stored file as a tree, whichever engine saw them.

A process is named by what no other one shares: its pid and the time from the guest's boot to its start where that is
known (our own engine reads it), else the number of its life, which an import gives by what it saw being made and end.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.store import Reader

Key = tuple[Any, ...]


@dataclass
class Node:
    """A process, from its first row on."""

    id: int
    session: int
    pid: int | None
    ppid: int | None
    begin: int | None = None
    """When it was made, if that was seen: nanoseconds since 1970."""
    seen: int = 0
    start_time: int | None = None
    end: int | None = None
    status: int | None = None
    signal: int | None = None
    uid: int | None = None
    name: str | None = None
    kernel_thread: bool | None = None
    programs: list[dict[str, Any]] = field(default_factory=list)
    """What it executed: time, path, argv."""
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)

    @property
    def row(self) -> dict[str, Any]:
        """The process as a row; ``parent`` is the parent's id."""
        last = self.programs[-1] if self.programs else {}
        return {
            "session": self.session,
            "process": self.id,
            "parent": self.parent.id if self.parent else None,
            "pid": self.pid,
            "ppid": self.ppid,
            "uid": self.uid,
            "begin": self.begin,
            "end": self.end,
            "status": self.status,
            "signal": self.signal,
            "program": self.name,
            "argv": last.get("argv"),
            "programs": self.programs,
        }


def trees(reader: Reader, session: int | None = None) -> list[Node]:
    """Return the processes that have no known parent, in the order in which they were seen."""
    return Forest(reader, session).roots()


def walk(roots: list[Node]) -> Iterator[tuple[int, Node]]:
    """Yield each process after its parent, with its depth."""
    waiting = [(0, node) for node in reversed(roots)]
    while waiting:
        depth, node = waiting.pop()
        yield depth, node
        waiting += [(depth + 1, child) for child in reversed(node.children)]


def _start(node: Node) -> int:
    return node.start_time or 0


class Forest:
    """All processes of a file, or of one session."""

    def __init__(self, reader: Reader, session: int | None) -> None:
        self._reader = reader
        self._session = session
        self._tables = {table.name: {column.name for column in table.columns} for table in reader.tables()}
        self._nodes: dict[Key, Node] = {}
        self._of_row: dict[int, Node] = {}
        self._of_pid: dict[tuple[int, int | None], list[Node]] = defaultdict(list)
        self._begun: dict[tuple[int, int | None], list[Node]] = defaultdict(list)
        self._parents: dict[Key, int | None] = {}

    def roots(self) -> list[Node]:
        """Read everything, and return where the trees begin."""
        self._processes()
        self._forks()
        self._starts()
        self._ends()
        self._link()
        return [node for node in self._nodes.values() if node.parent is None]

    def node(self, row: int | None) -> Node | None:
        """Return the process that a row of the table process is about, after `roots`."""
        return None if row is None else self._of_row.get(row)

    def _rows(self, table: str, *columns: str) -> Iterator[dict[str, Any]]:
        if table not in self._tables:
            return
        have = self._tables[table]
        names = ", ".join(name if name in have else f"NULL AS {name}" for name in ("id", "session", "time", *columns))
        where = "" if self._session is None else " WHERE session = :session"
        sql = f"SELECT {names} FROM {table}{where} ORDER BY id"  # noqa: S608 - our own names
        _, rows = self._reader.select(sql, {"session": self._session} if where else None, seconds=600)
        yield from rows

    def _processes(self) -> None:
        names = ("pid", "tid", "ppid", "start_time", "comm", "exe", "uid", "kernel_thread", "life", "parent")
        # Threads last: whose they are is known when the processes are.
        for row in sorted(self._rows("process", *names), key=lambda row: row["tid"] not in (None, row["pid"])):
            session, pid, life = row["session"], row["pid"], row["life"]
            key = (session, "life", life) if life is not None else (session, pid, row["start_time"])
            owner = self._of_thread(row)
            if owner is not None:
                self._of_row[row["id"]] = owner
                continue
            node = self._nodes.get(key)
            if node is None:
                node = self._nodes[key] = Node(row["id"], session, pid, row["ppid"], seen=row["time"])
                node.start_time = row["start_time"]
                self._of_pid[session, pid].append(node)
                if node.start_time is not None:
                    bisect.insort(self._begun[session, pid], node, key=_start)
                self._parents[key] = row["parent"]
            elif row["parent"] is not None:
                self._parents[key] = row["parent"]
            node.ppid = row["ppid"] if row["ppid"] is not None else node.ppid
            node.uid = row["uid"] if row["uid"] is not None else node.uid
            node.name = row["exe"] or row["comm"] or node.name
            node.kernel_thread = row["kernel_thread"]
            self._of_row[row["id"]] = node

    def _of_thread(self, row: dict[str, Any]) -> Node | None:
        """Return the process that a thread belongs to: that of its number which began last before the thread did."""
        started = row["start_time"]
        if row["tid"] in (None, row["pid"]) or started is None:
            return None
        begun = self._begun[row["session"], row["pid"]]
        place = bisect.bisect_right(begun, started, key=_start)
        return begun[place - 1] if place else None

    def _forks(self) -> None:
        for row in self._rows("process_fork", "process", "child_pid", "child_start_time", "thread"):
            if row["thread"]:
                continue
            session, pid, start = row["session"], row["child_pid"], row["child_start_time"]
            maker = self._of_row.get(row["process"])
            child = self._nodes.get((session, pid, start)) if start is not None else self._at(session, pid, row["time"])
            if child is None:
                if start is None or maker is None:
                    continue
                # It did nothing that was trapped; that it was there is known all the same.
                child = self._nodes[session, pid, start] = Node(-row["id"], session, pid, maker.pid, seen=row["time"])
                self._of_pid[session, pid].append(child)
                child.name, child.start_time = maker.name, start
            child.begin = row["time"]
            if maker is not None and start is not None:
                child.parent = maker

    def _starts(self) -> None:
        for row in self._rows("process_start", "process", "pid", "path", "argv", "script"):
            node = self._of_row.get(row["process"])
            if node is None or (row["pid"] is not None and node.pid != row["pid"]):
                node = self._at(row["session"], row["pid"], row["time"])
            if node is not None:
                program = {"time": row["time"], "path": row["path"], "argv": row["argv"], "script": row["script"]}
                node.programs.append(program)
                node.name = row["path"] or node.name

    def _ends(self) -> None:
        for row in self._rows("process_exit", "process", "pid", "status", "signal"):
            node = self._of_row.get(row["process"])
            if node is not None and (row["pid"] is None or node.pid == row["pid"]):
                node.end, node.status, node.signal = row["time"], row["status"], row["signal"]

    def _at(self, session: int, pid: int | None, time: int) -> Node | None:
        """Return the process that had a pid at a time: the last that was seen by then, or the first after it."""
        nodes = self._of_pid.get((session, pid), [])
        before = [node for node in nodes if node.seen <= time]
        return before[-1] if before else nodes[0] if nodes else None

    def _link(self) -> None:
        for key, node in self._nodes.items():
            if node.parent is None:
                number = self._parents.get(key)
                node.parent = self._of_row.get(number) if number is not None else self._by_pid(key, node)
        for node in self._nodes.values():
            if node.parent is not None and self._circular(node):
                node.parent = None
        for node in self._nodes.values():
            if node.parent is not None:
                node.parent.children.append(node)

    def _by_pid(self, key: Key, node: Node) -> Node | None:
        """Return the process that had the parent's pid when this one started, where start times tell."""
        if key[1] == "life" or node.ppid is None or node.ppid == node.pid:
            return None
        started = node.start_time
        older = [
            other
            for other in self._of_pid.get((node.session, node.ppid), [])
            if started is None or other.start_time is None or other.start_time <= started
        ]
        return max(older, key=lambda other: other.start_time or 0) if older else None

    def _circular(self, node: Node) -> bool:
        seen = {id(node)}
        above = node.parent
        while above is not None:
            if id(above) in seen:
                return True
            seen.add(id(above))
            above = above.parent
        return False
