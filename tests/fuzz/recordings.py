# SPDX-License-Identifier: GPL-2.0-or-later
"""Damages what was read of a guest at its hits, and looks that replay, plugins, store and rules come through.

    PYTHONPATH=tests python -m fuzz.recordings 100000

A hostile guest chooses its memory and its registers: in some of a recording's moments words become pointers to other
places or to none, absurd lengths, or noise; texts lose their ends; reads fail. The number is that of damaged moments.
"""

from __future__ import annotations

import random
import sqlite3
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import drakmet
from drakmet.monitor import Monitor
from drakmet.plugins import load_plugins
from drakmet.rules import judge, load_rules
from drakmet.sources.replay import ReplaySource
from drakmet.store import Writer, verifier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.records import Record
    from drakmet.sources.recording import Change, Moment

DEMO = Path(drakmet.__file__).parent / "demo" / "demo.drec"
LONGEST = 1 << 20
"""Characters that no text of a record may exceed."""
_OURS = ("vcpu_id",)
"""What stands among the registers, but is Xen's to say and not the guest's."""
_SHARE = 0.25
_NUMBERS = (0, 1, 0xFF, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF, 1 << 40, 1 << 47, 1 << 63, (1 << 64) - 1, (1 << 64) - 4096)


class DamagedSource(ReplaySource):
    """A recording of which some of the moments that are hits are not as they were."""

    def __init__(self, name: str, seed: int, most: int | None = None) -> None:
        super().__init__(name)
        self._chance = random.Random(seed)  # noqa: S311 - repeatable, no secret
        self._most = most
        self._seen: list[int] = []
        self.damaged = 0
        self._moments = self._change(self._moments)

    def _change(self, moments: Iterator[Moment]) -> Iterator[Moment]:
        for number, moment in enumerate(moments):
            if self._most is not None and number > self._most:
                return
            self._seen += [gpa for _, gpa, data in moment.reads[:4] if data]
            if moment.kind == "hit" and self._chance.random() < _SHARE:
                self.damaged += 1
                moment.reads = [self._read(read) for read in moment.reads]
                if self._chance.random() < 0.3:
                    names = self.head.registers
                    moment.registers = tuple(
                        value if name in _OURS else self._register(value)
                        for name, value in zip(names, moment.registers, strict=True)
                    )
            yield moment

    def _register(self, value: int) -> int:
        return self._number(value) if self._chance.random() < 0.2 else value

    def _number(self, value: int) -> int:
        chance = self._chance
        return chance.choice([
            chance.choice(_NUMBERS), value ^ 1 << chance.randrange(64), chance.getrandbits(64),
            value + chance.choice([-8, 8, 4096]) & (1 << 64) - 1,
            chance.choice(self._seen or [0]) + self.head.slide & (1 << 64) - 1,
        ])  # fmt: skip

    def _read(self, read: Change) -> Change:
        number, gpa, data = read
        chance = self._chance
        kind = chance.random()
        if kind < 0.05 or not data:
            return number, gpa, b""
        if kind < 0.5:
            return read
        changed = bytearray(data)
        for _ in range(chance.choice([1, 1, 3, 20])):
            if len(changed) >= 8 and chance.random() < 0.7:
                at = chance.randrange(len(changed) // 8) * 8
                (word,) = struct.unpack_from("<Q", changed, at)
                struct.pack_into("<Q", changed, at, self._number(word))
            else:
                changed[chance.randrange(len(changed))] = chance.choice([0, 0xFF, 0x1B, 0x2F, chance.randrange(256)])
        return number, gpa, bytes(changed)


class _Looking:
    """A sink that looks at every record's texts."""

    def __init__(self) -> None:
        self.records = 0

    def put(self, record: Record) -> None:
        self.records += 1
        for value in msgspec.structs.astuple(record):
            for text in value if isinstance(value, list) else (value,):
                if isinstance(text, str):
                    assert len(text) <= LONGEST, (record.table, len(text))
                    assert text.isprintable(), (record.table, text[:200])

    def flush(self) -> None:
        pass


def _hidden(path: Path) -> int:
    """Return how many rows could not be stored even without their absurd numbers."""
    connection = sqlite3.connect(path)
    try:
        tables = {name for (name,) in connection.execute("SELECT DISTINCT table_name FROM drakmet_quarantine")}
        apart, kept = 0, 0
        for table in tables:
            (count,) = connection.execute(
                "SELECT count(*) FROM drakmet_quarantine WHERE table_name = ?", (table,)
            ).fetchone()
            apart += count
            sql = f"SELECT count(*) FROM {table} WHERE unreadable IS NOT NULL"  # noqa: S608 - our tables
            kept += connection.execute(sql).fetchone()[0]
        return max(0, apart - kept)
    finally:
        connection.close()


def run(damaged: int, seed: int = 1, most: int | None = None, slowest: float = 60.0) -> Counter[str]:
    """Replay recordings until so many moments were damaged; return what came of it. It raises for what broke."""
    told: Counter[str] = Counter()
    rules = load_rules()
    while told["damaged moments"] < damaged:
        source = DamagedSource(str(DEMO), seed, most)
        plugins = load_plugins()
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "fuzz.db"
            looking = _Looking()
            with Writer(path, plugins.records) as writer:
                opened = writer.begin_session(host="dom0", guest="web1", source=source.uri, os="linux")
                with Monitor(source, plugins.plugins, [writer, looking]) as monitor:
                    monitor.attach(opened.session, opened.next_process)
                    monitor.run()
                writer.end_session(opened.session, "done")
            faults = [trap.last_error for trap in monitor.statistics.traps if trap.errors]
            assert not faults, f"seed {seed}: {faults}"
            told["absurd numbers set apart"] += writer.quarantined
            assert _hidden(path) == 0, f"seed {seed}: rows that the store refused"
            if told["recordings"] % 5 == 0:
                findings, outcomes = judge(path, rules.rules, rules.lists)
                assert outcomes
                told["findings"] += len(findings)
                assert not verifier.verify(path).faults
        took = time.monotonic() - begun
        assert took < slowest, f"seed {seed} took {took:.0f} s"
        told["recordings"] += 1
        told["damaged moments"] += source.damaged
        told["records"] += looking.records
        seed += 1
    return told


if __name__ == "__main__":
    print(dict(run(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000, int(sys.argv[2]) if len(sys.argv) > 2 else 1)))
