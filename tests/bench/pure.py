# SPDX-License-Identifier: GPL-2.0-or-later
"""The Python part of a hit, without Xen: counted by callgrind, on a recorded open of a real guest.

valgrind --tool=callgrind --callgrind-out-file=/tmp/out python3 -m tests.bench.pure WAY COUNT
python3 -m tests.bench.pure              # runs both itself and prints instructions a hit
"""

from __future__ import annotations

import mmap
import re
import subprocess
import sys
from typing import Any

from drakmet.monitor import armed
from drakmet.monitor.dispatch import Hits
from drakmet.monitor.faults import Faults
from drakmet.monitor.processes import Processes
from drakmet.monitor.returns import Returns
from tests.bench.inside import WAYS, Bench


class Mapped:
    """Memory in one piece, as a live guest's is."""

    def __init__(self, area: mmap.mmap, present: bytearray, slow: Any) -> None:
        self.buffer = memoryview(area)
        self.words = self.buffer.cast("Q")
        self.present = present
        self.size, self.read, self.read_u64, self.extents = slow.size, slow.read, slow.read_u64, slow.extents


class Sink:
    """Keeps the number of records."""

    count = 0

    def put(self, _record: Any) -> None:
        """Count it."""
        self.count += 1


def scene(way: str) -> tuple[Any, Any, Any]:
    """Return the hits, a place and the registers of a recorded open."""
    from drakmet.guest import kernel
    from drakmet.guest.linux import LinuxGuest
    from drakmet.guest.memory import SparseMemory
    from tests.guest.images import Image

    image = Image("6.1")
    number = next(i for i, hit in enumerate(image.hits) if hit["function"] == "do_filp_open")
    pages = {**image.memory.pages, **image.overlays[number]}
    area = mmap.mmap(-1, image.memory.size)
    present = bytearray(image.memory.size >> 12)
    for gfn, page in pages.items():
        area[gfn << 12 : (gfn + 1) << 12] = page
        present[gfn] = 1
    memory = Mapped(area, present, SparseMemory(pages, image.memory.size))
    found = image.kernel
    guest = LinuxGuest(kernel.Kernel(found.profile, memory, found.base, found.slide, found.levels))
    trap = WAYS[way]
    prepared = armed.prepare(guest, [Bench(trap)])
    (place,) = prepared.places.values()
    sink = Sink()
    processes = Processes(guest, 1, 1, sink.put, None)
    hits = Hits(processes, Returns(guest, lambda _: True), Faults(1, sink.put), 1, sink.put)
    from collections import namedtuple

    registers = image.hits[number]["regs"]
    names = [*registers, "vcpu_id"]
    event = namedtuple("Registers", names)(*registers.values(), 0)  # type: ignore[misc]
    return hits, place, event


def run(way: str, count: int) -> None:
    """Have ``count`` hits."""
    hits, place, event = scene(way)
    enter, finish = hits.enter, hits.finish
    for time in range(count):
        enter(place, event, time)
        finish()


def instructions(way: str, count: int) -> int:
    """Return what callgrind counts for ``count`` hits, start-up included."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, "-m", __spec__.name]
    done = subprocess.run([*command, way, str(count)], check=True, capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found, done.stderr
    return int(found[1])


def main() -> None:
    """Print the table."""
    for way in ("entry", "decoded"):
        few, many = instructions(way, 100), instructions(way, 1100)
        print(f"{way:10} {(many - few) // 1000:7} instructions a hit", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        run(sys.argv[1], int(sys.argv[2]))
    else:
        main()
