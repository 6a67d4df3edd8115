# SPDX-License-Identifier: GPL-2.0-or-later
"""What a trap costs, measured in dom0: watches a guest that opens a file again and again, one way at a time.

    python3 inside.py GUEST SECONDS WAY...

The guest runs ``opens N 100000`` on its console (opens.c), which tells how long each round took. One nanosecond of the
emulated host is 0.08 instructions. Each way prints one
line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from drakmet.monitor import Filters, Monitor
from drakmet.records import EventRecord, Record
from drakmet.sources import open_source
from drakmet.store import Writer
from drakmet.traps import Trap

if TYPE_CHECKING:
    from collections.abc import Iterator

_LINE = re.compile(rb"opens (\d+) ns (\d+)")
FUNCTION = "do_filp_open"


class BenchOpen(EventRecord):
    """An open, as it is asked for."""

    path: Annotated[str | None, "the name as it was given"] = None


class BenchOpened(EventRecord):
    """An open and what came of it."""

    requested: Annotated[str | None, "the name as it was given"] = None
    path: Annotated[str | None, "the file's full path"] = None
    result: Annotated[int | None, "0, or the negative error number"] = None


class Nothing:
    """A sink that forgets."""

    def put(self, record: Record) -> None:
        """Forget it."""

    def flush(self) -> None:
        """Nothing waits."""


class Bench:
    """A plugin of one trap."""

    name = "bench"
    collectors = ()
    sinks = ()

    def __init__(self, trap: Trap) -> None:
        self.traps = [trap]


WAYS: dict[str, Trap | None] = {
    "unwatched": None,
    "ignored": Trap(function=FUNCTION, handler=lambda _: None, limit=1 << 40),
    "entry": Trap(function=FUNCTION, handler=lambda _: None, limit=1 << 40),
    "decoded": Trap(function=FUNCTION, fetch={"path": "pathname->name"}, record=BenchOpen, limit=1 << 40),
    "stored": Trap(function=FUNCTION, fetch={"path": "pathname->name"}, record=BenchOpen, limit=1 << 40),
    "returned": Trap(
        function=FUNCTION,
        fetch={"requested": "pathname->name"},
        returns={"path": "$return|path", "result": "$return|errno"},
        record=BenchOpened,
        limit=1 << 40,
    ),
}


class Console:
    """What the guest prints, from a moment on."""

    def __init__(self, guest: str, directory: Path) -> None:
        self._path = directory / "console"
        with self._path.open("wb") as out:
            self._process = subprocess.Popen(["xl", "console", guest], stdout=out, stdin=subprocess.DEVNULL)
        self._from = 0

    def mark(self) -> None:
        """Forget what was printed up to now."""
        self._from = self._path.stat().st_size

    def rounds(self) -> list[tuple[int, int]]:
        """Return ``(opens, nanoseconds)`` of each round since `mark`, but for the one that was under way."""
        found = [(int(n), int(ns)) for n, ns in _LINE.findall(self._path.read_bytes()[self._from :])]
        return found[1:]

    def close(self) -> None:
        """Let the console go."""
        self._process.terminate()
        self._process.wait()


@contextlib.contextmanager
def sink(way: str, directory: Path) -> Iterator[Any]:
    """Yield the sink of a way and its session."""
    if way not in ("stored", "returned"):
        yield Nothing(), 1, 1
        return
    with Writer(directory / f"{way}.db", [BenchOpen, BenchOpened]) as writer:
        opened = writer.begin_session(host="bench", guest="bench", source="xen:bench")
        yield writer, opened.session, opened.next_process


def measure(source: Any, way: str, seconds: float, directory: Path) -> dict[str, Any]:
    """Watch in one way and return its rounds."""
    trap = WAYS[way]
    console = Console(source.name, directory)
    try:
        if trap is None:
            time.sleep(1)
            console.mark()
            time.sleep(seconds)
            return {"way": way, "rounds": console.rounds(), "hits": 0}
        filters = Filters(pids=frozenset({1 << 21})) if way == "ignored" else None
        with (
            sink(way, directory) as (target, session, process),
            Monitor(source, [Bench(trap)], [target], filters=filters) as monitor,
        ):
            monitor.attach(session, process)
            begun = time.monotonic()
            marked = False

            def tick(_statistics: object) -> bool:
                nonlocal marked
                if not marked and time.monotonic() - begun > 1:
                    console.mark()
                    marked = True
                return True

            monitor.run(seconds + 1, tick)
            rounds = console.rounds()
            monitor.detach()
            statistics = monitor.statistics
            return {
                "way": way,
                "rounds": rounds,
                "hits": statistics.hits,
                "records": statistics.records,
                "batches": statistics.batches,
                "paused_attach": statistics.paused_attach,
                "paused_detach": statistics.paused_detach,
            }
    finally:
        console.close()


def main(guest: str, seconds: str, *ways: str) -> None:
    """Measure the ways that are asked for, or all."""
    source = open_source(f"xen:{guest}")
    try:
        with tempfile.TemporaryDirectory() as directory:
            for way in ways or WAYS:
                print(json.dumps(measure(source, way, float(seconds), Path(directory))), flush=True)
    finally:
        source.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
