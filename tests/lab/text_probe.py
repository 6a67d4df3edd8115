# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in dom0: scans a guest's kernel against its files, while it is forged from outside, and tells what was found.

    python3 text_probe.py GUEST DIRECTORY STAGE...

Stages: clean, patched (a jump over a function's entry), unlinked (a process out of the list of tasks), hidden (a module
out of the list of modules). What was forged is put right after each. One line of JSON a stage. The kernel's code is
compared in all stages but unlinked.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drakmet.guest.linux import LinuxGuest
from drakmet.guest.modules import Modules
from drakmet.scan import scan
from drakmet.scan.kernelfiles import KernelFiles
from drakmet.scan.kerneltext import KernelTexts
from drakmet.sources.scanning import XenScanSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.guest.kernel import Kernel
    from drakmet.records import Record

FUNCTION, PROCESS = "kernel_power_off", "sleep"
TOLD = ("kernel_image", "kernel_text", "unowned_code", "hidden_object")


class Rows:
    """A sink that keeps what a stage tells of."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TOLD}

    def put(self, record: Record) -> None:
        """Keep it."""
        if record.table in self.rows:
            self.rows[record.table].append({name: getattr(record, name) for name in record.__struct_fields__})

    def flush(self) -> None:
        """Nothing waits."""


class Forger:
    """Writes to the guest while it stands still."""

    def __init__(self, source: XenScanSource, kernel: Kernel) -> None:
        self.source, self.kernel = source, kernel
        self.space = kernel.space

    def write(self, address: int, data: bytes) -> None:
        """Write at a kernel address, within a page."""
        gpa = self.kernel.gpa(address)
        with self.source.map([gpa >> 12]) as page:
            assert not page.errors
            page.buffer[gpa & 4095 : (gpa & 4095) + len(data)] = data

    def word(self, address: int, value: int) -> None:
        """Write a word."""
        self.write(address, value.to_bytes(8, "little"))

    @contextmanager
    def still(self) -> Iterator[None]:
        """Have the guest stand still."""
        with self.source.control.paused(self.source.domid):
            yield

    @contextmanager
    def without(self, node: int, head: int) -> Iterator[None]:
        """Take a node out of its list, and put it at the list's end again."""
        with self.still():
            after, before = self.space.read_u64(node), self.space.read_u64(node + 8)
            self.word(before, after)
            self.word(after + 8, before)
        try:
            yield
        finally:
            with self.still():
                last = self.space.read_u64(head + 8)
                self.word(last, node)
                self.word(node + 8, last)
                self.word(node, head)
                self.word(head + 8, node)

    @contextmanager
    def clean(self, told: dict[str, Any]) -> Iterator[None]:
        """Forge nothing."""
        told["forged"] = None
        yield

    @contextmanager
    def patched(self, told: dict[str, Any]) -> Iterator[None]:
        """Jump from a function's entry to what follows it: nothing happens but the jump."""
        at = self.kernel.address(FUNCTION)
        original = self.space.read(at, 5)
        told["forged"] = {"address": at, "original": original.hex()}
        with self.still():
            self.write(at, bytes.fromhex("e900000000"))
        try:
            yield
        finally:
            with self.still():
                self.write(at, original)

    @contextmanager
    def unlinked(self, told: dict[str, Any]) -> Iterator[None]:
        """Take a process out of the list of tasks."""
        guest = LinuxGuest(self.kernel)
        tasks = self.kernel.profile.types.offset("task_struct", "tasks")
        task, pid = next(
            (task, found.pid) for task in guest.tasks() if (found := guest.process(task)).comm == PROCESS and found.pid
        )
        told["forged"] = {"address": task, "pid": pid}
        with self.without(task + tasks, self.kernel.address("init_task") + tasks):
            yield

    @contextmanager
    def hidden(self, told: dict[str, Any]) -> Iterator[None]:
        """Take a module out of the list of modules."""
        reader = Modules(self.kernel)
        module = reader.module(list(reader.listed())[-1])
        told["forged"] = {"address": module.address, "name": module.name}
        entry = module.address + self.kernel.profile.types.offset("module", "list")
        with self.without(entry, self.kernel.address("modules")):
            yield


def main(guest: str, directory: str, *stages: str) -> None:
    """Forge, scan, tell."""
    source = XenScanSource(guest)
    try:
        kernel = source.kernel()
        files = KernelFiles([Path(directory)])
        forger = Forger(source, kernel)
        for stage in stages:
            told: dict[str, Any] = {"stage": stage}
            rows, begun = Rows(), time.process_time()
            with getattr(forger, stage)(told):
                # A comparison takes the emulated host minutes, and the list of tasks has nothing to do with it.
                texts = [] if stage == "unlinked" else [KernelTexts(files, source.memory, moves=True)]
                result = scan(source, [], [rows], kernel=kernel, more=texts)
            told |= rows.rows | {"gaps": result.gaps, "paused": result.paused, "cpu": time.process_time() - begun}
            print(json.dumps(told), flush=True)
    finally:
        source.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
