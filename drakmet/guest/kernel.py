# SPDX-License-Identifier: GPL-2.0-or-later
"""Finds the running kernel in guest memory by itself: where it lies, its page tables, symbols and types.

Nothing but memory is needed. The kernel's image starts at a multiple of 2 MiB (CONFIG_PHYSICAL_ALIGN) of
physical memory wherever KASLR put it; copies of it from the boot lie in memory as well, so what is found is
checked: ``init_task`` must be its own parent, and the kernel's page tables must map it to where it was found.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from drakmet.errors import GuestError
from drakmet.guest import btf
from drakmet.guest.memory import PhysicalMemory, Unreadable, extents, read_lenient
from drakmet.guest.paging import ADDRESS_MASK, AddressSpace, KernelSpace
from drakmet.guest.profile import Profile, ProfileCache
from drakmet.guest.symbols import KERNEL_HALF

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from drakmet.guest import kallsyms

LINK_BASE: Final = 0xFFFF_FFFF_8100_0000
"""Where x86-64 kernels are linked: __START_KERNEL_map + CONFIG_PHYSICAL_START (arch/x86/Kconfig: 16 MiB)."""

_ALIGN: Final = 2 << 20
_PAGE_OFFSET: Final = {4: 0xFFFF_8880_0000_0000, 5: 0xFF11_0000_0000_0000}  # Documentation/x86/x86_64/mm.rst
_BANNER: Final = b"Linux version "
_MAX_BANNER: Final = 512
_MAX_BTF: Final = 64 << 20
_MAX_NOTES: Final = 4096
_SCAN: Final = 16 << 20
_OVERLAP: Final = 32 << 10
_AROUND: Final = 12 << 20
_U64: Final = (1 << 64) - 1
_NO_TYPES: Final = (
    "a kernel can only be read if it carries its types: if it was built with CONFIG_DEBUG_INFO_BTF=y, as Debian's are "
    "since 5.10; of others, `--isf FILE` takes symbols and types from an ISF file"
)


class Kernel:
    """The kernel that runs in the guest.

    ``slide`` is what KASLR added to the addresses of ``profile.symbols``; ``base`` the guest-physical address of
    its image; ``cr3`` the root of its own page tables, 4 or 5 ``levels`` deep; ``space`` reads its addresses.
    """

    def __init__(self, profile: Profile, memory: PhysicalMemory, base: int, slide: int, levels: int) -> None:
        symbols = profile.symbols
        self.profile = profile
        self.memory = memory
        self.base = base
        self.slide = slide
        self.levels = levels
        text = symbols["_text"]
        self.cr3 = base + symbols["init_top_pgt"] - text
        end = symbols.get("_end") or text + (64 << 20)
        image = (text + slide, end + slide, base)
        page_offset = _PAGE_OFFSET[levels]
        self.space = KernelSpace(memory, self.cr3, levels, page_offset, image)
        stored = symbols.get("page_offset_base")
        if stored is not None:
            page_offset = self.space.read_u64(stored + slide)
            self.space = KernelSpace(memory, self.cr3, levels, page_offset, image)
        self.page_offset = page_offset

    @property
    def build_id(self) -> str:
        """The kernel's build id in hex, empty if nothing tells it."""
        return self.profile.build_id

    @property
    def banner(self) -> str:
        """The kernel's banner, as ``/proc/version`` prints it."""
        return self.profile.banner

    def address(self, name: str) -> int:
        """Return the address of a symbol in the running guest; `GuestError` with near names if there is none."""
        return self.slid(self.profile.symbols[name])

    def find(self, name: str) -> int | None:
        """Return the address of a symbol in the running guest, or None."""
        address = self.profile.symbols.get(name)
        return None if address is None else self.slid(address)

    def slid(self, address: int) -> int:
        """Return where a link-time address is at run time; per-CPU offsets stay."""
        return address + self.slide & _U64 if address >= KERNEL_HALF else address

    def symbol_at(self, address: int) -> tuple[str, int] | None:
        """Return the symbol at or below a run-time address and the distance to it."""
        if not self.space.image_start <= address < self.space.image_end:
            return None
        return self.profile.symbols.at(address - self.slide)

    def gpa(self, address: int) -> int:
        """Return the guest-physical address of a kernel address."""
        return self.space.translate(address)


def find(memory: PhysicalMemory, *, profiles: Iterable[Profile] = (), cache: ProfileCache | None = None) -> Kernel:
    """Find the kernel in ``memory``; `GuestError` says what was missing.

    ``profiles`` (made from an ISF file, or of a kernel known before) and those of ``cache`` are tried first, which
    costs a few reads; then symbols and types are looked for in memory itself, and kept in ``cache``.
    """
    for known in (profiles, cache or ()):
        for profile in known:
            kernel = _place(memory, profile)
            if kernel is not None:
                return kernel
    reasons: list[str] = []
    hint = "is it a Linux guest, and has it booted?"
    for table in tables(memory):
        try:
            kernel = _from_table(memory, table)
        except GuestError as error:
            reasons.append(f"symbols at {table.token_table:#x}: {error.what}")
            hint = error.hint or hint
            continue
        if cache is not None and kernel.build_id:
            cache.put(kernel.profile)
        return kernel
    raise GuestError(
        "no running Linux kernel found in the guest's memory: " + ("; ".join(reasons[:5]) or "it holds no kallsyms"),
        hint=hint,
    )


def _candidates(memory: PhysicalMemory) -> Iterator[int]:
    """Yield each place an image can start at: first where kernels are without KASLR."""
    usual = 16 << 20
    yield usual
    for start, length in extents(memory):
        for base in range(start + (-start % _ALIGN), start + length, _ALIGN):
            if base != usual:
                yield base


