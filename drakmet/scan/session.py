# SPDX-License-Identifier: GPL-2.0-or-later
"""A scan from beginning to end: read what there is, of one moment if the guest may be paused, and say what was not so.

With a pause: everything is read once while the guest runs, to learn which pages that takes. Then the guest is paused
for as long as these pages take to copy, and everything is read again out of the copies. What leads to a page that was
not copied is read a third time, with those copied as well.

Without one, everything is read until two readings give the same rows, at most four times.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from drakmet.errors import GuestError
from drakmet.guest.kernel import Kernel
from drakmet.guest.linux import LinuxGuest
from drakmet.monitor.faults import Faults
from drakmet.monitor.processes import Processes
from drakmet.monitor.values import settle
from drakmet.records import Coverage, CoverageKind, Record
from drakmet.records import Process as ProcessRecord
from drakmet.scan.collectors import BUILT_IN, Collector
from drakmet.scan.memory import OutOfTime, ScanMemory
from drakmet.sources.pausing import Pause as PauseTold

if TYPE_CHECKING:
    from drakmet.monitor.plugin import Plugin
    from drakmet.sources.base import Source
    from drakmet.traps import Sink

PAUSE_LIMIT: Final = 0.2
"""Seconds for which a scan may pause a guest."""
_COPYING: Final = 0.15
_MOST_PASSES: Final = 4
_MOST_ROWS: Final = 1_000_000
_MOST_REASONS: Final = 5
_SCAN: Final = "scan"

Key = tuple[str, str]
"""Plugin and collector."""
Collecting = Callable[[Any], Iterable[Record]]
Pause = Callable[[], AbstractContextManager[object]]


class Scanned(msgspec.Struct):
    """How a scan went; times in nanoseconds. ``paused`` is None where there was nothing to pause, or not to be."""

    paused: int | None = None
    pages: int = 0
    passes: int = 0
    rows: dict[str, int] = {}
    gaps: list[str] = []
    faults: int = 0


class Reading:
    """One reading of everything; what collectors get (`drakmet.traps.Attached`), and what they gave."""

    def __init__(self, guest: LinuxGuest, session: int, first_process: int, now: int) -> None:
        self.guest = guest
        self.session = session
        self.time = now
        self.rows: dict[Key, list[Record]] = {}
        self.lost: dict[Key, Counter[str]] = {}
        self.failed: dict[Key, Exception] = {}
        self._key: Key = (_SCAN, "processes")
        self.processes: dict[int, ProcessRecord] = {}
        self._processes = Processes(guest, session, first_process, self._put_process, None)
        self._tasks: list[int] | None = None

    def _put_process(self, record: Record) -> None:
        assert isinstance(record, ProcessRecord)  # noqa: S101 - nothing else is put
        self.processes[record.id] = record

    def process(self, task: int) -> ProcessRecord | None:
        """Return the process record of the task at this address, making it if it is new."""
        known = self._processes.of(task, self.time)
        return None if known is None else known.record

    def argv(self, task: int) -> list[str] | None:
        """Return the arguments of the process at this address as guest text; None if they cannot be read."""
        try:
            found: list[str] = settle(self.guest.argv(self.guest.task_reader.mm(task)))
        except GuestError:
            return None
        return found

    def tasks(self) -> list[int]:
        """Return the addresses of all processes in the kernel's list, as far as it could be read."""
        if self._tasks is None:
            self._tasks = []
            try:
                self._tasks.extend(self.guest.tasks())
            except GuestError as error:
                self.lose(f"the list of tasks: {error.what}")
        return self._tasks

    def lose(self, reason: str) -> None:
        """Note that something could not be read; the coverage of this collector will say so."""
        reasons = self.lost.setdefault(self._key, Counter())
        reasons[reason if reason in reasons or len(reasons) < 1000 else "other reasons"] += 1

    def collect(self, key: Key, collector: Collecting) -> None:
        """Run one collector; whatever it raises is kept for the book."""
        self._key = key
        rows = self.rows.setdefault(key, [])
        try:
            for row in collector(self):
                if len(rows) >= _MOST_ROWS:
                    self.lose(f"more than {_MOST_ROWS} rows")
                    break
                rows.append(row)
        except OutOfTime:
            raise
        except GuestError as error:
            self.lose(error.what)
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; the scan goes on
            self.failed[key] = error

    def sums(self) -> dict[Key, Counter[Any]]:
        """Return the rows of each collector in a form that two readings can be compared by."""
        return {key: Counter(map(self._comparable, rows)) for key, rows in self.rows.items()}

    def _comparable(self, row: Record) -> Any:
        values = msgspec.structs.asdict(row)
        for name in ("time", *getattr(row, "volatile", ())):
            values.pop(name, None)
        number = values.pop("process", None)
        process = self.processes.get(number) if number is not None else None
        return row.table, process and (process.pid, process.start_time, process.exe), repr(values)


