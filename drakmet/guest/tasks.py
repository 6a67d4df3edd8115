# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes: who is running, read from task_struct and what hangs on it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import msgspec

from drakmet.errors import GuestError
from drakmet.guest.layout import Slice, first
from drakmet.guest.memory import Unreadable
from drakmet.guest.paths import GuestPath, Paths, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from drakmet.guest.kernel import Kernel

T = TypeVar("T")

PF_KTHREAD: Final = 0x0020_0000  # include/linux/sched.h
MAX_TASKS: Final = 1 << 22  # PID_MAX_LIMIT
_MAX_LEVELS: Final = 32  # MAX_PID_NS_LEVEL
_MAX_CGROUP_DEPTH: Final = 256
_MAX_NAME: Final = 255
_CONTAINER: Final = re.compile(r"(?:^|[/:-])([0-9a-f]{64})(?:\.scope)?(?=/|$)")
_KERNEL_HALF: Final = 1 << 63


class Process(msgspec.Struct, frozen=True):
    """A task as it was when it was read.

    ``tgid`` is what user space calls the process id, ``pid`` the thread's, both in the root PID namespace.
    ``start_time`` is in nanoseconds since boot and tells two uses of one pid apart. ``exe`` is the path of the
    executable (None for kernel threads). Namespaces are their inode numbers, as ``/proc/PID/ns`` shows them.
    A field that could not be read is None and has its reason in ``missing``.
    """

    task: int
    pid: int
    tgid: int
    comm: str
    start_time: int
    kernel_thread: bool
    ppid: int | None = None
    uid: int | None = None
    gid: int | None = None
    euid: int | None = None
    egid: int | None = None
    exe: str | None = None
    exe_deleted: bool | None = None
    cr3: int | None = None
    ns_pid: int | None = None
    pid_ns: int | None = None
    mnt_ns: int | None = None
    net_ns: int | None = None
    cgroup: str | None = None
    container: str | None = None
    missing: dict[str, str] = {}


class _Guard(Generic[T]):
    """Reads fields one by one; what fails becomes None and a reason."""

    def __init__(self) -> None:
        self.missing: dict[str, str] = {}

    def __call__(self, field: str, read: Callable[[], Any]) -> Any:  # whatever the field is
        try:
            return read()
        except GuestError as error:
            self.missing[field] = error.what
            return None


