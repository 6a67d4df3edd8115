# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel memory that can be executed, by the page tables, and who owns it.

Page tables are what the MMU walks: code that runs must be mapped there, whatever the kernel's books leave out. Owners
are the kernel's own text, modules that any book knows, BPF's packs of programs, ftrace's trampolines, kprobes' copies
of instructions and the real-mode code that CPUs start with.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from drakmet.errors import GuestError
from drakmet.guest.lists import linked
from drakmet.guest.memory import PAGE_SIZE, Unreadable
from drakmet.guest.paging import ADDRESS_MASK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from drakmet.guest.kernel import Kernel

_ENTRIES: Final = struct.Struct("<512Q")
_PRESENT, _WRITE, _LARGE, _NO_EXECUTE = 1, 2, 1 << 7, 1 << 63
MOST_TABLES: Final = 1 << 15
MOST_RANGES: Final = 1 << 16
_MOST_LISTED: Final = 1 << 12
_PACK: Final = 2 << 20  # bpf_prog_pack_size of one node: PMD_SIZE
_U64: Final = (1 << 64) - 1


class Executable(NamedTuple):
    """A range of kernel memory that can be executed; one past its end."""

    start: int
    end: int
    writable: bool


def executable(kernel: Kernel) -> Iterator[Executable]:
    """Yield the ranges that the kernel's page tables map executable, neighbours together.

    `Unreadable` after what was found if there are more tables than could be a kernel's.
    """
    walker = _Walker(kernel)
    last: Executable | None = None
    for start, size, writable in walker.walk():
        if last is not None and last.end == start and last.writable == writable:
            last = last._replace(end=start + size)
            continue
        if last is not None:
            yield last
        last = Executable(start, start + size, writable)
    if last is not None:
        yield last
    if walker.tables >= MOST_TABLES:
        raise Unreadable("the kernel's page tables are too many to be looked at whole")


class _Walker:
    def __init__(self, kernel: Kernel) -> None:
        self._read = kernel.memory.read
        self._root = kernel.cr3
        self._top = 39 if kernel.levels == 4 else 48
        self.tables = 0

    def walk(self) -> Iterator[tuple[int, int, bool]]:
        """Walk the kernel's half."""
        base = _U64 - (1 << self._top + 9) + 1
        return self._below(self._root, self._top, base & _U64, 256, writable=True)

    def _below(
        self, table: int, shift: int, base: int, first: int, *, writable: bool
    ) -> Iterator[tuple[int, int, bool]]:
        self.tables += 1
        if self.tables >= MOST_TABLES:
            return
        try:
            entries = _ENTRIES.unpack(self._read(table, PAGE_SIZE))
        except Unreadable:
            return
        for index in range(first, 512):
            entry = entries[index]
            if not entry & _PRESENT or entry & _NO_EXECUTE:
                continue
            address = base + (index << shift)
            write = writable and bool(entry & _WRITE)
            if shift == 12 or (entry & _LARGE and shift <= 30):
                yield address, 1 << shift, write
            else:
                yield from self._below(entry & ADDRESS_MASK, shift - 9, address, 0, writable=write)


class Owners:
    """Who owns executable kernel memory; what a book does not tell is noted in ``missing``."""

    def __init__(self, kernel: Kernel, modules: list[tuple[int, int]], trampoline: Callable[[int], bool]) -> None:
        self._kernel = kernel
        self._trampoline = trampoline
        self.missing: list[str] = []
        self._ranges = [*modules, (kernel.space.image_start, kernel.space.image_end)]
        for name, read in (
            ("BPF programs", self._bpf),
            ("kprobes", self._kprobes),
            ("real-mode code", self._real_mode),
        ):
            try:
                self._ranges += read()
            except GuestError as error:
                self.missing.append(f"{name}: {error.what}")

    def unowned(self, found: Executable) -> Iterator[Executable]:
        """Yield the parts of a range that nobody owns."""
        inside = sorted(
            (max(a, found.start), min(b, found.end)) for a, b in self._ranges if a < found.end and b > found.start
        )
        at = found.start
        for start, end in [*inside, (found.end, found.end)]:
            if start > at:
                yield from self._without_trampolines(found._replace(start=at, end=start))
            at = max(at, end)

    def _without_trampolines(self, found: Executable) -> Iterator[Executable]:
        begin = found.start
        for page in range(found.start, min(found.end, found.start + (_MOST_LISTED << 12)), PAGE_SIZE):
            if self._trampoline(page):
                if page > begin:
                    yield found._replace(start=begin, end=page)
                begin = page + PAGE_SIZE
        if begin < found.end:
            yield found._replace(start=begin)

    def _bpf(self) -> list[tuple[int, int]]:
        types, space = self._kernel.profile.types, self._kernel.space
        found = []
        packs = self._kernel.find("pack_list")
        if packs is not None and types.has_field("bpf_prog_pack", "ptr"):  # since 5.17
            at, pointer = types.offset("bpf_prog_pack", "list"), types.offset("bpf_prog_pack", "ptr")
            for number, node in enumerate(linked(space, packs)):
                if number > _MOST_LISTED:
                    raise Unreadable("more packs of BPF programs than can be")
                start = space.read_u64(node - at + pointer)
                found.append((start, start + _PACK))
        head = self._kernel.find("bpf_kallsyms")
        if head is not None and types.has_field("bpf_ksym", "lnode"):
            at, first, last = (types.offset("bpf_ksym", name) for name in ("lnode", "start", "end"))
            for number, node in enumerate(linked(space, head)):
                if number > _MOST_LISTED:
                    raise Unreadable("more BPF programs than can be")
                start, end = space.read_u64(node - at + first), space.read_u64(node - at + last)
                if start <= end < start + (1 << 24):
                    found.append((start & ~(PAGE_SIZE - 1), end + PAGE_SIZE - 1 & ~(PAGE_SIZE - 1)))
        return found

    def _kprobes(self) -> list[tuple[int, int]]:
        types, space = self._kernel.profile.types, self._kernel.space
        found = []
        pages = types.offset("kprobe_insn_cache", "pages")
        at, insns = types.offset("kprobe_insn_page", "list"), types.offset("kprobe_insn_page", "insns")
        for name in ("kprobe_insn_slots", "kprobe_optinsn_slots"):
            cache = self._kernel.find(name)
            if cache is None:
                continue
            for number, node in enumerate(linked(space, cache + pages)):
                if number > _MOST_LISTED:
                    raise Unreadable("more pages of kprobes than can be")
                start = space.read_u64(node - at + insns)
                found.append((start, start + PAGE_SIZE))
        return found

    def _real_mode(self) -> list[tuple[int, int]]:
        """The trampoline of other CPUs' start, executable in the direct map (arch/x86/realmode/init.c)."""
        types, space = self._kernel.profile.types, self._kernel.space
        header = self._kernel.find("real_mode_header")
        if header is None:
            return []
        base = space.read_u64(header)
        start = base - self._kernel.page_offset & _U64
        if not base or start >= 1 << 20:
            return []
        text, ro_end = types.offset("real_mode_header", "text_start"), types.offset("real_mode_header", "ro_end")
        first, last = space.read_uint(base + text, 4), space.read_uint(base + ro_end, 4)
        if not start <= first < last < 1 << 20:
            return []
        offset = self._kernel.page_offset
        return [(offset + first & ~(PAGE_SIZE - 1), offset + last + PAGE_SIZE - 1 & ~(PAGE_SIZE - 1))]
