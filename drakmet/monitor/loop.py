# SPDX-License-Identifier: GPL-2.0-or-later
"""The loop's inner part: takes the events that wait in the ring, reads, answers, and then does the rest.

A vCPU waits while this runs, and a bytecode costs some 60 instructions, a register read from a slot 170, a word of a
memoryview 350: so of each hit only the registers are read that the place's own traps want.
"""

from __future__ import annotations

from collections import namedtuple
from time import time_ns
from typing import TYPE_CHECKING, Any, Final

from drakmet.pyxen import Flag, Reason, reader
from drakmet.pyxen.ring import REQ_PROD, RSP_PROD, SLOT_PLACES

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet.monitor.armed import Place
    from drakmet.monitor.dispatch import Hits
    from drakmet.pyxen import Ring

ALWAYS: Final = ("reason", "vcpu_id", "altp2m_idx", "gfn", "rax", "rsp", "rip", "cr3", "gs_base")
"""What is read of every event; fetchers may want more registers."""
_OF_A_HIT: Final = ("reason", "vcpu_id", "rsp", "cr3", "gs_base")
"""What is read of every hit of a function's entry, beside what its traps' fetchers want."""
_ROUNDS: Final = 32
"""How often to look into the ring again before the caller may see to what else is due."""
_BREAKPOINT: Final = int(Reason.SOFTWARE_BREAKPOINT)
_SKIP: Final = int(Flag.VCPU_PAUSED | Flag.SET_REGISTERS)
_M32: Final = 0xFFFF_FFFF

Read = tuple["Callable[[Any, int], tuple[Any, ...]]", Any]
"""What unpacks a slot, and the class of tuples with names for the result."""


def make_reader(wanted: set[str]) -> Read:
    """Return how to read these registers of a slot. The reason comes first: it has the lowest offset."""
    layout, order = reader(wanted)
    # One tuple with names for the fetchers: made without a call into Python.
    return layout.unpack_from, namedtuple("Registers", order)


def make_batch(
    ring: Ring,
    notify: Callable[[], None],
    places: dict[int, Place],
    hits: Hits,
    registers: set[str],
    other: Callable[[int, Any, int], None],
    note: Callable[..., None] | None,
    full: Callable[[], None] | None = None,
) -> Callable[[], int]:
    """Return the function that handles every event in the ring and returns how many there were.

    While more come as soon as some are answered, it goes on for a while. ``other(slot, registers, time)`` answers
    events that are no hit of a place. ``note`` is told of each hit when all of it was read, for a recording. ``full``
    is called when there was no room for more in the ring.
    """
    unpack_all, all_registers = read_all = make_reader(set(ALWAYS) | (registers - {"current"}))
    make = tuple.__new__
    ints, words, data = ring.ints, ring.words, ring.data
    find, enter, leave, finish = places.get, hits.enter, hits.leave, hits.finish
    asked, answered, slots, last_slot = REQ_PROD, RSP_PROD, SLOT_PLACES, len(SLOT_PLACES) - 1
    most = last_slot if full is not None else _M32

    def equip(place: Place) -> Read:
        """Choose what is read at this place: of what returns there, any function's fetchers may want anything."""
        every = place.site or note is not None
        place.read = read_all if every else make_reader({*_OF_A_HIT, *place.registers} - {"current"})
        return place.read

    def handle(slot: int, flags_at: int, rip_at: int) -> None:
        """Read an event and set its answer."""
        now = time_ns()
        place = find(words[rip_at])
        if place is not None:
            unpack, names = place.read or equip(place)
            site = place.site  # as it was read for: `enter` may find that calls return here
            event: Any = make(names, unpack(data, slot))
            if event[0] == _BREAKPOINT:
                # Reading comes first: what the vCPU runs into next may change it.
                if place.traps:
                    enter(place, event, now)
                if site:
                    leave(event, now)
                if note is not None:
                    note("hit", now, event.vcpu_id, place.address, event)
                if place.skip_to:
                    ints[flags_at] = _SKIP
                    words[rip_at] = place.skip_to
                else:
                    place.go(slot)  # type: ignore[misc]  # set whenever skip_to is not
                return
        other(slot, make(all_registers, unpack_all(data, slot)), now)

    def batch() -> int:
        count = 0
        for _ in range(_ROUNDS):
            taken = before = ring.taken
            while ints[asked] != taken:
                slot = slots[taken & last_slot]
                ring.taken = taken = taken + 1 & _M32
                handle(*slot)
            if taken == before:
                break
            count += taken - before & _M32
            ints[answered] = taken
            notify()
            if taken - before & _M32 > most:
                full()  # type: ignore[misc]  # it is there where ``most`` is small
            if hits.later:
                finish()
        return count

    return batch