class Tasks:
    """Reads the tasks of one kernel."""

    def __init__(self, kernel: Kernel, paths: Paths) -> None:
        types = kernel.profile.types
        self._kernel = kernel
        self._space = kernel.space
        self._paths = paths
        self.start_field = first(types, "task_struct", "start_boottime", "real_start_time")  # renamed in 5.5
        # Everything that tells whether a task is still the one it was, within about 1 KiB: one read.
        self.key = Slice(
            types, "task_struct", "pid", "tgid", self.start_field, "comm", "mm", "real_parent", "cred", "nsproxy",
            "cgroups", "self_exec_id",
        )  # fmt: skip
        self.cred = Slice(types, "cred", "uid", "gid", "suid", "sgid", "euid", "egid", "fsuid", "fsgid")
        self._flags = types.offset("task_struct", "flags")
        self._tgid = types.offset("task_struct", "tgid")
        self._tasks = types.offset("task_struct", "tasks")
        self._group_leader = types.offset("task_struct", "group_leader")
        self._thread_pid = types.offset("task_struct", "thread_pid")
        self._signal = types.offset("task_struct", "signal")
        self._thread_head = types.offset("signal_struct", "thread_head")
        self._thread_node = types.offset("task_struct", "thread_node")
        self._pgd = types.offset("mm_struct", "pgd")
        self._exe_file = types.offset("mm_struct", "exe_file")
        self._f_path = types.offset("file", "f_path")
        self._pid = Slice(types, "pid", "level")
        self._numbers = types.offset("pid", "numbers")
        self._upid = Slice(types, "upid", "nr", "ns")
        self._upid_size = types.size("upid")
        self._pid_ns_inum = types.offset("pid_namespace", "ns.inum")
        self._nsproxy = Slice(types, "nsproxy", "mnt_ns", "net_ns")
        self._mnt_ns_inum = types.offset("mnt_namespace", "ns.inum")
        self._net_ns_inum = types.offset("net", "ns.inum")
        self._dfl_cgrp = types.offset("css_set", "dfl_cgrp")
        self._cgroup_kn = types.offset("cgroup", "kn")
        self._kernfs = Slice(types, "kernfs_node", first(types, "kernfs_node", "parent", "__parent"), "name")
        per_cpu = kernel.find("current_task")
        if per_cpu is None:  # Linux 6.2 to 6.14
            per_cpu = kernel.address("pcpu_hot") + types.offset("pcpu_hot", "current_task")
        self._current = per_cpu
        self.init_task = kernel.address("init_task")

    def current(self, gs_base: int) -> int:
        """Return the address of the task that runs on the CPU whose kernel GS base this is."""
        return self._space.read_u64(gs_base + self._current & 0xFFFF_FFFF_FFFF_FFFF)

    def process(self, task: int) -> Process:
        """Return the task at ``task``; `Unreadable` if even its pid cannot be read."""
        return self.decode(task, self.key.read(self._space, task))

    def decode(self, task: int, key: tuple[Any, ...], cred: tuple[int, ...] | None = None) -> Process:
        """Return the task whose `key` and, if known, `cred` members have been read."""
        pid, tgid, start, comm, mm, parent, cred_at, nsproxy, cgroups, _ = key
        if not 0 <= pid <= MAX_TASKS or not 0 <= tgid <= MAX_TASKS or not task & _KERNEL_HALF:
            raise Unreadable(f"{task:#x} is no task")
        space, guard = self._space, _Guard[object]()
        if cred is None:
            cred = guard("uid", lambda: self.cred.read(space, cred_at))
        exe: GuestPath | None = guard("exe", lambda: self.exe(mm)) if mm else None
        numbers = guard("pid_ns", lambda: self.pid_namespace(task)) or (None, None)
        spaces = (guard("mnt_ns", lambda: self.namespaces(nsproxy)) if nsproxy else None) or (None, None)
        cgroup = guard("cgroup", lambda: self.cgroup(cgroups))
        container = _CONTAINER.search(cgroup) if cgroup else None
        return Process(
            task=task,
            pid=pid,
            tgid=tgid,
            comm=text(comm.partition(b"\0")[0]),
            start_time=start,
            kernel_thread=bool(guard("kernel_thread", lambda: space.read_uint(task + self._flags, 4) & PF_KTHREAD)),
            ppid=guard("ppid", lambda: space.read_uint(parent + self._tgid, 4)),
            uid=cred[0] if cred else None,
            gid=cred[1] if cred else None,
            euid=cred[4] if cred else None,
            egid=cred[5] if cred else None,
            exe=exe.text if exe else None,
            exe_deleted=exe.deleted if exe else None,
            cr3=guard("cr3", lambda: self.cr3(mm)) if mm else None,
            ns_pid=numbers[0],
            pid_ns=numbers[1],
            mnt_ns=spaces[0],
            net_ns=spaces[1],
            cgroup=cgroup,
            container=container[1] if container else None,
            missing=guard.missing,
        )

    def mm(self, task: int) -> int:
        """Return the address of the task's mm_struct, 0 for a kernel thread."""
        mm: int = self.key.read(self._space, task)[4]
        return mm

    def cr3(self, mm: int) -> int:
        """Return the guest-physical address of the top page table of an mm_struct."""
        return self._space.translate(self._space.read_u64(mm + self._pgd))

    def exe(self, mm: int) -> GuestPath:
        """Return the path of the executable of an mm_struct."""
        file = self._space.read_u64(mm + self._exe_file)
        if not file:
            raise Unreadable("the process has no executable file")
        return self._paths.path_at(file + self._f_path)

    def pid_namespace(self, task: int) -> tuple[int, int]:
        """Return the pid in the task's own PID namespace, and that namespace's inode number."""
        pid = self._space.read_u64(task + self._thread_pid)
        if not pid:
            raise Unreadable("the task has exited")
        (level,) = self._pid.read(self._space, pid)
        if level >= _MAX_LEVELS:
            raise Unreadable(f"a PID namespace {level} levels deep")
        number, namespace = self._upid.read(self._space, pid + self._numbers + level * self._upid_size)
        return number, self._space.read_uint(namespace + self._pid_ns_inum, 4)

    def namespaces(self, nsproxy: int) -> tuple[int, int]:
        """Return the inode numbers of the mount and network namespaces."""
        mnt, net = self._nsproxy.read(self._space, nsproxy)
        space = self._space
        return space.read_uint(mnt + self._mnt_ns_inum, 4), space.read_uint(net + self._net_ns_inum, 4)

    def cgroup(self, css_set: int) -> str:
        """Return the path of the task's cgroup in the unified hierarchy, as ``/proc/PID/cgroup`` has it."""
        cgroup = self._space.read_u64(css_set + self._dfl_cgrp)
        node = self._space.read_u64(cgroup + self._cgroup_kn)
        parts: list[str] = []
        for _ in range(_MAX_CGROUP_DEPTH):
            parent, name = self._kernfs.read(self._space, node)
            if not parent:
                return "/" + "/".join(reversed(parts))
            parts.append(text(self._space.read_cstring(name, _MAX_NAME)))
            node = parent
        raise Unreadable("a cgroup path that does not end")

    def tasks(self) -> Iterator[int]:
        """Yield the thread group leaders in the kernel's list, the swapper left out.

        The list is the guest's own: a hostile kernel can leave tasks out. A list that loops or is damaged ends
        in `Unreadable` after what was sound.
        """
        yield from self._list(self.init_task + self._tasks, self._tasks)

    def threads(self, task: int) -> Iterator[int]:
        """Yield all threads of the process ``task`` belongs to."""
        signal = self._space.read_u64(task + self._signal)
        yield from self._list(signal + self._thread_head, self._thread_node)

    def _list(self, head: int, offset: int) -> Iterator[int]:
        seen = {head}
        at = self._space.read_u64(head)
        while at != head:
            if at in seen or len(seen) > MAX_TASKS:
                raise Unreadable("a list of tasks runs in a circle")
            seen.add(at)
            yield at - offset
            at = self._space.read_u64(at)


