# SPDX-License-Identifier: GPL-2.0-or-later
"""Execute traps: what a plugin asks for to be told of every page that runs, and what it is handed for each."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import msgspec

from drakmet.traps import Hit

if TYPE_CHECKING:
    from drakmet.records import EventRecord
    from drakmet.traps import Records


class ExecutionKind(enum.StrEnum):
    """Why the execution of a page was told of."""

    FIRST = "first"
    """The frame was executed for the first time in this watch."""
    REWRITTEN = "rewritten"
    """It was written to since it ran, and runs again at the same address of the same address space."""
    REUSED = "reused"
    """It was written to since it ran, and is now executed elsewhere: the frame serves another page."""
    CHANGED = "changed"
    """It holds something else than when it was executed, and no vCPU's write was seen: dom0 or a device wrote it."""
    JIT = "jit"
    """It was written and executed in turn so often that it is let run unseen from now on: unverifiable."""


class Region(enum.StrEnum):
    """What an executed page is, by the books of the guest's kernel."""

    FILE = "file"
    MEMFD = "memfd"
    ANONYMOUS = "anonymous"
    VDSO = "vdso"
    STACK = "stack"
    HEAP = "heap"
    KERNEL = "kernel"
    MODULE = "module"
    KERNEL_MEMORY = "kernel memory"
    """Executed by the kernel, and neither its image nor a listed module: BPF programs, trampolines, or hidden."""


class Origin(msgspec.Struct, frozen=True):
    """Where an executed page came from. ``page`` is its number in the file, or in the kernel's or module's image.

    ``path`` is guest text, ``module`` a module's name; ``inode`` and ``device`` (major:minor) tell a file from one that
    took its path. What could not be read is None, its name in ``unreadable``.
    """

    region: Region | None = None
    path: str | None = None
    page: int | None = None
    deleted: bool | None = None
    module: str | None = None
    writable: bool | None = None
    inode: int | None = None
    device: str | None = None
    unreadable: tuple[str, ...] = ()


class Execution(Hit):
    """The execution of a page that was not known to be executable, or was written to since.

    What was hashed is what ran: the guest could not write the page between the two.
    """

    __slots__ = ()

    @property
    def kind(self) -> ExecutionKind:
        """Why it is told of."""
        return cast("ExecutionKind", self.values["kind"])

    @property
    def gfn(self) -> int:
        """The guest's frame number of it."""
        return cast("int", self.values["gfn"])

    @property
    def hash(self) -> str | None:
        """The page's hash in hex (`drakmet.pages.page_hash`); None if the frame could not be read."""
        return cast("str | None", self.values["hash"])

    @property
    def address(self) -> int | None:
        """Linear address of the page's first byte; None if the CPU gave none."""
        return cast("int | None", self.values["address"])

    @property
    def rip(self) -> int:
        """Where the CPU was."""
        return cast("int", self.values["rip"])

    @property
    def cr3(self) -> int:
        """Guest-physical address of the page tables it ran with."""
        return cast("int", self.values["cr3"])

    @property
    def kernel(self) -> bool:
        """Whether it ran in kernel mode."""
        return cast("bool", self.values["kernel"])

    @property
    def times(self) -> int:
        """How often this frame was told of in this watch, this time included."""
        return cast("int", self.values["times"])

    @property
    def origin(self) -> Origin | None:
        """What the page is by the guest's own books, looked up when it is asked for; None without a known kernel."""
        find: Any = self.values.get("origin")
        return cast("Origin | None", find() if callable(find) else find)


@dataclass(frozen=True, kw_only=True)
class ExecuteTrap:
    """Asks to be told of every page that the guest executes for the first time, or again after it was written to.

    The ``handler`` gets an `Execution` and returns records, or None; it runs after the guest was let go. ``record`` and
    ``also`` are the classes of the records that it makes. No kernel has to be known for it: then ``process`` and
    ``origin`` are None.
    """

    handler: ExecutionHandler
    record: type[EventRecord] | None = None
    also: tuple[type[EventRecord], ...] = ()
    name: str = "execute"

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables it fills."""
        return tuple(record.table for record in (self.record, *self.also) if record is not None)

    @property
    def label(self) -> str:
        """The name under which the trap's health and coverage are told."""
        return self.name


ExecutionHandler = Callable[[Execution], "Records"]
