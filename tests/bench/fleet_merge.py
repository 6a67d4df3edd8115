# SPDX-License-Identifier: GPL-2.0-or-later
"""Merges a fleet's results: a real scan, multiplied to HOSTS hosts with GUESTS guests each, and judges the file.

    drakmet scan --all --no-rules --db host.db                      # on a Xen host, or of images
    python tests/bench/fleet_merge.py host.db [HOSTS] [GUESTS] [--parquet]

Each result is unpacked, checked (integrity, schema, chain, references) and merged as `drakmet fleet scan`
does it. Times are CPU seconds of this process; sizes are of the files.
"""

from __future__ import annotations

import gzip
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from drakmet.fleet.foreign import Result, read_result
from drakmet.fleet.merge import Merger
from drakmet.fleet.records import FleetHost
from drakmet.plugins import load_plugins
from drakmet.records import CORE_RECORDS, Guest, Session
from drakmet.rules import Evaluator, bundled, load_rules
from drakmet.scan import SCAN_RECORDS
from drakmet.store import Writer
from drakmet.store.verifier import verify

RECORDS = [*CORE_RECORDS, *load_plugins().records, *SCAN_RECORDS]
MOST = 4 << 30


def about(name: str) -> FleetHost:
    """Return the row about a host of the bench."""
    return FleetHost(name=name, begin=time.time_ns(), end=time.time_ns(), outcome="done")


def host_with(result: Result, guests: int, folder: Path) -> Path:
    """Write the packed result of a host with so many guests: those of the real one again and again."""
    database = folder / "host.db"
    with Writer(database, [*RECORDS, FleetHost]) as writer:
        merger = Merger(writer)
        for number in range(-(-guests // result.count(Session))):
            names = result.columns[Guest]["name"]
            result.columns[Guest]["name"] = [f"{name.split('#')[0]}#{number}" for name in names]
            merger.add(result, about("host"))
    packed = folder / "incoming" / "host.db.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(database.read_bytes(), 3))
    return packed


class Timed:
    """Prints what a step took."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> Timed:
        self.begun = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.process_time() - self.begun
        print(f"{self.what:<58}{self.seconds:9.1f} s", flush=True)


def main() -> None:
    """Run the bench and print its figures."""
    source, hosts, guests = Path(sys.argv[1]), *(int(word) for word in (*sys.argv[2:4], "300", "20")[:2])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        packed = folder / "in" / "one.db.gz"
        packed.write_bytes(gzip.compress(source.read_bytes(), 3))
        packed = host_with(read_result(packed, RECORDS, most=MOST), guests, folder)
        database = folder / "fleet.db"
        rows = 0
        with Timed(f"check and merge {hosts} hosts") as merged, Writer(database, [*RECORDS, FleetHost]) as writer:
            merger = Merger(writer)
            for number in range(hosts):
                done = merger.add(read_result(packed, RECORDS, most=MOST), about(f"host{number}"))
                rows += done.rows or 0
        print(f"{rows} rows, {rows / merged.seconds:.0f} a second; {database.stat().st_size >> 20} MiB,")
        print(f"  {packed.stat().st_size / 1024:.0f} KiB a host as it is fetched")
        rules = load_rules([bundled()])
        with Timed(f"{len(rules.rules)} rules over it (SQLite)"):
            evaluator = Evaluator(database, rules.rules, rules.lists, whole=True, seconds=10.0, chunk=1_000)
            with closing(evaluator):
                found, outcomes = evaluator.step(), evaluator.outcomes()
        print(f"{len(found)} findings, {sum(outcome.faulty for outcome in outcomes)} faults")
        with Timed("verify the chain"):
            assert not verify(database).faults
        if "--parquet" in sys.argv:
            from drakmet.store.parquet import export

            with Timed("export to Parquet"):
                export(database, folder / "parquet")
            size = sum(path.stat().st_size for path in (folder / "parquet").iterdir())
            print(f"{size >> 20} MiB of Parquet")
            from drakmet.rules.duck import judge as judge_by_duckdb

            with Timed("the same rules there (DuckDB)"):
                there, unable = judge_by_duckdb(folder / "parquet", rules.rules, rules.lists)
            print(f"{len(there)} findings; not judged there: {len(unable)} rules")


if __name__ == "__main__":
    main()
