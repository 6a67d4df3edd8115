# SPDX-License-Identifier: GPL-2.0-or-later
"""How long all bundled rules take over a file of ten million records, and how much memory.

Run it by hand: ``python tests/bench/ten_million.py [RECORDS] [FILE]``. With FILE the file is kept, or judged as it is
if it is there. The records are those of ``store_speed.py``; memory is the most that the process held while it judged,
above what it held before: ask for it with a file that is there.

On a machine with two cores and emulated hosts running beside: 10,000,000 records (944 MB) with 35 rules in 86 s of CPU,
117,000 records a second, 4 MB more memory.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from store_speed import BATCH, BEGIN, PROCESSES, machine

from drakmet.plugins import load_plugins
from drakmet.records import Process
from drakmet.rules import judge, load_rules
from drakmet.store import Writer


def make(path: Path, count: int) -> None:
    """Store so many records of a busy machine, as a watch does."""
    classes = load_plugins().records
    with Writer(path, classes) as writer:
        writer.begin_session(host="bench", guest="busy", source="bench", begin=BEGIN, os="linux")
        for number in range(1, PROCESSES):
            writer.put(Process(id=number, session=1, time=BEGIN, pid=number, exe=f"/usr/bin/prog{number % 40}", uid=0))
        for number, record in enumerate(machine(count, {record.table: record for record in classes})):
            writer.put(record)
            if number % BATCH == BATCH - 1:
                writer.flush()


def main(count: int, path: Path) -> None:
    """Make the file if it is not there, judge it, and print what it took."""
    if not path.exists():
        begun = time.monotonic()
        make(path, count)
        print(f"{count} records made and stored in {time.monotonic() - begun:.0f} s, {path.stat().st_size >> 20} MB")
    rules = load_rules()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun, cpu = time.monotonic(), time.process_time()
    findings, outcomes = judge(path, rules.rules, rules.lists)
    took, cpu = time.monotonic() - begun, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"judged with {len(rules.rules)} rules in {took:.0f} s ({cpu:.0f} s of CPU), {memory >> 10} MB more at most")
    print(f"{count / cpu:,.0f} records a second of CPU, {len(findings)} findings")
    for state, number in Counter(end.state.value for end in outcomes).items():
        print(f"  {number} rules {state}")
    for end in outcomes:
        if end.reason and "not collected" not in end.reason:
            print(f"  {end.rule}: {end.state.value}: {end.reason}")


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    with tempfile.TemporaryDirectory() as directory:
        main(wanted, Path(sys.argv[2]) if len(sys.argv) > 2 else Path(directory) / "bench.db")