class ProcessCache:
    """Decoded processes, each checked against memory whenever it is asked for.

    A hit costs two reads: the task's own members (pid, start time, name, mm, parent, credentials, namespaces,
    count of execs) and its user and group ids. Nothing is taken from the cache unless all of these are equal.
    """

    def __init__(self, tasks: Tasks, limit: int = 4096) -> None:
        self._read = tasks._space.read  # noqa: SLF001  # the hot path of this room: no call in between
        self._tasks = tasks
        self._start, self._length = tasks.key.start, tasks.key.length
        self._limit = limit
        self._known: dict[int, tuple[tuple[Any, ...], bytes, Process]] = {}
        self._cred_start, self._cred_length = tasks.cred.start, tasks.cred.length
        self.hits = self.misses = 0

    def get(self, task: int) -> Process:
        """Return the process of ``task`` as it is now; `Unreadable` if it cannot be read."""
        key = self._tasks.key.read(self._tasks._space, task)  # noqa: SLF001
        cred = self._read(key[6] + self._cred_start, self._cred_length)
        known = self._known.get(task)
        if known is not None and known[0] == key and known[1] == cred:
            self.hits += 1
            return known[2]
        self.misses += 1
        process = self._tasks.decode(task, key, self._tasks.cred.unpack(cred))
        if len(self._known) >= self._limit:
            del self._known[next(iter(self._known))]
        self._known[task] = (key, cred, process)
        return process

    def drop(self, task: int) -> None:
        """Forget ``task``."""
        self._known.pop(task, None)