def scan(
    source: Source,
    plugins: Iterable[Plugin],
    sinks: Iterable[Sink],
    *,
    session: int = 1,
    next_process: int = 1,
    live: bool = False,
    seconds: float | None = 600.0,
    kernel: Kernel | None = None,
    more: Iterable[Collector] = (),
    note: Callable[[str], object] = lambda _: None,
) -> Scanned:
    """Read a guest and give its records to ``sinks``; `GuestError` if its memory shows no kernel that can be read.

    ``live`` never pauses it, ``more`` are collectors beside those of every scan. ``seconds`` bounds the whole; what was
    read until then is given out, and the coverage says where it ended.
    """
    found = kernel or source.kernel()
    memory = ScanMemory(source.memory, None if seconds is None else time.monotonic() + seconds)
    collectors: list[tuple[Key, Collecting]] = [((_SCAN, one.__name__), one) for one in (*BUILT_IN, *more)]
    for plugin in plugins:
        collectors += [((plugin.name, getattr(one, "__name__", "collector")), one) for one in plugin.collectors]
    run = _Run(memory, found, collectors, session, next_process)
    pause: Pause | None = None if live else getattr(source, "paused", None)
    if pause is not None:
        run.paused(pause, note)
    elif getattr(source, "moves", False):
        run.live(note)
    else:
        run.read()
    return run.give(list(sinks))


