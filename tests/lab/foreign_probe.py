# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in dom0 as another program's monitor: attaches without a note anywhere, and dies with the guest waiting.

    python3 foreign_probe.py GUEST [stay]

With ``stay`` it says so and waits for its end instead.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from drakmet.guest import kernel
from drakmet.guest.memory import missing
from drakmet.guest.profile import ProfileCache
from drakmet.pyxen import Access, Altp2m, Channel, Control, ForeignMemory, GuestMemory, Monitor, Xenstore

FRAMES = 5


def main(guest: str, how: str = "die") -> None:
    """Trap the opening of files, and answer nothing."""
    with Xenstore() as store:
        domid = store.find(guest)
    control, foreign = Control(), ForeignMemory()
    with GuestMemory(foreign, domid, control.max_gpfn(domid) + 1, missing=missing, eager=1 << 16) as memory:
        found = kernel.find(memory, cache=ProfileCache())
        gpa = found.gpa(found.address("do_filp_open"))
        page = memory.read(gpa & ~4095, 4096)
    ring = Monitor(control, domid)
    channel = Channel(domid, ring.port)
    views = Altp2m(control, domid)
    views.turn_on()
    info = control.domain(domid)
    control.set_max_memkb(domid, info.max_memkb + 8192)
    first = control.max_gpfn(domid) + 1
    frames = list(range(first, first + FRAMES))
    control.populate(domid, frames)
    view = views.create_view(Access.RWX)
    with foreign.map(domid, frames[:1], writable=True) as copy:
        copy.buffer[:] = page
        copy.buffer[gpa & 4095] = 0xCC
    views.change_gfn(view, gpa >> 12, frames[0])
    ring.software_breakpoint()
    control.pause(domid)
    views.switch(view)
    control.unpause(domid)
    print("attached", os.getpid(), flush=True)
    if how == "stay":
        time.sleep(600)
    while not ring.ring.unconsumed():
        channel.poll(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
