# SPDX-License-Identifier: GPL-2.0-or-later
"""How many records a second one core stores and judges with all bundled rules.

Run it by hand: ``python tests/bench/store_speed.py [RECORDS]``. It prints microseconds of CPU a record, for storing and
for judging, and whether the same file judged at once gives the same findings. The records are a
made-up busy machine's: 60 % opened files, 10 % each of writes, programs and connections, the rest DNS and renames.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from drakmet.plugins import load_plugins
from drakmet.records import Process, Record
from drakmet.rules import Evaluator, judge, load_rules
from drakmet.store import Writer

if TYPE_CHECKING:
    from collections.abc import Iterator

BEGIN = 1_767_225_600 * 10**9
BATCH = 10_000
PROCESSES = 200


def machine(count: int, classes: dict[str, type[Record]]) -> Iterator[Record]:
    """Yield what a busy machine does, 50,000 things a second, with a scan and a miner now and then."""
    chance = random.Random(1)  # noqa: S311 - a repeatable machine

    def make(table: str, **columns: object) -> Record:
        record = classes[table]
        values = dict.fromkeys(record.__struct_fields__) | common | columns
        return record(**values)

    for number in range(count):
        common = {"session": 1, "time": BEGIN + number * 20_000, "vcpu": number % 2}
        common["process"] = chance.randrange(1, PROCESSES)
        kind = chance.random()
        if number % 20_000 < 40:
            address = f"10.9.0.{number % 250}"
            yield make("net_connect", process=7, family="inet", protocol="tcp", address=address, port=22, result=0)
        elif kind < 0.6:
            path = f"/usr/lib/x86_64-linux-gnu/lib{number % 500}.so.6"
            yield make("file_open", path=path, requested=path, flags=0, access="r", create=False, result=0)
        elif kind < 0.7:
            yield make("file_write", path=f"/var/lib/app/data{number % 1000}", file=2**64 - 1 - number)
        elif kind < 0.8:
            path, argv = f"/usr/bin/tool{number % 300}", ["tool", "-x", str(number)]
            path = "/opt/xmrig" if number % 1000 == 500 else path
            yield make("process_start", path=path, argv=argv, cwd="/", memfd=False, deleted=False)
        elif kind < 0.9:
            address = f"10.0.{number % 4}.{number % 250}"
            yield make("net_connect", family="inet", protocol="tcp", address=address, port=443, result=0)
        elif kind < 0.95:
            yield make("dns_query", name=f"host{number % 400}.example.com", qtype="A", address="10.0.0.1", port=53)
        else:
            yield make("file_rename", path="/var/lib/a", new_path=f"/var/lib/b{number}", result=0)


def main(count: int) -> None:
    """Store and judge, and print what it took."""
    classes = load_plugins().records
    rules = load_rules()
    records = list(machine(count, {record.table: record for record in classes}))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "bench.db"
        storing = judging = 0.0
        findings = []
        with Writer(path, classes) as writer:
            for number in range(1, PROCESSES):
                writer.put(
                    Process(id=number, session=1, time=BEGIN, pid=number, exe=f"/usr/bin/prog{number % 40}", uid=0)
                )
            writer.flush()
            evaluator = Evaluator(path, rules.rules, rules.lists)
            evaluator.step()
            for begin in range(0, count, BATCH):
                start = time.process_time()
                for record in records[begin : begin + BATCH]:
                    writer.put(record)
                writer.flush()
                between = time.process_time()
                findings += evaluator.step()
                storing += between - start
                judging += time.process_time() - between
            evaluator.close()
        start = time.process_time()
        again, _ = judge(path, rules.rules, rules.lists)
        batch = time.process_time() - start
        size = path.stat().st_size
    print(f"{count} records, {len(rules.rules)} rules, {len(findings)} findings, {size / count:.0f} bytes a record")
    print(f"stored {storing / count * 1e6:.2f} us, judged {judging / count * 1e6:.2f} us a record")
    print(f"stored and judged: {count / (storing + judging):,.0f} records a second of CPU")
    print(f"judged again at once: {count / batch:,.0f} records a second of CPU")
    same = Counter((f.rule, f.time, f.message) for f in findings) == Counter((f.rule, f.time, f.message) for f in again)
    print("the same findings" if same else "DIFFERENT findings")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