class _Run:
    def __init__(
        self,
        memory: ScanMemory,
        kernel: Kernel,
        collectors: list[tuple[Key, Collecting]],
        session: int,
        next_process: int,
    ) -> None:
        self._memory = memory
        self._kernel = Kernel(kernel.profile, memory, kernel.base, kernel.slide, kernel.levels)
        self._collectors = collectors
        self._session = session
        self._next = next_process
        self._begun = self._moment = time.time_ns()
        self._out_of_time = False
        self._reading: Reading | None = None
        self._doubts: dict[Key, str] = {}
        self._doubt: str | None = None
        self.result = Scanned()

    def read(self) -> Reading:
        """Read everything once."""
        self._memory.begin()
        self.result.passes += 1
        kernel = self._kernel
        fresh = Kernel(kernel.profile, self._memory, kernel.base, kernel.slide, kernel.levels)
        reading = self._reading = Reading(LinuxGuest(fresh), self._session, self._next, self._moment)
        try:
            for task in reading.tasks():
                reading.process(task)
            for key, collector in self._collectors:
                reading.collect(key, collector)
        except OutOfTime:
            self._out_of_time = True
        return reading

    def paused(self, pause: Pause, note: Callable[[str], object]) -> None:
        """Read what the guest's memory held at one moment."""
        memory = self._memory
        note("reading once, to learn which pages that takes")
        self.read()
        wanted = dict.fromkeys(memory.used)
        self.result.paused = 0
        while not self._out_of_time and self.result.passes < _MOST_PASSES:
            begun = time.monotonic_ns()
            with pause() as told:
                left_out = memory.copy(wanted, time.monotonic() + _COPYING)
                self._moment = time.time_ns()
            # The source knows better: to prepare a pause takes time in which the guest runs on.
            paused = told.nanoseconds if isinstance(told, PauseTold) else time.monotonic_ns() - begun
            self.result.paused = max(self.result.paused, paused)
            memory.settle()
            note(f"the guest was paused for {paused / 1e6:.1f} ms; reading {len(wanted) - left_out} pages")
            self.read()
            self._doubt = None
            if left_out:
                self._doubt = (
                    f"{left_out} of {len(wanted)} pages were read after the guest went on: to copy them would have "
                    "paused it for too long"
                )
                return
            fresh = memory.missed - wanted.keys()
            if not fresh:
                return
            self._doubt = f"{len(fresh)} pages were read after the guest went on"
            wanted.update(dict.fromkeys(sorted(fresh)))

    def live(self, note: Callable[[str], object]) -> None:
        """Read until two readings agree."""
        sums = self.read().sums()
        differing: dict[Key, int] = {}
        while not self._out_of_time and self.result.passes < _MOST_PASSES:
            again = self.read().sums()
            differing = {
                key: (rows - again.get(key, Counter())).total() + (again.get(key, Counter()) - rows).total()
                for key, rows in sums.items()
            }
            differing = {key: count for key, count in differing.items() if count}
            note(f"reading {self.result.passes}: {sum(differing.values())} rows differ from the reading before")
            if not differing:
                return
            sums = again
        for key, count in differing.items():
            self._doubts[key] = f"the table changed while it was read: {count} rows differ between the last readings"

    def give(self, sinks: list[Sink]) -> Scanned:
        """Hand out the last reading, and the book of what it does not show."""
        reading = self._reading
        assert reading is not None  # noqa: S101 - every way here has read
        puts = [sink.put for sink in sinks]

        def put(record: Record) -> None:
            for one in puts:
                one(record)

        result, now = self.result, time.time_ns()
        result.pages = len(self._memory.used)
        faults = Faults(self._session, put)
        for process in reading.processes.values():
            put(process)
        result.rows["process"] = len(reading.processes)
        for key, _ in self._collectors:
            rows = reading.rows.get(key)
            gaps = [] if rows is not None else ["the scan took longer than it may"]
            for row in rows or ():
                put(row)
                result.rows[row.table] = result.rows.get(row.table, 0) + 1
            if key in reading.failed:
                gaps.append(faults.report(*key, reading.failed[key], now))
                result.faults += 1
            gaps += self._told(reading, key)
            self._book(put, key, rows, gaps, now)
        return result

    def _told(self, reading: Reading, key: Key) -> list[str]:
        gaps = [self._doubts[key]] if key in self._doubts else []
        if self._doubt:
            gaps.append(self._doubt)
        # The list of tasks is read before all collectors, and all of them rest on it.
        lost = Counter(reading.lost.get(key, Counter()))
        if self._out_of_time and key in reading.rows and key == list(reading.rows)[-1]:
            gaps.append("the scan took longer than it may")
        for reason, count in lost.most_common(_MOST_REASONS):
            gaps.append(settle(f"{reason} ({count} times)" if count > 1 else reason))
        if len(lost) > _MOST_REASONS:
            gaps.append(f"and {len(lost) - _MOST_REASONS} reasons more")
        return gaps

    def _kind(self, key: Key, rows: list[Record] | None) -> CoverageKind:
        if rows is None:
            return CoverageKind.TIME_OUT
        assert self._reading is not None  # noqa: S101 - there are rows
        if key in self._reading.failed:
            return CoverageKind.PLUGIN_ERROR
        return CoverageKind.CHANGED if self._doubt or key in self._doubts else CoverageKind.UNREADABLE

    def _book(
        self, put: Callable[[Record], None], key: Key, rows: list[Record] | None, gaps: list[str], now: int
    ) -> None:
        tables = next(
            (list(one.tables) for name, one in self._collectors if name == key and hasattr(one, "tables")), []
        )
        tables = list(dict.fromkeys([*tables, *(row.table for row in rows or ())]))
        whole = Coverage(session=self._session, plugin=key[0], trap=key[1], tables=tables, begin=self._begun, end=now)
        if rows is not None and (rows or not gaps):
            put(whole)
        if gaps:
            reason = "; ".join(gaps)
            put(msgspec.structs.replace(whole, kind=self._kind(key, rows).value, gap=reason))
            self.result.gaps.append(f"{key[1]}: {reason}")
