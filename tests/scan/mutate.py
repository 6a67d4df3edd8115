# SPDX-License-Identifier: GPL-2.0-or-later
"""Damages a guest's memory where a scan reads it, again and again, and looks that every scan ends and tells.

    PYTHONPATH=tests python -m scan.mutate 1000

A damaged word becomes a pointer to itself or to another place (circles), an address that is none (wild pointers), or a
number out of all proportion (absurd lengths).
"""

from __future__ import annotations

import random
import struct
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from guest.images import NAMES, image

from drakmet.records import Coverage
from scan.sample import Rows, changed, kernel_in, scanned

if TYPE_CHECKING:
    from drakmet.guest.memory import SparseMemory

_NUMBERS = (0, 1, 0xFF, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF, 1 << 40, 1 << 63, (1 << 64) - 1, (1 << 64) - 4096)


def read_pages(name: str) -> list[int]:
    """Return the frames that a scan of a sample guest reads."""
    from drakmet.scan.memory import ScanMemory

    memory = ScanMemory(image(name).memory)
    scanned(name, memory)
    return memory.used


def damage(name: str, frames: list[int], chance: random.Random) -> SparseMemory:
    """Return the sample's memory with one to a hundred words of those pages changed."""
    pages = image(name).memory.pages
    offset = kernel_in(name, image(name).memory).page_offset
    changes: dict[int, bytes] = {}
    for _ in range(chance.choice([1, 5, 20, 100])):
        gfn = chance.choice(frames)
        words = struct.unpack("<512Q", pages[gfn])
        pointers = [at for at, word in enumerate(words) if word >= offset]
        at = chance.choice(pointers) if pointers and chance.random() < 0.8 else chance.randrange(512)
        gpa = (gfn << 12) + at * 8
        other = (chance.choice(frames) << 12) + chance.randrange(512) * 8
        word = chance.choice([
            gpa + offset, other + offset, words[chance.randrange(512)], chance.getrandbits(64),
            chance.choice(_NUMBERS), words[at] ^ 1 << chance.randrange(64),
        ])  # fmt: skip
        changes[gpa] = struct.pack("<Q", word)
    return changed(name, changes)


def run(count: int, seed: int = 1, limit: float = 20.0) -> Counter[str]:
    """Scan ``count`` damaged guests; return what came of them. A scan that raises or takes too long ends it."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    frames = {name: [gfn for gfn in read_pages(name) if gfn in image(name).memory.pages] for name in NAMES}
    told: Counter[str] = Counter()
    for number in range(count):
        name = NAMES[number % len(NAMES)]
        memory = damage(name, frames[name], chance)
        begun = time.monotonic()
        try:
            rows, result = scanned(name, memory, seconds=limit)
        except Exception as error:
            raise AssertionError(f"image {number} of seed {seed}: {error!r}") from error
        took = time.monotonic() - begun
        assert took < 2 * limit, f"image {number} of seed {seed} took {took:.1f} s"
        assert result.faults == 0, f"image {number} of seed {seed}: {result.gaps}"
        told["said that something is missing" if result.gaps else "unharmed"] += 1
        told["rows"] += len(rows.rows)
        _look(rows)
    return told


def _look(rows: Rows) -> None:
    """Every collector has its line in the coverage, whatever it met."""
    traps = {row.trap for row in rows.of(Coverage)}
    assert {
        "guest_state",
        "hidden_processes",
        "open_files",
        "sockets",
        "modules",
        "mounts",
        "mapped_files",
        "running",
    } <= traps


if __name__ == "__main__":
    start = time.monotonic()
    print(
        dict(run(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)), f"{time.monotonic() - start:.0f} s"
    )
