# SPDX-License-Identifier: GPL-2.0-or-later
"""Processes: who is running, read from task_struct and what hangs on it."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

import msgspec

from drakmet.errors import GuestError
from drakmet.guest import flat
from drakmet.guest.layout import Slice, first
from drakmet.guest.memory import PAGE_SIZE, Unreadable
from drakmet.guest.paging import KernelSpace
from drakmet.guest.pathtypes import GuestPath, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from drakmet.guest.kernel import Kernel
    from drakmet.guest.paths import Paths

T = TypeVar("T")

PF_KTHREAD: Final = 0x0020_0000  # include/linux/sched.h
MAX_TASKS: Final = 1 << 22  # PID_MAX_LIMIT
_MAX_LEVELS: Final = 32  # MAX_PID_NS_LEVEL
_MAX_CGROUP_DEPTH: Final = 256
_MAX_NAME: Final = 255
# docker-ID.scope, libpod-ID.scope, cri-containerd-ID.scope, plain IDs; LXC's and systemd's machines have names.
_CONTAINER: Final = re.compile(
    r"(?:^|[/:-])([0-9a-f]{64})(?:\.scope)?(?=/|$)|/(?:lxc\.payload\.|lxc/)([^/]+)|/machine-([^/]+)\.scope(?=/|$)"
)
_KERNEL_HALF: Final = 1 << 63
_TRY_AGAIN: Final = 32


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


def container_of(cgroup: str | None) -> str | None:
    """Return the id (or name) of the container whose processes live in this cgroup, None if it is none."""
    found = _CONTAINER.search(cgroup) if cgroup else None
    return found[found.lastindex or 0] if found else None


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
        self.space = kernel.space
        self._paths = paths
        self.start_field = first(types, "task_struct", "start_boottime", "real_start_time")  # renamed in 5.5
        # Everything that tells whether a task is still the one it was, within about 1 KiB: one read.
        self.key = Slice(
            types, "task_struct", "pid", "tgid", self.start_field, "comm", "self_exec_id", "real_parent", "cred",
            "nsproxy", "cgroups",
        )  # fmt: skip
        self.cred = Slice(types, "cred", "uid", "gid", "suid", "sgid", "euid", "egid", "fsuid", "fsgid")
        self._flags = types.offset("task_struct", "flags")
        self._mm = types.offset("task_struct", "mm")
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
        self.current = flat.current_task(self.space, per_cpu)
        """From the kernel's GS base of a CPU to the address of the task that runs on it."""
        self.init_task = kernel.address("init_task")
        space, noting = kernel.space, flat.NotingMemory(kernel.memory)
        image = space.image_start, space.image_end, space.image_gpa
        self._noting = KernelSpace(noting, space.root, space.levels, space.page_offset, image)
        # Shared by many tasks, and dear to read.
        self.namespaces: Callable[[int], tuple[int, int]] = flat.remember(kernel.memory, noting, self._read_namespaces)
        """From an nsproxy to the inode numbers of its mount and network namespaces."""
        self.cgroup: Callable[[int], str] = flat.remember(kernel.memory, noting, self._read_cgroup)
        """From a css_set to the path of the cgroup in the unified hierarchy."""

    def process(self, task: int) -> Process:
        """Return the task at ``task``; `Unreadable` if even its pid cannot be read."""
        return self.decode(task, self.key.read(self.space, task))

    def decode(
        self, task: int, key: tuple[Any, ...], cred: tuple[int, ...] | None = None, before: Process | None = None
    ) -> Process:
        """Return the task whose `key` and, if known, `cred` members have been read.

        ``before`` is the same task, running the same program, as it was read earlier: a task that exits loses its
        memory and namespaces step by step, and is still who it was.
        """
        pid, tgid, start, comm, _, parent, cred_at, nsproxy, cgroups = key
        if not 0 <= pid <= MAX_TASKS or not 0 <= tgid <= MAX_TASKS or not task & _KERNEL_HALF:
            raise Unreadable(f"{task:#x} is no task")
        space, guard = self.space, _Guard[object]()
        if cred is None:
            cred = guard("uid", lambda: self.cred.read(space, cred_at))
        kernel_thread = bool(guard("kernel_thread", lambda: space.read_uint(task + self._flags, 4) & PF_KTHREAD))
        exe, deleted, cr3 = self._program(task, guard, before, kernel_thread=kernel_thread)
        numbers = guard("pid_ns", lambda: self.pid_namespace(task))
        spaces = guard("mnt_ns", lambda: self.namespaces(nsproxy))
        if before is not None:
            if numbers is None and guard.missing.pop("pid_ns", ""):
                numbers = before.ns_pid, before.pid_ns
            if spaces is None and guard.missing.pop("mnt_ns", ""):
                spaces = before.mnt_ns, before.net_ns
        numbers, spaces = numbers or (None, None), spaces or (None, None)
        cgroup = guard("cgroup", lambda: self.cgroup(cgroups))
        return Process(
            task=task,
            pid=pid,
            tgid=tgid,
            comm=text(comm.partition(b"\0")[0]),
            start_time=start,
            kernel_thread=kernel_thread,
            ppid=guard("ppid", lambda: space.read_uint(parent + self._tgid, 4)),
            uid=cred[0] if cred else None,
            gid=cred[1] if cred else None,
            euid=cred[4] if cred else None,
            egid=cred[5] if cred else None,
            exe=exe,
            exe_deleted=deleted,
            cr3=cr3,
            ns_pid=numbers[0],
            pid_ns=numbers[1],
            mnt_ns=spaces[0],
            net_ns=spaces[1],
            cgroup=cgroup,
            container=container_of(cgroup),
            missing=guard.missing,
        )

    def _program(
        self, task: int, guard: _Guard[Any], before: Process | None, *, kernel_thread: bool
    ) -> tuple[str | None, bool | None, int | None]:
        """Return path and deletedness of the executable, and CR3."""
        mm = guard("exe", lambda: self.mm(task))
        if mm:
            exe: GuestPath | None = guard("exe", lambda: self.exe(mm))
            cr3: int | None = guard("cr3", lambda: self.cr3(mm))
            return (exe.text, exe.deleted, cr3) if exe else (None, None, cr3)
        if before is not None:
            return before.exe, before.exe_deleted, before.cr3
        if not kernel_thread:
            guard.missing.setdefault("exe", "the process is exiting")
        return None, None, None

    def mm(self, task: int) -> int:
        """Return the address of the task's mm_struct, 0 for a kernel thread."""
        return self.space.read_u64(task + self._mm)

    def cr3(self, mm: int) -> int:
        """Return the guest-physical address of the top page table of an mm_struct."""
        return self.space.translate(self.space.read_u64(mm + self._pgd))

    def exe(self, mm: int) -> GuestPath:
        """Return the path of the executable of an mm_struct."""
        file = self.space.read_u64(mm + self._exe_file)
        if not file:
            raise Unreadable("the process has no executable file")
        return self._paths.path_at(file + self._f_path)

    def pid_namespace(self, task: int) -> tuple[int, int]:
        """Return the pid in the task's own PID namespace, and that namespace's inode number."""
        pid = self.space.read_u64(task + self._thread_pid)
        if not pid:
            raise Unreadable("the task has exited")
        (level,) = self._pid.read(self.space, pid)
        if level >= _MAX_LEVELS:
            raise Unreadable(f"a PID namespace {level} levels deep")
        number, namespace = self._upid.read(self.space, pid + self._numbers + level * self._upid_size)
        return number, self.space.read_uint(namespace + self._pid_ns_inum, 4)

    def _read_namespaces(self, nsproxy: int) -> tuple[int, int]:
        """Return the inode numbers of the mount and network namespaces."""
        if not nsproxy:
            raise Unreadable("the task has exited")
        space = self._noting
        mnt, net = self._nsproxy.read(space, nsproxy)
        return space.read_uint(mnt + self._mnt_ns_inum, 4), space.read_uint(net + self._net_ns_inum, 4)

    def _read_cgroup(self, css_set: int) -> str:
        """Return the path of the task's cgroup in the unified hierarchy, as ``/proc/PID/cgroup`` has it."""
        space = self._noting
        cgroup = space.read_u64(css_set + self._dfl_cgrp)
        node = space.read_u64(cgroup + self._cgroup_kn)
        parts: list[str] = []
        for _ in range(_MAX_CGROUP_DEPTH):
            parent, name = self._kernfs.read(space, node)
            if not parent:
                return "/" + "/".join(reversed(parts))
            parts.append(text(space.read_cstring(name, _MAX_NAME)))
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
        signal = self.space.read_u64(task + self._signal)
        yield from self._list(signal + self._thread_head, self._thread_node)

    def _list(self, head: int, offset: int) -> Iterator[int]:
        seen = {head}
        at = self.space.read_u64(head)
        while at != head:
            if at in seen or len(seen) > MAX_TASKS:
                raise Unreadable("a list of tasks runs in a circle")
            seen.add(at)
            yield at - offset
            at = self.space.read_u64(at)


