# SPDX-License-Identifier: GPL-2.0-or-later
"""Open files, and what of a program its kernel knows: arguments, environment, working directory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from drakmet.errors import GuestError
from drakmet.guest.layout import Slice, first
from drakmet.guest.memory import PAGE_SIZE, Unreadable
from drakmet.guest.paging import AddressSpace
from drakmet.guest.pathtypes import GuestPath, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.guest.kernel import Kernel
    from drakmet.guest.paths import Paths
    from drakmet.guest.tasks import Tasks

MAX_FILES: Final = 1 << 20  # fs.nr_open
MAX_STRINGS: Final = 6 << 20  # fs/exec.c: arguments and environment take at most 3/4 of _STK_LIM
MAX_ARGUMENTS: Final = 1 << 20
_U64: Final = (1 << 64) - 1


class File(msgspec.Struct, frozen=True):
    """A struct file. ``flags`` as open(2) takes them, ``mode`` the inode's, ``device`` as ``major:minor``."""

    address: int
    flags: int
    path: GuestPath | None = None
    mode: int | None = None
    inode: int | None = None
    device: str | None = None
    links: int | None = None
    size: int | None = None
    uid: int | None = None
    missing: dict[str, str] = {}


class Files:
    """Reads the open files of one kernel's tasks."""

    def __init__(self, kernel: Kernel, paths: Paths) -> None:
        types = kernel.profile.types
        self._space = kernel.space
        self._paths = paths
        self._file = Slice(types, "file", "f_inode", "f_flags", "private_data")
        self._f_path = types.offset("file", "f_path")
        links = first(types, "inode", "i_nlink", "__i_nlink")
        self._inode = Slice(types, "inode", "i_mode", "i_uid", "i_sb", "i_ino", links, "i_size")
        self._s_dev = types.offset("super_block", "s_dev")
        self._files = types.offset("task_struct", "files")
        self._fdt = types.offset("files_struct", "fdt")
        self._table = Slice(types, "fdtable", "max_fds", "fd")

    def file(self, address: int) -> File:
        """Return the ``struct file`` at ``address``."""
        inode, flags, _ = self._file.read(self._space, address)
        missing: dict[str, str] = {}
        path = None
        try:
            path = self._paths.path_at(address + self._f_path)
        except GuestError as error:
            missing["path"] = error.what
        try:
            mode, uid, superblock, number, links, size = self._inode.read(self._space, inode)
            device = self._space.read_uint(superblock + self._s_dev, 4)
        except GuestError as error:
            missing["inode"] = error.what
            return File(address, flags, path, missing=missing)
        shown = f"{device >> 20}:{device & 0xFFFFF}"  # MINORBITS, include/linux/kdev_t.h
        return File(address, flags, path, mode, number, shown, links, size, uid, missing)

    def table(self, task: int) -> Iterator[tuple[int, int]]:
        """Yield ``(descriptor, address of its struct file)`` of a task's open files."""
        space = self._space
        files = space.read_u64(task + self._files)
        if not files:
            return
        count, array = self._table.read(space, space.read_u64(files + self._fdt))
        count = min(count, MAX_FILES)
        for start in range(0, count, PAGE_SIZE // 8):
            step = min(PAGE_SIZE // 8, count - start)
            row = memoryview(space.read(array + 8 * start, 8 * step)).cast("Q")
            for number, address in enumerate(row, start):
                if address:
                    yield number, address


class Programs:
    """Reads what programs were started with."""

    def __init__(self, kernel: Kernel, paths: Paths, tasks: Tasks) -> None:
        types = kernel.profile.types
        self._kernel = kernel
        self._space = kernel.space
        self._paths = paths
        self._tasks = tasks
        self._mm = Slice(types, "mm_struct", "arg_start", "arg_end", "env_start", "env_end")
        self._bprm = Slice(types, "linux_binprm", "mm", "p", "argc", "envc")
        self._fs = types.offset("task_struct", "fs")
        self._pwd = types.offset("fs_struct", "pwd")
        self._root = types.offset("fs_struct", "root")

    def cwd(self, task: int) -> GuestPath:
        """Return the working directory of a task."""
        return self._paths.path_at(self._fs_of(task) + self._pwd)

    def root(self, task: int) -> GuestPath:
        """Return the root directory of a task: ``/`` unless it did chroot."""
        return self._paths.path_at(self._fs_of(task) + self._root)

    def _fs_of(self, task: int) -> int:
        fs = self._space.read_u64(task + self._fs)
        if not fs:
            raise Unreadable("the task has exited")
        return fs

    def argv(self, mm: int) -> list[str]:
        """Return the arguments as they stand in a running program's memory, which it may have overwritten.

        Pages of them that are swapped out make it `Unreadable`.
        """
        start, end, _, _ = self._mm.read(self._space, mm)
        return self._area(mm, start, end)

    def environment(self, mm: int) -> list[str]:
        """Return the environment as it stands in a running program's memory."""
        _, _, start, end = self._mm.read(self._space, mm)
        return self._area(mm, start, end)

    def _area(self, mm: int, start: int, end: int) -> list[str]:
        if not 0 < start <= end or end - start > MAX_STRINGS or end >> 63:
            raise Unreadable(f"strings from {start:#x} to {end:#x}")
        if start == end:
            return []
        raw = self._user(mm).read(start, end - start)
        return [text(one) for one in raw.removesuffix(b"\0").split(b"\0")]

    def _user(self, mm: int) -> AddressSpace:
        return AddressSpace(self._kernel.memory, self._tasks.cr3(mm), self._kernel.levels)

    def bprm_argv(self, bprm: int) -> list[str]:
        """Return the arguments of a program that is being started, from the stack that the kernel made for it.

        For a trap on ``begin_new_exec``: from then on all strings are on the new stack (fs/exec.c), so nothing
        that user space does can change them. Of a script, these are the interpreter's: it, then the script.
        """
        mm, at, argc, _ = self._bprm.read(self._space, bprm)
        return self._strings(mm, at, argc)[0]

    def bprm_environment(self, bprm: int) -> list[str]:
        """Return the environment of a program that is being started; see `bprm_argv`."""
        mm, at, argc, envc = self._bprm.read(self._space, bprm)
        return self._strings(mm, self._strings(mm, at, argc)[1], envc)[0]

    def _strings(self, mm: int, at: int, count: int) -> tuple[list[str], int]:
        """Return ``count`` strings that follow each other from ``at``, and where the last ends."""
        if not mm or at >> 63 or not 0 <= count <= MAX_ARGUMENTS:
            raise Unreadable(f"{count} strings at {at:#x}")
        user = self._user(mm)
        found: list[bytes] = []
        rest, start = b"", at
        while len(found) < count:
            step = PAGE_SIZE - (at & (PAGE_SIZE - 1))
            if at - start > MAX_STRINGS:
                raise Unreadable("the strings do not end")
            *whole, rest = (rest + user.read(at, step)).split(b"\0")
            found += whole
            at += step
        ends = start + sum(len(one) + 1 for one in found[:count])
        return [text(one) for one in found[:count]], ends
