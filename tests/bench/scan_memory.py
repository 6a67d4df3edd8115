# SPDX-License-Identifier: GPL-2.0-or-later
"""How many pages a second come from a guest's memory, as a share of what copying within a process gives.

    python tests/bench/scan_memory.py image:FILE|xen:GUEST [SECONDS]

Pages are read as scans do it: one by one while structures are followed, and in runs of 256 as the copies under a pause
are made. Of a running guest, mapping is told apart from reading: it is done in batches, before the guest is paused. The
yardstick copies from memory of this process that is as large and was touched before, in pieces of the same size.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from drakmet.guest.memory import PAGE_SIZE, extents
from drakmet.sources.scanning import open_for_scan

if TYPE_CHECKING:
    from collections.abc import Callable

RUN = 256
MOST = 1 << 16


def rate(seconds: float, places: list[tuple[int, int]], copy: Callable[[int, int], bytes]) -> float:
    """Return pages a second of copying ``places`` (address, length) again and again."""
    pages, begun = 0, time.perf_counter()
    while (took := time.perf_counter() - begun) < seconds:
        for at, length in places:
            copy(at, length)
            pages += length // PAGE_SIZE
    return pages / took


def main(uri: str, seconds: float = 3.0) -> None:
    begun = time.perf_counter()
    source = open_for_scan(uri)
    memory = source.memory
    mapped = time.perf_counter() - begun
    singles = [(at, PAGE_SIZE) for start, size in extents(memory) for at in range(start, start + size, PAGE_SIZE)][
        :MOST
    ]
    there = {at for at, _ in singles}
    together = [
        (at, RUN * PAGE_SIZE)
        for at, _ in singles
        if at % (RUN * PAGE_SIZE) == 0 and at + (RUN - 1) * PAGE_SIZE in there
    ]  # fmt: skip
    yardstick = memoryview(bytearray(b"\1") * (len(singles) * PAGE_SIZE))
    print(
        f"{uri}: {len(singles)} pages; opened and mapped in {mapped:.2f} s, {len(singles) / mapped:,.0f} pages a second"
    )
    for name, places in (("one by one", singles), (f"in runs of {RUN}", together)):
        step = places[0][1]
        flat = [(number * step, step) for number in range(len(places))]
        best = rate(seconds, flat, lambda at, length: bytes(yardstick[at : at + length]))
        rate(0.1, places, memory.read)
        found = rate(seconds, places, memory.read)
        print(f"{name:>14}: {found:12,.0f} pages a second, memcpy {best:12,.0f}: {found / best:.0%}")
    source.close()


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:3]))