class ProcessCache:
    """Decoded processes, each checked against memory whenever it is asked for.

    A hit costs two reads: the task's own members (pid, start time, count of execs, name, parent, credentials,
    namespaces, cgroup) and its user and group ids. Nothing is taken from the cache unless all of these are equal.
    The path of the executable is the one it had when the process was first read after its exec.
    """

    def __init__(self, tasks: Tasks, limit: int = 4096) -> None:
        self._tasks = tasks
        self._space = tasks.space
        self._limit = limit
        self._known: dict[int, _Known] = {}
        self._cred_start, self._cred_length = tasks.cred.start, tasks.cred.length
        self._page_offset = self._space.page_offset
        self._key_start = tasks.key.start - self._page_offset
        views = flat.views(self._space.memory) if tasks.key.length <= PAGE_SIZE else None
        self._buffer = views.buffer if views else memoryview(b"")
        self._end = views.end if views else 0
        self._unpack_key = tasks.key.unpack_from
        self._unpack_cred = struct.Struct(f"{self._cred_length}s").unpack_from
        self.hits = self.misses = 0
        self.get = self._finder()
        """From a task's address to its process as it is now; raises `Unreadable` if it cannot be read."""

    def _finder(self) -> Callable[[int], Process]:
        # A closure, as this runs at every hit: its names are half as dear as attributes.
        find, careful, buffer = self._known.get, self._careful, self._buffer
        unpack_key, unpack_cred = self._unpack_key, self._unpack_cred

        def get(task: int) -> Process:
            known = find(task)
            if known is not None:
                process, key, cred, key_gpa, cred_gpa = known
                if key_gpa and unpack_key(buffer, key_gpa) == key and unpack_cred(buffer, cred_gpa) == cred:
                    return process
            return careful(task, known)

        return get

    def _careful(self, task: int, known: _Known | None) -> Process:
        tasks, space = self._tasks, self._space
        key = tasks.key.unpack(space.read(task + tasks.key.start, tasks.key.length))
        values = tasks.key.ordered(key)
        cred_at = values[6] + self._cred_start
        cred = space.read(cred_at, self._cred_length)
        if known is not None and known.key == key and known.cred == (cred,):
            self.hits += 1
            # What could not be read, because it was being changed just then, may be readable now.
            if not known.process.missing or self.hits % _TRY_AGAIN:
                return known.process
        self.misses += 1
        before = None
        if known is not None and tasks.key.ordered(known.key)[:5:2] == values[:5:2]:
            before = known.process  # the same thread id, start and count of execs
        process = tasks.decode(task, values, tasks.cred.ordered(tasks.cred.unpack(cred)), before)
        if len(self._known) >= self._limit:
            del self._known[next(iter(self._known))]
        key_gpa, cred_gpa = task + self._key_start, cred_at - self._page_offset
        if process.missing or not (0 < key_gpa < self._end and 0 < cred_gpa < self._end):
            key_gpa = 0
        self._known[task] = _Known(process, key, (cred,), key_gpa, cred_gpa)
        return process

    def drop(self, task: int) -> None:
        """Forget ``task``."""
        self._known.pop(task, None)


class _Known(NamedTuple):
    """A decoded process and what it was decoded from; ``key_gpa`` is 0 where the short cut must not be taken."""

    process: Process
    key: tuple[Any, ...]
    cred: tuple[bytes]
    key_gpa: int
    cred_gpa: int
