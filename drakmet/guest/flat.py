# SPDX-License-Identifier: GPL-2.0-or-later
"""Short cuts for memory that is mapped in one piece: a read is an index, with no call in between.

A memory may have ``buffer``, a memoryview whose index is the guest-physical address, ``words``, the same by 64-bit
words, and ``present``, which tells by frame number what is there; the rest reads as zeros. So a zero proves nothing
by itself: whoever finds one looks into ``present`` or asks again through `PhysicalMemory.read`, which knows.

A read here costs some 400 instructions in CPython 3.11, one through a method of a memory 2,000 and more.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from drakmet.guest.memory import PAGE_SHIFT, PAGE_SIZE, PhysicalMemory, Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from drakmet.guest.paging import KernelSpace

_PRESENT: Final = 1
_LARGE: Final = 1 << 7
_ADDRESS: Final = 0x000F_FFFF_FFFF_F000
_U64: Final = (1 << 64) - 1
_MAX_KEPT: Final = 4096
_MAX_WORDS: Final = 96


class Views(NamedTuple):
    """A memory's mapping. ``end``: up to this guest-physical address a page may be read from everywhere below."""

    buffer: memoryview
    words: memoryview
    present: Sequence[int]
    end: int


def views(memory: PhysicalMemory) -> Views | None:
    """Return the mapping of ``memory``, if it offers one."""
    buffer, words = getattr(memory, "buffer", None), getattr(memory, "words", None)
    present = getattr(memory, "present", None)
    if not isinstance(buffer, memoryview) or not isinstance(words, memoryview) or present is None:
        return None
    size = min(memory.size, len(buffer), len(present) << PAGE_SHIFT)
    return Views(buffer, words, present, max(0, size - PAGE_SIZE))


def canonical(address: int, levels: int) -> bool:
    """Tell whether ``address`` is one that the CPU takes with 4 or 5 levels."""
    top = address >> (47 if levels == 4 else 56)
    return top in (0, (1 << (17 if levels == 4 else 8)) - 1)


def current_task(space: KernelSpace, offset: int) -> Callable[[int], int]:
    """Return the function from the kernel's GS base to the per-CPU pointer at ``offset``."""
    flat = views(space.memory)

    def slow(gs_base: int) -> int:
        return space.read_u64(gs_base + offset & _U64)

    if flat is None:
        return slow
    words = flat.words
    places: dict[int, int] = {}
    known = places.get

    def current(gs_base: int) -> int:
        place = known(gs_base)
        if place is not None:
            task: int = words[place]
            if task:
                return task
        gpa = gs_base + offset - space.page_offset
        if 0 <= gpa < flat.end and not gpa & 7 and len(places) < _MAX_KEPT:
            places[gs_base] = gpa >> 3
        return slow(gs_base)

    return current


def entries(flat: Views, levels: int, root: int, address: int) -> tuple[list[int], int, int]:
    """Walk the tables at ``root``: the indices in ``words`` of the entries, the page's address and its size.

    Raises `Unreadable` where nothing is mapped, or where a table is not in memory.
    """
    words, end = flat.words, flat.end
    table, shift = root, 39 if levels == 4 else 48
    found: list[int] = []
    while True:
        if table >= end:
            raise Unreadable(f"{address:#x}: a page table beyond the memory")
        # An absent table reads as zeros: as nothing mapped, which is as true of it.
        place = (table >> 3) + (address >> shift & 511)
        entry = words[place]
        found.append(place)
        if not entry & _PRESENT:
            raise Unreadable(f"{address:#x} is not mapped")
        table = entry & _ADDRESS
        if shift == 12 or (entry & _LARGE and shift <= 30):
            size = 1 << shift
            return found, table & -size, size
        shift -= 9


def translator(memory: PhysicalMemory, root: int, levels: int) -> Callable[[int], int] | None:
    """Return a translation of addresses under one root, if memory is flat.

    What a page was translated by is kept: at the next time all its table entries are read again, at once, and if
    they are the same then so is the page. So it is as right as a walk, at a fifth of its cost.
    """
    flat = views(memory)
    if flat is None:
        return None
    words = flat.words
    pages: dict[int, tuple[Callable[[Any], Any], Any, int]] = {}
    known = pages.get

    def translate(address: int) -> int:
        page = known(address >> 12)
        if page is not None:
            gather, expected, distance = page
            if gather(words) == expected:
                return address + distance
        if not canonical(address, levels):
            raise Unreadable(f"{address & _U64:#x} is no address of this CPU mode")
        places, start, size = entries(flat, levels, root, address)
        gpa = start + (address & (size - 1))
        gather = itemgetter(*places) if len(places) > 1 else _single(places[0])
        if len(pages) >= _MAX_KEPT:
            pages.clear()
        expected = gather(words)
        again, start, size = entries(flat, levels, root, address)
        if again == places and start + (address & (size - 1)) == gpa and gather(words) == expected:
            pages[address >> 12] = gather, expected, gpa - address
        return gpa

    return translate


def _single(place: int) -> Callable[[Any], Any]:
    return lambda words: (words[place],)


class NotingMemory:
    """Reads through to ``memory`` and notes which 64-bit words were read; it offers no mapping, so all reads pass."""

    def __init__(self, memory: PhysicalMemory) -> None:
        self._memory = memory
        self.places: set[int] = set()

    @property
    def size(self) -> int:
        """The size of the memory behind."""
        return self._memory.size

    def read(self, gpa: int, length: int) -> bytes:
        """Return ``length`` bytes at ``gpa``."""
        self.places.update(range(gpa >> 3, gpa + length + 7 >> 3))
        return self._memory.read(gpa, length)

    def read_u64(self, gpa: int) -> int:
        """Return the 64-bit word at ``gpa``."""
        self.places.update(range(gpa >> 3, gpa + 15 >> 3))
        return self._memory.read_u64(gpa)


def remember(memory: PhysicalMemory, noting: NotingMemory, function: Callable[[int], Any]) -> Callable[[int], Any]:
    """Return ``function``, which reads through ``noting`` alone, with a memory of its results.

    A result is kept with all the words it was made of; it is given again only if none of them has changed. Of
    memory that is not flat, nothing is kept.
    """
    flat = views(memory)
    if flat is None:
        return function
    words, end = flat.words, flat.end
    results: dict[int, tuple[Callable[[Any], Any], Any, Any]] = {}
    known = results.get

    def ask(key: int) -> tuple[Any, set[int]]:
        noting.places = set()
        return function(key), noting.places

    def call(key: int) -> Any:  # what the function returns
        found = known(key)
        if found is not None and found[0](words) == found[1]:
            return found[2]
        value, places = ask(key)
        if 1 < len(places) <= _MAX_WORDS and max(places) < end >> 3:
            gather = itemgetter(*places)
            expected = gather(words)
            # The guest may have changed them since: what was kept must be of one moment.
            if ask(key) == (value, places) and gather(words) == expected:
                if len(results) >= _MAX_KEPT:
                    results.clear()
                results[key] = gather, expected, value
        return value

    return call
