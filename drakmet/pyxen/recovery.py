# SPDX-License-Identifier: GPL-2.0-or-later
"""Giving a guest back to itself after its monitor died without leaving it.

A vCPU that waited for an answer then waits for ever: Xen keeps its pause when the ring goes. What a monitor has given
the guest is written to xenstore while it is attached, so that whoever comes next can take it back.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

from drakmet.errors import XenError
from drakmet.pyxen.altp2m import Altp2m
from drakmet.pyxen.failures import XenCallError
from drakmet.pyxen.layout import EVENT, INTERFACE_VERSION, RING_HEADER, SLOT_SIZE, SLOTS, Flag
from drakmet.pyxen.monitor import Monitor
from drakmet.pyxen.ports import listened
from drakmet.pyxen.ring import RSP_PROD
from drakmet.pyxen.xenstore import Xenstore

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence

    from drakmet.pyxen.control import Control
    from drakmet.pyxen.ring import Ring

_MAX_FRAMES = 1 << 16


def _path(domid: int) -> str:
    return f"/tool/drakmet/{domid}"


class Journal:
    """What a session must take back, kept in xenstore (below /tool, which only dom0 can read) while it lasts."""

    def __init__(self, domid: int, handle: uuid.UUID) -> None:
        self.domid = domid
        self.handle = str(handle)
        self.gfns: list[int] = []
        """Frames given to the guest."""
        self.max_memkb: int | None = None
        """The memory limit it had."""
        self.pool: int | None = None
        """The bytes its page tables may take."""
        self.pid = os.getpid()

    def save(self) -> None:
        """Write all of it; before what it says is done."""
        entry = {
            "pid": self.pid,
            "guest": self.handle,
            "gfns": _runs(self.gfns),
            "max_memkb": self.max_memkb,
            "pool": self.pool,
        }
        with Xenstore() as store:
            store.write(_path(self.domid), json.dumps(entry).encode())

    def clear(self) -> None:
        """Forget it: all is taken back."""
        with Xenstore() as store:
            store.remove(_path(self.domid))

    def load(self) -> bool:
        """Take what a session left; return False if there is nothing, or only about another guest."""
        with Xenstore() as store:
            text = store.read(_path(self.domid))
        if text is None:
            return False
        try:
            entry = json.loads(text)
            if entry["guest"] != self.handle:
                return False
            runs = [(int(first), int(count)) for first, count in entry["gfns"]]
            if any(first <= 0 or not 0 < count <= _MAX_FRAMES for first, count in runs):
                return False
            limit, pool = entry["max_memkb"], entry.get("pool")
            self.pid = int(entry["pid"])
            self.max_memkb = None if limit is None else int(limit)
            self.pool = None if pool is None else int(pool)
        except (ValueError, KeyError, TypeError):
            return False
        self.gfns = [gfn for first, count in runs for gfn in range(first, first + count)]
        return True


def _runs(gfns: Sequence[int]) -> list[tuple[int, int]]:
    """Return ``gfns`` as (first, count): a xenstore value has 4 KiB at most."""
    runs: list[tuple[int, int]] = []
    for gfn in sorted(gfns):
        if runs and runs[-1][0] + runs[-1][1] == gfn:
            runs[-1] = runs[-1][0], runs[-1][1] + 1
        else:
            runs.append((gfn, 1))
    return runs


def owner(control: Control, domid: int) -> int | None:
    """Return the process id of the drakmet that has this guest, if one that lives has noted it."""
    journal = Journal(domid, control.domain(domid).handle)
    if not journal.load():
        return None
    with contextlib.suppress(ProcessLookupError):
        os.kill(journal.pid, 0)
        return journal.pid
    return None


def abandoned(control: Control, domid: int) -> bool:
    """Return whether a drakmet that has this guest by its own note is dead: then `recover` is right."""
    return Journal(domid, control.domain(domid).handle).load() and owner(control, domid) is None


def release_vcpus(ring: Ring, vcpus: int, resume: Any) -> None:
    """Answer for every vCPU, whether it asked or not: go on. Xen ignores what is too much (a line in its log)."""
    for first in range(0, vcpus, SLOTS):
        for vcpu in range(first, min(first + SLOTS, vcpus)):
            slot = RING_HEADER + vcpu % SLOTS * SLOT_SIZE
            ring.data[slot : slot + SLOT_SIZE] = bytes(SLOT_SIZE)
            for name, value in (
                ("version", INTERFACE_VERSION),
                ("flags", int(Flag.VCPU_PAUSED)),
                ("vcpu_id", vcpu),
            ):
                ring.ints[slot + EVENT.offsets[name] >> 2] = value
        ring.ints[RSP_PROD] = min(first + SLOTS, vcpus)
        resume()


def recover(
    control: Control, domid: int, *, pauses: int = 0, pausing: bool = False, from_the_living: bool = False
) -> None:
    """Undo all that a dead monitor left on a domain: its ring, its views, its steps, its frames, its pauses.

    `XenError` if a monitor that lives listens to the guest's events, unless it is to be taken ``from_the_living``. May
    be done again if it was itself interrupted. ``pauses`` is how often the monitor had paused the domain; ``pausing``,
    that it may have been about to do it once more, and that nobody else had (`ledger.Ledger`).
    """
    info = control.domain(domid)
    if not from_the_living and listened(control, domid):
        raise XenError(
            "a monitor that lives listens to the guest's events", where=f"domain {domid}", hint="end that monitor first"
        )
    journal = Journal(domid, info.handle)
    noted = journal.load()
    with control.paused(domid):
        views = Altp2m(control, domid)
        with contextlib.suppress(XenCallError):
            if views.active:
                views.turn_off()
        for vcpu in range(info.vcpus):
            with contextlib.suppress(XenCallError):
                control.single_step_off(domid, vcpu)
        with contextlib.suppress(XenCallError):
            control.call("xc_monitor_disable", domid)
        with Monitor(control, domid) as monitor:
            release_vcpus(monitor.ring, info.vcpus, monitor.resume)
            monitor.gives_page_back = True  # the toolstack gave the guest one, and the dead monitor took it
        if noted:
            for gfn in journal.gfns:
                with contextlib.suppress(XenCallError):  # it went already
                    control.depopulate(domid, [gfn])
            if journal.max_memkb is not None:
                control.set_max_memkb(domid, journal.max_memkb)
            if journal.pool is not None:
                with contextlib.suppress(XenCallError):  # Xen may keep some of it in use: a larger pool harms nobody
                    control.set_paging_pool(domid, journal.pool)
    for _ in range(pauses):
        control.unpause(domid)
    if pausing and control.domain(domid).paused:
        control.unpause(domid)
    journal.clear()
