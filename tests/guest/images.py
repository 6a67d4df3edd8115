# SPDX-License-Identifier: GPL-2.0-or-later
"""The guests of tests/data, loaded once."""

from __future__ import annotations

import gzip
import json
from functools import cache, cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from drakmet.guest import kernel
from drakmet.guest.linux import LinuxGuest
from drakmet.guest.memory import SparseMemory

DATA = Path(__file__).parent.parent / "data"
NAMES = ("5.10", "6.1", "6.12")
HIT_SHIFT = 32


class Image:
    """One guest: its pages at the end, what differed at each hit, and what it told."""

    def __init__(self, name: str) -> None:
        memory = SparseMemory.load(DATA / f"guest-{name}.pages")
        truth = json.loads(gzip.decompress((DATA / f"guest-{name}.json.gz").read_bytes()))
        self.name = name
        self.hits: list[dict[str, Any]] = truth["hits"]
        self.told: list[dict[str, Any]] = truth["told"]
        self.overlays: list[dict[int, bytes]] = [{} for _ in self.hits]
        base = {}
        for gfn, page in memory.pages.items():
            number = gfn >> HIT_SHIFT
            if number:
                self.overlays[number - 1][gfn & (1 << HIT_SHIFT) - 1] = page
            else:
                base[gfn] = page
        self.memory = SparseMemory(base, memory.size)

    @cached_property
    def kernel(self) -> kernel.Kernel:
        """The kernel, found without any help."""
        return kernel.find(self.memory)

    @cached_property
    def guest(self) -> LinuxGuest:
        return LinuxGuest(self.kernel)

    def at_hit(self, number: int) -> tuple[LinuxGuest, Any]:
        """Return the guest as it was at a hit, and its registers."""
        memory = SparseMemory({**self.memory.pages, **self.overlays[number]}, self.memory.size)
        found = self.kernel
        guest = LinuxGuest(kernel.Kernel(found.profile, memory, found.base, found.slide, found.levels))
        return guest, SimpleNamespace(**self.hits[number]["regs"])

    def said(self, key: str) -> Any:
        """Return what the guest told once under ``key``."""
        (value,) = [line[key] for line in self.told if key in line]
        return value


@cache
def image(name: str) -> Image:
    return Image(name)
