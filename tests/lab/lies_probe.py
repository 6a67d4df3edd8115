# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in dom0: watches a guest and forges its books, and its code, from outside while it does; tells what was noted.

    python3 lies_probe.py GUEST

The books are forged while the guest stands still at a hit, and put right before it goes on: a kernel that switched to
page tables that are none would die of it. Its code is written as another nop of the same length. One line of JSON.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

from drakmet.monitor import Monitor
from drakmet.monitor.identity import IdentityCheck
from drakmet.records import Coverage, CoverageKind, EventRecord, IdentityConflict, Record
from drakmet.sources.xen import XenSource
from drakmet.traps import Trap

if TYPE_CHECKING:
    from drakmet.guest.kernel import Kernel

TICKS = 3000
"""At most: ten minutes."""
NOP, OTHER_NOP = bytes.fromhex("0f1f440000"), bytes.fromhex("6666666690")


class ProbeOpen(EventRecord):
    """An open."""

    requested: Annotated[str | None, "the name as it was given"] = None


class Plugin:
    """One trap."""

    name = "probe"
    collectors = ()
    sinks = ()
    traps = (Trap(function="do_filp_open", fetch={"requested": "pathname->name"}, record=ProbeOpen),)


class Rows:
    """A sink that keeps all but the processes."""

    def __init__(self) -> None:
        self.opens = 0
        self.conflicts: list[IdentityConflict] = []
        self.coverage: list[Coverage] = []

    def put(self, record: Record) -> None:
        """Keep it."""
        self.opens += isinstance(record, ProbeOpen)
        if isinstance(record, IdentityConflict):
            self.conflicts.append(record)
        elif isinstance(record, Coverage):
            self.coverage.append(record)

    def flush(self) -> None:
        """Nothing waits."""


class Forger:
    """Writes to the guest."""

    def __init__(self, source: XenSource, kernel: Kernel) -> None:
        self.source, self.kernel, self.types = source, kernel, kernel.profile.types
        self.checks = 0
        self.told: dict[str, dict[str, Any]] = {}

    def write(self, gpa: int, data: bytes) -> None:
        """Write within a page."""
        with self.source.map([gpa >> 12]) as page:
            assert not page.errors
            page.buffer[gpa & 4095 : (gpa & 4095) + len(data)] = data

    def read(self, address: int) -> int:
        """Return a word at a kernel address."""
        return self.kernel.space.read_u64(address)

    def lie(self, words: dict[int, int]) -> dict[int, int]:
        """Write words at kernel addresses; return what takes that back."""
        before = {address: self.read(address) for address in words}
        for address, word in words.items():
            self.write(self.kernel.gpa(address), word.to_bytes(8, "little"))
        return before

    def pgd(self, task: int) -> dict[int, int]:
        """Have its memory name the kernel's page tables as its own."""
        mm = self.read(task + self.types.offset("task_struct", "mm"))
        return {mm + self.types.offset("mm_struct", "pgd"): self.kernel.address("init_top_pgt")}

    def listed(self, task: int) -> dict[int, int]:
        """Take it out of the list of tasks."""
        tasks = self.types.offset("task_struct", "tasks")
        node = self.read(task + self.types.offset("task_struct", "group_leader")) + tasks
        after, before = self.read(node), self.read(node + 8)
        return {before: after, after + 8: before}

    def forge(self) -> None:
        """Lie at two checks of programs that are checked for the first time."""
        check, forger = IdentityCheck.check, self
        lies = {"pgd": self.pgd, "list": self.listed}

        def forged(self: IdentityCheck, known: Any, task: int, registers: Any, time: int) -> None:
            mm = forger.read(task + forger.types.offset("task_struct", "mm"))
            if known.root or not mm or not lies:
                check(self, known, task, registers, time)
                return
            name, lie = lies.popitem()
            with forger.source.control.paused(forger.source.domid):
                undo = forger.lie(lie(task))
                try:
                    check(self, known, task, registers, time)
                finally:
                    forger.lie(undo)
            forger.told[name] = {"process": known.record.id, "root": registers.cr3 & ~0xFFF}

        IdentityCheck.check = forged  # type: ignore[method-assign]


def main(guest: str) -> None:
    """Watch, lie, tell."""
    source, rows = XenSource(guest), Rows()
    try:
        with Monitor(source, [Plugin()], [rows]) as monitor:
            monitor.prepare()
            assert monitor.kernel is not None
            kernel = monitor.kernel
            forger = Forger(source, kernel)
            forger.forge()
            entry = kernel.gpa(next(iter(monitor.prepare().places)))
            original = source.memory.read(entry, len(NOP))
            seen, ticks = 0, 0

            def changed() -> int:
                return sum(row.kind == CoverageKind.CHANGED for row in rows.coverage)

            def on_tick(_: object) -> bool:
                nonlocal seen, ticks
                ticks += 1
                now = source.memory.read(entry, len(NOP))
                if now == original and not changed():
                    if len(forger.told) == 2 and rows.opens > 5:
                        with source.control.paused(source.domid):
                            forger.write(entry, OTHER_NOP)
                elif now != original and changed() == 1:
                    seen = seen or rows.opens
                    if rows.opens > seen + 5:  # the trap sees on
                        with source.control.paused(source.domid):
                            forger.write(entry, original)
                        seen = rows.opens
                elif changed() == 2:
                    return rows.opens <= seen + 5
                return ticks < TICKS

            monitor.attach()
            try:
                monitor.run(None, on_tick)
            finally:
                forger.write(entry, original)
        print(
            json.dumps(
                {
                    "told": forger.told,
                    "kernel": kernel.gpa(kernel.address("init_top_pgt")),
                    "original": original.hex(),
                    "ticks": ticks,
                    "conflicts": [
                        {name: getattr(row, name) for name in row.__struct_fields__} for row in rows.conflicts
                    ],
                    "changed": [
                        [row.begin, row.end, row.gap] for row in rows.coverage if row.kind == CoverageKind.CHANGED
                    ],
                }
            ),
            flush=True,
        )
    finally:
        source.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
