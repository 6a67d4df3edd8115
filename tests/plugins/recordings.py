# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes recordings out of the guests of tests/data: real hits, told by the guest itself before."""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING, Any

from guest.images import image

from drakmet.guest.kernel import Kernel
from drakmet.guest.linux import LinuxGuest
from drakmet.guest.memory import SparseMemory
from drakmet.monitor.armed import prepare
from drakmet.monitor.dispatch import Hits
from drakmet.monitor.faults import Faults
from drakmet.monitor.processes import Processes
from drakmet.monitor.returns import Returns
from drakmet.sources.recording import Head, Recorder

if TYPE_CHECKING:
    from pathlib import Path

    from drakmet.plugins import LoadedPlugin
    from drakmet.records import Record


ENDBR = 4


class Changing:
    """The guest's memory as it was at one hit after the other."""

    def __init__(self, base: SparseMemory) -> None:
        self.size = base.size
        self.base = base
        self.now = base

    def at(self, overlay: dict[int, bytes]) -> None:
        self.now = SparseMemory({**self.base.pages, **overlay}, self.size)

    def read(self, gpa: int, length: int) -> bytes:
        return self.now.read(gpa, length)

    def read_u64(self, gpa: int) -> int:
        return self.now.read_u64(gpa)


def record(path: Path, guest_name: str, plugins: list[LoadedPlugin]) -> list[Record]:
    """Write a recording of what the plugins' traps meet; return the records that came of it meanwhile.

    The guests' stacks were not kept, so that no trap meets the return of its function.
    """
    shot = image(guest_name)
    # Of what no hit is about, such as its process, only some hits have kept the pages.
    every = {gfn: page for overlay in shot.overlays for gfn, page in overlay.items()}
    memory = Changing(SparseMemory({**every, **shot.memory.pages}, shot.memory.size))
    recorder = Recorder(path, memory)
    found = shot.kernel
    guest = LinuxGuest(Kernel(found.profile, recorder.memory, found.base, found.slide, found.levels))
    prepared = prepare(guest, plugins)
    recorder.note("open", 0)
    recorder.note("attach", 1)
    names = [*shot.hits[0]["regs"], "vcpu_id"]
    registers_of = namedtuple("Registers", names)  # type: ignore[misc]  # as the guest's were kept
    records: list[Record] = []
    hits = Hits(
        Processes(guest, 1, 1, records.append, None),
        Returns(guest, lambda _: True),
        Faults(1, records.append),
        1,
        records.append,
    )
    for time, (hit, overlay) in enumerate(zip(shot.hits, shot.overlays, strict=True), start=2):
        memory.at(overlay)
        registers: Any = registers_of._make([*hit["regs"].values(), 1])
        if registers.rip + ENDBR in prepared.places:  # some guests were stopped before it
            registers = registers._replace(rip=registers.rip + ENDBR)
        place = prepared.places.get(registers.rip)
        if place is not None:
            hits.enter(place, registers, time)
        hits.finish()
        recorder.note("hit", time, 1, registers.rip, tuple(registers))
    recorder.note("end", time + 1)
    recorder.finish(
        Head(
            host="here",
            guest=guest_name,
            uuid=None,
            xen=None,
            vcpus=2,
            uri="xen:x",
            size=memory.size,
            base=found.base,
            slide=found.slide,
            levels=found.levels,
            registers=names,
            places={place.function: place.address for place in prepared.places.values()},
            profile=found.profile.subset(),
            begin=0,
            outcome="done",
        )
    )
    return records