def _place(memory: PhysicalMemory, profile: Profile) -> Kernel | None:
    """Return the kernel if it is that of ``profile``."""
    symbols = profile.symbols
    text, banner = symbols.get("_text") or symbols.get("_stext"), symbols.get("linux_banner")
    wanted = (profile.banner or _BANNER.decode()).encode("utf-8", "surrogateescape")
    if text is None or banner is None:
        return None
    for base in _candidates(memory):
        try:
            if memory.read(base + banner - text, len(wanted)) == wanted:
                kernel = verify(memory, profile, base)
                found = build_id(kernel)
                if not profile.build_id or found == profile.build_id:
                    return kernel
        except GuestError:
            continue
    return None


def tables(memory: PhysicalMemory) -> Iterator[kallsyms.Table]:
    """Yield all symbol tables in memory, stale copies among them; their positions are guest-physical."""
    from drakmet.guest import kallsyms  # a kernel whose profile is kept is found without it

    for start, length in extents(memory):
        end = start + length
        for at in range(start, end, _SCAN):
            data = read_lenient(memory, at, min(_SCAN + _OVERLAP, end - at))
            for position in kallsyms.token_tables(data):
                if position >= _SCAN:
                    continue  # the next chunk has it
                token_table = at + position
                low = max(0, (token_table - _AROUND) & ~7)
                around = read_lenient(memory, low, min(2 * _AROUND, memory.size - low))
                try:
                    table = kallsyms.parse(around, token_table - low)
                except GuestError:
                    continue
                table.token_table = token_table
                table.extent = low + table.extent[0], low + table.extent[1]
                yield table


def _from_table(memory: PhysicalMemory, table: kallsyms.Table) -> Kernel:
    failed = GuestError("no kernel image around them")
    for base, profile in profiles_at(memory, table):
        try:
            kernel = verify(memory, profile, base)
            profile.build_id = build_id(kernel)
        except GuestError as error:
            failed = error
        else:
            return kernel
    raise failed


def profiles_at(memory: PhysicalMemory, table: kallsyms.Table) -> Iterator[tuple[int, Profile]]:
    """Yield ``(base, profile without build id)`` of each kernel image that may be around a symbol table.

    `GuestError` where that kernel has no types in it, or where none of the images has any that can be read.
    """
    there = table.symbols()
    link = {}
    for name in ("_text", "linux_banner", "_end", "__start_BTF", "__stop_BTF"):
        address = there.get(name)
        if address is None:
            raise GuestError(f"the kernel has no {name}", hint=_NO_TYPES if name.endswith("BTF") else None)
        link[name] = address
    text = link["_text"]
    symbols = there.moved(text - LINK_BASE)
    size = link["__stop_BTF"] - link["__start_BTF"]
    if not 0 < size <= _MAX_BTF or not text < link["linux_banner"] < link["_end"]:
        raise GuestError("the symbols contradict each other")
    found, broken = False, None
    first = max(0, table.token_table - (link["_end"] - text)) // _ALIGN * _ALIGN
    for base in range(first, table.token_table, _ALIGN):
        banner = read_lenient(memory, base + link["linux_banner"] - text, _MAX_BANNER)
        if banner.startswith(_BANNER):
            try:
                types = btf.Btf(memory.read(base + link["__start_BTF"] - text, size))
            except GuestError as error:
                broken = error.what
                continue
            found = True
            yield base, Profile("", _text(banner), symbols, types)
    if broken and not found:
        raise GuestError(f"the kernel's types cannot be read: {broken}", hint=_NO_TYPES)


def _text(banner: bytes) -> str:
    return banner.partition(b"\0")[0].rstrip(b"\n").decode("utf-8", "surrogateescape")


def verify(memory: PhysicalMemory, profile: Profile, base: int) -> Kernel:
    """Return the kernel at ``base`` if it is the one that runs, and no copy; `GuestError` says why not."""
    symbols, types = profile.symbols, profile.types
    text, task = symbols["_text"], symbols["init_task"]
    comm = memory.read(base + task - text + types.offset("task_struct", "comm"), 16)
    if not comm.startswith(b"swapper"):
        raise GuestError("init_task is not the swapper")
    parent = memory.read_u64(base + task - text + types.offset("task_struct", "real_parent"))
    slide = parent - task
    if parent < KERNEL_HALF or slide % 4096:
        raise GuestError("init_task is not its own parent")
    cr3 = base + symbols["init_top_pgt"] - text & ADDRESS_MASK
    for levels in (4, 5):
        try:
            mapped = AddressSpace(memory, cr3, levels).translate(parent)
        except Unreadable:
            continue
        if mapped == base + task - text:
            return Kernel(profile, memory, base, slide, levels)
    raise GuestError("its page tables do not map it to where it is: a stale copy")


def build_id(kernel: Kernel) -> str:
    """Return the build id in the kernel's ELF notes (``__start_notes``) in hex, or an empty string."""
    start, stop = kernel.find("__start_notes"), kernel.find("__stop_notes")
    if start is None or stop is None or not 0 < stop - start <= _MAX_NOTES:
        return ""
    return note_build_id(kernel.space.read(start, stop - start))


def note_build_id(notes: bytes) -> str:
    """Return the build id (GNU note, type 3) among ELF ``notes`` in hex, or an empty string."""
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, at)
        name = notes[at + 12 : at + 12 + name_size]
        data = at + 12 + (name_size + 3 & ~3)
        if kind == 3 and name == b"GNU\0" and 0 < size <= 64:
            return notes[data : data + size].hex()
        at = data + (size + 3 & ~3)
    return ""
