# SPDX-License-Identifier: GPL-2.0-or-later
"""The half of test_pyxen that runs in dom0: does everything the bindings offer to a guest, and tells what came of it.

    python3 pyxen_probe.py GUEST

Prints one line of JSON for each part.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from typing import Any

from drakmet.guest import kernel
from drakmet.guest.memory import missing
from drakmet.guest.profile import ProfileCache
from drakmet.pyxen import (
    HIT,
    Access,
    AccessFlag,
    Control,
    ForeignMemory,
    GuestMemory,
    MemAccess,
    Reason,
    Session,
    XenCallError,
    Xenstore,
    event_at,
    owner,
    recover,
)
from drakmet.pyxen.ring import HIT_FIELDS

FUNCTION = "do_filp_open"
NOP = bytes.fromhex("0f1f440000")
INT3 = 0xCC
WAYS = ("skip", "fast", "step", "emulate")
ROUNDS = 10
HITS = 40
SECONDS = 8.0


def tell(part: str, **facts: Any) -> None:
    """Print one result."""
    print(json.dumps({"part": part, **facts}), flush=True)


class Trap:
    """One int3 in a shadow of the function's frame."""

    def __init__(self, session: Session, foreign: ForeignMemory, address: int, gpa: int) -> None:
        self.session, self.address = session, address
        self.gfn, offset = gpa >> 12, gpa & 0xFFF
        control, views = session.control, session.altp2m
        self.view = views.create_view()
        (shadow,) = session.frames.add(1)
        with (
            foreign.map(session.domid, [self.gfn]) as original,
            foreign.map(session.domid, [shadow], writable=True) as copy,
        ):
            began = time.monotonic()
            with control.paused(session.domid):
                copy.buffer[:] = original.buffer[:]
                copy.buffer[offset] = INT3
                views.change_gfn(self.view, self.gfn, shadow)
                views.set_access(self.view, self.gfn, Access.X)
                views.switch(self.view)
            self.paused = time.monotonic() - began

    def run(self, way: str) -> Counter[str]:
        """Answer events for a while; return how often each kind came."""
        ring, channel, seen = self.session.ring, self.session.channel, Counter[str]()
        end = time.monotonic() + SECONDS
        while seen["hit"] < HITS and time.monotonic() < end:
            channel.wait_for(ring, 0.2)
            while ring.unconsumed():
                self.answer(ring.take(), way, seen)
            ring.push()
            channel.hand_over()
        return seen

    def answer(self, slot: int, way: str, seen: Counter[str]) -> None:
        """Answer one event."""
        ring = self.session.ring
        hit = dict(zip(HIT_FIELDS, HIT.unpack_from(ring.data, slot), strict=True))
        if hit["reason"] == Reason.SINGLESTEP:
            seen["step"] += 1
            ring.step_toggle(slot, self.view)
        elif hit["reason"] != Reason.SOFTWARE_BREAKPOINT or hit["rip"] != self.address or hit["gfn"] != self.gfn:
            seen["odd"] += 1
            ring.proceed(slot)
        else:
            seen["hit"] += 1
            if way == "skip":
                ring.skip(slot, hit["rip"] + len(NOP))
            elif way == "fast":
                ring.step_fast(slot, back=self.view)
            elif way == "step":
                ring.step_toggle(slot, 0)
            else:
                ring.emulate(slot, NOP)

    def execute_traps(self) -> Counter[str]:
        """Have executions of the frame itself reported."""
        ring, channel, seen = self.session.ring, self.session.channel, Counter[str]()
        views = self.session.altp2m
        other = views.create_view()
        views.set_access_many(other, [self.gfn], Access.RW)
        views.switch(other)
        end = time.monotonic() + SECONDS
        while seen["execute"] < HITS and time.monotonic() < end:
            channel.wait_for(ring, 0.2)
            while ring.unconsumed():
                slot = ring.take()
                event = event_at(ring, slot)
                if isinstance(event, MemAccess) and event.gfn == self.gfn and event.access & AccessFlag.X:
                    seen["execute"] += 1
                    ring.step_fast(slot, back=other)
                else:
                    seen[type(event).__name__] += 1  # left over from the view before
                    ring.switch_view(slot, other)
            ring.push()
            channel.hand_over()
        return seen


def cpu_seconds(control: Control, domid: int, seconds: float) -> float:
    """Return the CPU time a domain uses in some seconds."""
    before = control.domain(domid).cpu_time
    time.sleep(seconds)
    return (control.domain(domid).cpu_time - before) / 1e9


def killed(domid: int, foreign: ForeignMemory, address: int, gpa: int) -> None:
    """Attach in a child that never answers, and kill it."""
    child = os.fork()
    if child == 0:
        with Control() as control:
            session = Session(control, domid)
            Trap(session, foreign, address, gpa)
            while not session.ring.unconsumed():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def main(guest: str) -> None:
    """Do all of it."""
    with Control() as control, ForeignMemory() as foreign, Xenstore() as store:
        domid = store.find(guest)
        before, highest = control.domain(domid), control.max_gpfn(domid)
        tell("host", version=control.version(), events=control.event_version(), vcpus=before.vcpus)
        with GuestMemory(foreign, domid, control.max_gpfn(domid) + 1, missing=missing) as memory:
            found = kernel.find(memory, cache=ProfileCache())
            address = found.address(FUNCTION)
            gpa = found.gpa(address)
            tell("memory", frames=sum(memory.present), code=memory.read(gpa, len(NOP)).hex())
        for number in range(ROUNDS):
            way = WAYS[number % len(WAYS)]
            with Session(control, domid) as session:
                trap = Trap(session, foreign, address, gpa)
                seen = trap.run(way)
                with foreign.map(domid, [gpa >> 12]) as page:
                    visible = bytes(page.buffer[gpa & 0xFFF :][: len(NOP)]).hex()
            after = control.domain(domid)
            tell(
                "attach",
                way=way,
                seen=seen,
                guest_sees=visible,
                paused=trap.paused,
                pages=after.tot_pages - before.tot_pages,
                limit=after.max_pages - before.max_pages,
                stopped=after.paused,
            )
        with Session(control, domid) as session:
            tell("execute", seen=Trap(session, foreign, address, gpa).execute_traps())
            try:
                Session(control, domid).close()
            except XenCallError as error:
                tell("second", errno=error.errno, text=str(error), owner=owner(control, domid) == os.getpid())
        tell("pages", pages=control.domain(domid).tot_pages - before.tot_pages, last=control.max_gpfn(domid) - highest)
        running = cpu_seconds(control, domid, 2)
        killed(domid, foreign, address, gpa)
        stuck = [control.vcpu_info(domid, vcpu).cpu_time for vcpu in range(before.vcpus)]
        time.sleep(1)
        stuck = [control.vcpu_info(domid, vcpu).cpu_time - old for vcpu, old in enumerate(stuck)]
        owned = owner(control, domid)
        recover(control, domid)
        recovered = cpu_seconds(control, domid, 2)
        after = control.domain(domid)
        tell(
            "killed",
            running=running,
            stuck=min(stuck) / 1e9,
            recovered=recovered,
            owner=owned,
            pages=after.tot_pages - before.tot_pages,
            limit=after.max_pages - before.max_pages,
        )
        with Session(control, domid) as session:
            tell("again", seen=Trap(session, foreign, address, gpa).run("skip"))


if __name__ == "__main__":
    main(sys.argv[1])
