# SPDX-License-Identifier: GPL-2.0-or-later
"""The loop's inner part: takes the events that wait in the ring, reads, answers, and then does the rest."""

from __future__ import annotations

from collections import namedtuple
from time import time_ns
from typing import TYPE_CHECKING, Any, Final

from drakmet.pyxen import Flag, Reason, reader
from drakmet.pyxen.ring import FLAGS_I, REQ_PROD, RIP_Q, RSP_PROD

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet.monitor.armed import Place
    from drakmet.monitor.dispatch import Hits
    from drakmet.pyxen import Ring

ALWAYS: Final = ("reason", "vcpu_id", "altp2m_idx", "gfn", "rax", "rsp", "rip", "cr3", "gs_base")
"""What is read of every event; fetchers may want more registers."""
_BREAKPOINT: Final = int(Reason.SOFTWARE_BREAKPOINT)
_SKIP: Final = int(Flag.VCPU_PAUSED | Flag.SET_REGISTERS)


def make_batch(
    ring: Ring,
    notify: Callable[[], None],
    places: dict[int, Place],
    hits: Hits,
    registers: set[str],
    other: Callable[[int, Any, int], None],
    note: Callable[..., None] | None,
) -> Callable[[], int]:
    """Return the function that handles every event in the ring and returns how many there were.

    ``other(slot, registers, time)`` answers events that are no hit of a place. ``note`` is told of each hit when all
    of it was read, for a recording.
    """
    wanted = set(ALWAYS) | (registers - {"current"})
    layout, order = reader(wanted)
    unpack = layout.unpack_from
    # One tuple with names for the fetchers: made without a call into Python.
    registers_type: Any = namedtuple("Registers", order)  # type: ignore[misc]  # the names are known at run time
    make, new = tuple.__new__, registers_type
    ints, words, data = ring.ints, ring.words, ring.data
    find, enter, leave, finish = places.get, hits.enter, hits.leave, hits.finish
    take = ring.take

    def batch() -> int:
        count = 0
        while ints[REQ_PROD] != ring.taken:
            slot = take()
            event: Any = make(new, unpack(data, slot))
            now = time_ns()
            place = find(event.rip) if event.reason == _BREAKPOINT else None
            if place is None:
                other(slot, event, now)
            else:
                # Reading comes first: what the vCPU runs into next may change it.
                if place.traps:
                    enter(place, event, now)
                if place.site:
                    leave(event, now)
                if note is not None:
                    note("hit", now, event.vcpu_id, event.rip, event)
                if place.skip_to:
                    ints[(slot >> 2) + FLAGS_I] = _SKIP
                    words[(slot >> 3) + RIP_Q] = place.skip_to
                else:
                    place.go(slot)  # type: ignore[misc]  # set whenever skip_to is not
            count += 1
        if count:
            ints[RSP_PROD] = ring.taken
            notify()
            if hits.later:
                finish()
        return count

    return batch
