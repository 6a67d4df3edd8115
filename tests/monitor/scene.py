# SPDX-License-Identifier: GPL-2.0-or-later
"""A real guest's memory for tests of the monitor: the open of a file, as it was when its kernel ran into a trap."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Any

from guest.images import Image

from drakmet.guest import kernel
from drakmet.guest.linux import LinuxGuest
from drakmet.guest.memory import SparseMemory
from drakmet.monitor import armed
from drakmet.monitor.dispatch import Hits
from drakmet.monitor.faults import Faults
from drakmet.monitor.processes import Processes
from drakmet.monitor.returns import Returns
from drakmet.records import EventRecord, Record

if TYPE_CHECKING:
    from drakmet.traps import Trap

FUNCTION = "do_filp_open"


class Opened(EventRecord):
    """An open."""

    requested: Annotated[str | None, "the name as it was given"] = None
    path: Annotated[str | None, "the file"] = None
    result: Annotated[int | None, "0, or the negative error number"] = None


class List:
    """A sink."""

    def __init__(self) -> None:
        self.rows: list[Record] = []
        self.flushes = 0

    def put(self, record: Record) -> None:
        self.rows.append(record)

    def flush(self) -> None:
        self.flushes += 1

    def of(self, kind: type[Any]) -> list[Any]:
        return [row for row in self.rows if isinstance(row, kind)]


class Plugin:
    """A plugin made of traps."""

    def __init__(self, *traps: Trap, name: str = "test", collectors: tuple[Any, ...] = ()) -> None:
        self.name = name
        self.traps = traps
        self.collectors = collectors
        self.sinks = ()


class Regs:
    """Registers, with names."""

    def __init__(self, **values: int) -> None:
        self.__dict__.update(values)

    def _replace(self, **values: int) -> Regs:
        return Regs(**{**self.__dict__, **values})


@functools.cache
def image() -> Image:
    return Image("6.1")


def opening() -> tuple[LinuxGuest, int, dict[str, int], Any, dict[str, Any]]:
    """Return the guest at an open, the gfn-free address of the function, entry and return registers, and the act."""
    loaded = image()
    hits = loaded.hits
    number = next(i for i, hit in enumerate(hits) if (hit["function"], hit["when"]) == (FUNCTION, "entry"))
    hit = hits[number]
    pages = {**loaded.memory.pages, **loaded.overlays[number]}
    memory = SparseMemory(pages, loaded.memory.size)
    found = loaded.kernel
    guest = LinuxGuest(kernel.Kernel(found.profile, memory, found.base, found.slide, found.levels))
    return guest, guest.function_entry(FUNCTION).address, {**hit["regs"], "vcpu_id": 1}, memory, hit["act"]


def returning(way: Way) -> Regs:
    """Go on to the moment at which that open returns; return the registers."""
    loaded = image()
    number = next(i for i, hit in enumerate(loaded.hits) if (hit["function"], hit["when"]) == (FUNCTION, "return"))
    way.memory.pages.update(loaded.overlays[number])
    return Regs(**{**loaded.hits[number]["regs"], "vcpu_id": 0})


class Way:
    """Everything behind the ring, for one trap on do_filp_open."""

    def __init__(self, *traps: Trap, wants: Any = None, learn: Any = lambda _: True) -> None:
        self.guest, self.address, self.registers, self.memory, self.act = opening()
        self.sink = List()
        self.prepared = armed.prepare(self.guest, [Plugin(*traps)])
        self.processes = Processes(self.guest, 3, 10, self.sink.put, wants)
        self.returns = Returns(self.guest, learn)
        self.faults = Faults(3, self.sink.put)
        self.hits = Hits(self.processes, self.returns, self.faults, 3, self.sink.put)
        self.place = self.prepared.places.get(self.address)
        self.regs = Regs(**self.registers)
