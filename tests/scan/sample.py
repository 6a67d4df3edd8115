# SPDX-License-Identifier: GPL-2.0-or-later
"""Scans of the guests in tests/data, and of what was made of them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from guest.images import image

from drakmet.guest.kernel import Kernel
from drakmet.guest.memory import SparseMemory
from drakmet.plugins import load_plugins
from drakmet.scan import Scanned, scan

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from drakmet.guest.memory import PhysicalMemory
    from drakmet.plugins import LoadedPlugin
    from drakmet.records import Record


class Rows:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def put(self, record: Record) -> None:
        self.rows.append(record)

    def flush(self) -> None:
        pass

    def of(self, kind: type[Any]) -> list[Any]:
        return [row for row in self.rows if isinstance(row, kind)]


class Source:
    """A guest whose memory is given; ``paused`` and ``moves`` as a running one has them."""

    uri = "image:test"

    def __init__(
        self, memory: PhysicalMemory, *, moves: bool = False,
        paused: Callable[[], AbstractContextManager[object]] | None = None,
    ) -> None:  # fmt: skip
        self.memory = memory
        self.moves = moves
        if paused is not None:
            self.paused = paused


@cache
def execution() -> list[LoadedPlugin]:
    """Return the plugin that tells of running processes."""
    return load_plugins(only=["execution"]).plugins


def kernel_in(name: str, memory: PhysicalMemory) -> Kernel:
    """Return the kernel of a sample guest, in another memory."""
    found = image(name).kernel
    return Kernel(found.profile, memory, found.base, found.slide, found.levels)


def changed(name: str, changes: dict[int, bytes]) -> SparseMemory:
    """Return a sample guest's memory with bytes changed: guest-physical address to bytes, within a page each."""
    memory = image(name).memory
    pages = dict(memory.pages)
    for gpa, data in changes.items():
        page, at = pages[gpa >> 12], gpa & 0xFFF
        pages[gpa >> 12] = page[:at] + data + page[at + len(data) :]
    return SparseMemory(pages, memory.size)


def scanned(name: str, memory: PhysicalMemory | None = None, **options: Any) -> tuple[Rows, Scanned]:
    """Scan a sample guest; return its rows and how it went."""
    memory = memory or image(name).memory
    rows = Rows()
    source = options.pop("source", None) or Source(memory)
    result = scan(source, execution(), [rows], kernel=kernel_in(name, memory), **options)
    return rows, result
