# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in dom0: watches the opening of files until it is told to end, and keeps each event with its answer.

    python3 guest_probe.py GUEST

Says "attached"; ends when /root/enough is there. Prints one line of JSON: the paths opened, what the engine counted,
and for each vCPU the events and answers in their order, as `tests/simulator` names them.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from drakmet.monitor import Monitor
from drakmet.pyxen import AccessFlag, Channel, Flag, MemAccess, Reason, Ring, event_at
from drakmet.pyxen.layout import RING_HEADER, SLOT_SIZE, SLOTS
from drakmet.pyxen.ring import FLAGS_I
from drakmet.records import EventRecord, Record
from drakmet.sources.xen import XenSource
from drakmet.traps import Trap

ENOUGH = Path("/root/enough")
SECONDS = 300
MOST = 20_000


class ProbeOpen(EventRecord):
    """An open."""

    requested: Annotated[str | None, "the name as it was given"] = None


class Plugin:
    """One trap."""

    name = "probe"
    collectors = ()
    sinks = ()
    traps = (Trap(function="do_filp_open", fetch={"requested": "pathname->name"}, record=ProbeOpen),)


class Rows:
    """A sink that counts names."""

    def __init__(self) -> None:
        self.opened: Counter[str] = Counter()

    def put(self, record: Record) -> None:
        """Count an open."""
        if isinstance(record, ProbeOpen):
            self.opened[record.requested or ""] += 1

    def flush(self) -> None:
        """Nothing waits."""


SEEN: list[tuple[int, str, str]] = []
_waiting: list[tuple[Ring, int, int, str]] = []


def answer_name(flags: int) -> str:
    """Return what an answer has a vCPU do."""
    if flags & Flag.FAST_SINGLESTEP:
        return "fast step"
    if flags & Flag.TOGGLE_SINGLESTEP:
        return "toggle step"
    if flags & Flag.SET_REGISTERS:
        return "skip"
    return "go on"


def name_of(event: Any) -> str:
    """Return an event's name."""
    if isinstance(event, MemAccess):
        return "access write" if event.access & AccessFlag.W else "access read"
    return {Reason.SOFTWARE_BREAKPOINT: "breakpoint", Reason.SINGLESTEP: "step"}.get(event.reason, "other")


def keep() -> None:
    """Have ring and channel keep what comes and what is answered."""
    taken: Any = Ring.__dict__["taken"]
    hand_over = Channel.hand_over

    def take(self: Ring, count: int) -> None:
        before = taken.__get__(self) if count else 0
        taken.__set__(self, count)
        if count == before + 1:
            slot = RING_HEADER + before % SLOTS * SLOT_SIZE
            event = event_at(self, slot)
            _waiting.append((self, slot, event.vcpu, name_of(event)))

    def kept_hand_over(self: Channel) -> None:
        for ring, slot, vcpu, name in _waiting:
            if len(SEEN) < MOST:
                SEEN.append((vcpu, name, answer_name(ring.ints[(slot >> 2) + FLAGS_I])))
        _waiting.clear()
        hand_over(self)

    Ring.taken = property(taken.__get__, take)  # type: ignore[assignment, misc]
    Channel.hand_over = kept_hand_over  # type: ignore[method-assign]


def main(guest: str) -> None:
    """Watch."""
    source, rows = XenSource(guest), Rows()
    try:
        keep()
        with Monitor(source, [Plugin()], [rows]) as monitor:
            monitor.attach()
            print("attached", flush=True)
            monitor.run(SECONDS, lambda _: not ENOUGH.exists())
            told = monitor.statistics
        print(json.dumps({"opened": rows.opened, "events": told.events, "seen": SEEN, "hits": told.hits}), flush=True)
    finally:
        source.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
