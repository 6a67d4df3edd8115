# SPDX-License-Identifier: GPL-2.0-or-later
"""A running Linux guest: everything of this room behind one object."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Final

import msgspec

from drakmet.errors import GuestError
from drakmet.guest.memory import PAGE_SIZE, Unreadable
from drakmet.guest.paging import AddressSpace
from drakmet.guest.paths import Paths
from drakmet.guest.tasks import Process, ProcessCache, Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from drakmet.guest.files import File, Files, Programs
    from drakmet.guest.iov import Payloads
    from drakmet.guest.kernel import Kernel
    from drakmet.guest.pathtypes import GuestPath
    from drakmet.guest.sockets import Socket, Sockets


# endbr64, and what the kernel writes over it where no indirect call may arrive (gen_endbr_poison, asm/ibt.h: from
# 5.18 on, and from 6.16 on). All are 4 bytes.
ENDBR: Final = tuple(bytes.fromhex(code) for code in ("f30f1efa", "660f1f00", "0f1f40d6"))
_ENDBR_SIZE: Final = 4
# The kernel picks its nops by the CPU; the second is 5.10's on AMD (K8_NOP5_ATOMIC, asm/nops.h).
FTRACE_NOPS: Final = (bytes.fromhex("0f1f440000"), bytes.fromhex("6666666690"))
_NOP_SIZE: Final = 5


class FunctionEntry(msgspec.Struct, frozen=True):
    """Where to trap a kernel function.

    ``symbol`` is what was found for ``name``, at ``start``; ``address`` lies past an ``endbr64``
    or the nop in its place. ``has_nop``: the
    5-byte ftrace nop is there, so a trap on it can go on by skipping it. Arguments are in place at ``address``.
    """

    name: str
    symbol: str
    start: int
    address: int
    has_nop: bool


class LinuxGuest:
    """Reads processes, files and sockets of the guest whose kernel was found.

    What not every use needs is made when it is asked for; a kernel that lacks a type for it raises `GuestError` then.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.memory = kernel.memory
        self.space = kernel.space
        self.types = kernel.profile.types
        self.paths = Paths(kernel)
        self.task_reader = Tasks(kernel, self.paths)
        self.processes = ProcessCache(self.task_reader)
        # Called at every hit: no call in between.
        self.current_task: Callable[[int], int] = self.task_reader.current
        """From a CPU's kernel GS base to the address of the task that runs on it; raises `Unreadable`."""
        self.process: Callable[[int], Process] = self.processes.get
        """From a task's address to the process as it is now, decoded anew only if it changed."""

    @cached_property
    def files(self) -> Files:
        """Reads files and descriptors."""
        from drakmet.guest.files import Files

        return Files(self.kernel, self.paths)

    @cached_property
    def programs(self) -> Programs:
        """Reads what programs were started with."""
        from drakmet.guest.files import Programs

        return Programs(self.kernel, self.paths, self.task_reader)

    @cached_property
    def sockets(self) -> Sockets:
        """Reads sockets and their addresses."""
        from drakmet.guest.sockets import Sockets

        return Sockets(self.kernel)

    @cached_property
    def payloads(self) -> Payloads:
        """Reads what is being sent."""
        from drakmet.guest.iov import Payloads

        return Payloads(self.kernel, self.read)

    def tasks(self) -> Iterator[int]:
        """Yield the addresses of all processes in the kernel's list."""
        return self.task_reader.tasks()

    def threads(self, task: int) -> Iterator[int]:
        """Yield the addresses of all threads of a process."""
        return self.task_reader.threads(task)

    def path(self, mnt: int, dentry: int) -> GuestPath:
        """Return the path of ``dentry`` in the mount whose ``struct vfsmount`` is at ``mnt``."""
        return self.paths.path(mnt, dentry)

    def file(self, address: int) -> File:
        """Return the ``struct file`` at ``address``."""
        return self.files.file(address)

    def open_files(self, task: int) -> Iterator[tuple[int, int]]:
        """Yield ``(descriptor, address of its struct file)`` of a task."""
        return self.files.table(task)

    def socket(self, sock: int) -> Socket:
        """Return the ``struct sock`` at ``sock``."""
        return self.sockets.of_sock(sock)

    def argv(self, mm: int) -> list[str]:
        """Return the arguments of a running program, as they stand in its memory."""
        return self.programs.argv(mm)

    def bprm_argv(self, bprm: int) -> list[str]:
        """Return the arguments of a program that is being started, at ``begin_new_exec``."""
        return self.programs.bprm_argv(bprm)

    def cwd(self, task: int) -> GuestPath:
        """Return the working directory of a task."""
        return self.programs.cwd(task)

    def read(self, address: int, length: int, cr3: int = 0) -> bytes:
        """Return ``length`` bytes at a kernel address, or at a user address of the process whose CR3 is given."""
        return self._space_of(address, cr3).read(address, length)

    def read_u64(self, address: int, cr3: int = 0) -> int:
        """Return the 64-bit word at a kernel address, or at a user address of the process whose CR3 is given."""
        return self._space_of(address, cr3).read_u64(address)

    def read_cstring(self, address: int, limit: int, cr3: int = 0) -> bytes:
        """Return the NUL-ended bytes at ``address``, at most ``limit``; addresses as in `read`."""
        return self._space_of(address, cr3).read_cstring(address, limit)

    def _space_of(self, address: int, cr3: int) -> AddressSpace:
        if address >> 63:
            return self.space
        if address < PAGE_SIZE:
            raise Unreadable("a null pointer")
        return AddressSpace(self.memory, cr3, self.kernel.levels)

    def function_entry(self, name: str) -> FunctionEntry:
        """Return where calls of a kernel function arrive; `GuestError` with near names if it has no symbol.

        A function that the compiler only kept in another form (``name.isra.0``, ``name.constprop.0``) is found
        under that form's symbol; such forms may take other parameters than the prototype says.
        """
        symbols = self.kernel.profile.symbols
        symbol, address = name, symbols.get(name)
        if address is None:
            variants = symbols.variants(name)
            if not variants:
                raise GuestError(f"the kernel has no function {name}", hint=symbols.nearest(name))
            symbol = variants[0]
            address = symbols[symbol]
        start = self.kernel.slid(address)
        code = self.space.read(start, _ENDBR_SIZE + _NOP_SIZE)
        skip = _ENDBR_SIZE if code.startswith(ENDBR) else 0
        return FunctionEntry(name, symbol, start, start + skip, code[skip:].startswith(FTRACE_NOPS))

    def user_space(self, mm: int) -> AddressSpace:
        """Return the address space of an mm_struct, to read user memory."""
        return AddressSpace(self.memory, self.task_reader.cr3(mm), self.kernel.levels)
