# SPDX-License-Identifier: GPL-2.0-or-later
"""The part of `trap_cost` that runs in dom0: watches a guest in one way until it is told to end.

    python3 inside.py GUEST WAY

It prints ``ready`` when the trap is armed; at SIGTERM, or when standard input ends, it detaches and prints one line of
JSON with what it counted.
"""

from __future__ import annotations

import contextlib
import json
import select
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from drakmet.monitor import Filters, Monitor
from drakmet.records import EventRecord, Record
from drakmet.sources import open_source
from drakmet.store import Writer
from drakmet.traps import Trap

if TYPE_CHECKING:
    from collections.abc import Iterator

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


WAYS: dict[str, Trap] = {
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


@contextlib.contextmanager
def sink(way: str, directory: Path) -> Iterator[Any]:
    """Yield the sink of a way and its session."""
    if way not in ("stored", "returned"):
        yield Nothing(), 1, 1
        return
    with Writer(directory / f"{way}.db", [BenchOpen, BenchOpened]) as writer:
        opened = writer.begin_session(host="bench", guest="bench", source="xen:bench")
        yield writer, opened.session, opened.next_process


def measure(source: Any, way: str, directory: Path) -> dict[str, Any]:
    """Watch in one way until standard input ends, and return what was counted."""
    filters = Filters(pids=frozenset({1 << 21})) if way == "ignored" else None
    with (
        sink(way, directory) as (target, session, process),
        Monitor(source, [Bench(WAYS[way])], [target], filters=filters) as monitor,
    ):
        monitor.attach(session, process)
        print("ready", flush=True)
        monitor.run(on_tick=lambda _statistics: not select.select([sys.stdin], [], [], 0)[0])
        monitor.detach()
        counted = monitor.statistics
        return {
            "way": way,
            "hits": counted.hits,
            "records": counted.records,
            "paused_attach": counted.paused_attach,
            "paused_detach": counted.paused_detach,
        }


def main(guest: str, way: str, poll: str | None = None) -> None:
    """Watch ``guest`` in one way, with so many microseconds to look for the next event."""
    source = open_source(f"xen:{guest}")
    if poll is not None:
        source.poll = float(poll) / 1e6  # type: ignore[attr-defined]  # a running domain has it
    try:
        with tempfile.TemporaryDirectory() as directory:
            print(json.dumps(measure(source, way, Path(directory))), flush=True)
    finally:
        source.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
