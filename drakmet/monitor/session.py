# SPDX-License-Identifier: GPL-2.0-or-later
"""A watch from beginning to end: prepare, attach, run, detach, in this order and with nothing left behind."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any, Final

from drakmet.errors import DrakmetError, GuestError, UsageError
from drakmet.guest.linux import LinuxGuest
from drakmet.monitor import armed, identity
from drakmet.monitor.clock import HostClock
from drakmet.monitor.coverage import CoverageBook
from drakmet.monitor.dispatch import Hits
from drakmet.monitor.faults import Faults
from drakmet.monitor.filters import Filters
from drakmet.monitor.live import LiveDriver
from drakmet.monitor.origins import Origins
from drakmet.monitor.outcomes import CUT_SHORT, DONE
from drakmet.monitor.pageevents import ArmedExecute, PageEvents, noting
from drakmet.monitor.processes import Processes
from drakmet.monitor.recorder import WatchRecorder
from drakmet.monitor.replaying import ReplayDriver
from drakmet.monitor.returns import Returns
from drakmet.monitor.statistics import Statistics, TrapStatistics
from drakmet.monitor.unnoticed import Unnoticed
from drakmet.monitor.unprofiled import Nobody, refuse_all
from drakmet.monitor.values import settle
from drakmet.records import CoverageKind
from drakmet.sources.replay import ReplaySource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from drakmet.executions import ExecuteTrap
    from drakmet.guest.kernel import Kernel
    from drakmet.monitor.armed import ArmedTrap, Prepared
    from drakmet.monitor.driver import Driver
    from drakmet.monitor.plugin import Plugin
    from drakmet.records import Process, Record
    from drakmet.sources.base import Source
    from drakmet.traps import Sink


_LOOK: Final = 5
"""Ticks between two looks at whether the guest's code is what and where it was."""


class Monitor:
    """Watches one guest.

    ``source`` stays the caller's to close. `prepare` finds the kernel and compiles the traps while the guest runs and
    is called by `attach` if need be; call it before to know ``kernel`` and ``prepared`` first. After `attach`, `run`
    handles hits until it is told to end; `detach` takes everything back and may be called twice. As a context manager
    it detaches at the end, whatever happens.

    ``record`` writes a recording of the watch to this file. Unless not ``guarded``, a process of its own frees the
    guest should this one die, and the watch ends if that process does.
    """

    def __init__(
        self,
        source: Source,
        plugins: Iterable[Plugin],
        sinks: Iterable[Sink],
        *,
        filters: Filters | None = None,
        record: Path | None = None,
        guarded: bool = True,
    ) -> None:
        self.source = source
        self._guarded = guarded
        self.plugins = list(plugins)
        self._execute_traps: list[tuple[str, ExecuteTrap]] = [
            (plugin.name, trap) for plugin in self.plugins for trap in getattr(plugin, "execute_traps", ())
        ]
        self._sinks = list(sinks)
        for plugin in self.plugins:
            self._sinks.extend(plugin.sinks)
        self._filters = filters or Filters()
        self._record_to = record
        self._recorder: WatchRecorder | None = None
        self.kernel: Kernel | None = None
        self.guest: LinuxGuest | None = None
        self.prepared: armed.Prepared | None = None
        self.outcome: str | None = None
        self.session = 0
        self.time = 0
        self._driver: Driver | None = None
        self._hits: Hits | None = None
        self._book: CoverageBook | None = None
        self._unnoticed: Unnoticed | None = None
        self._faults: Faults | None = None
        self._processes: Processes | None = None
        self._returns: Returns | None = None
        self._traps: list[ArmedTrap] = []
        self._records = 0
        self._put: Callable[[Record], object] = lambda _: None
        self._resting: set[ArmedTrap] = set()
        self._unknown: str | None = None
        """Why the guest's kernel is not known."""
        if isinstance(source, ReplaySource) and record is not None:
            raise UsageError("a recording cannot be recorded again", where=source.uri)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    # in order

    def prepare(self) -> armed.Prepared:
        """Find the guest's kernel and compile every trap for it; the guest runs on."""
        if self.prepared is not None:
            return self.prepared
        known = None
        check_traps = getattr(self.source, "check_traps", None)
        if check_traps is not None:
            check_traps()
        guard = getattr(self.source, "guard", None)  # none is needed where nobody waits, as in a recording
        if self._guarded and guard is not None:
            guard()  # it starts while the kernel is looked for
        if isinstance(self.source, ReplaySource):
            known = self.source.head.places
            self.kernel = self.source.kernel()
            driver: Driver = ReplayDriver(self.source)
        elif self._record_to is not None:
            self._recorder = WatchRecorder(self._record_to, self.source)
            self.kernel = self.source.kernel(self._recorder.memory)
        else:
            self.kernel = self._find_kernel()
        guest = self.guest = LinuxGuest(self.kernel) if self.kernel is not None else None
        if not isinstance(self.source, ReplaySource):
            driver = LiveDriver(self.source, guest)  # type: ignore[arg-type]  # the only live source is a domain
        self._driver = driver
        if guest is None:
            prepared = refuse_all(self.plugins, self._unknown or "")
        else:
            prepared = armed.prepare(guest, self.plugins, known)
        self._prepare_executes(prepared)
        self.prepared = prepared
        self._traps = [*prepared.traps, *prepared.executes]
        if self._recorder is not None and self.kernel is not None:
            self._recorder.begin(self.kernel, prepared, driver.now())
        return prepared

    def _find_kernel(self) -> Kernel | None:
        """Return the guest's kernel; None if it is not known and only pages are to be watched without it."""
        try:
            return self.source.kernel()
        except GuestError as error:
            if not self._execute_traps:
                raise
            self._unknown = error.what
            return None

    def _prepare_executes(self, prepared: armed.Prepared) -> None:
        recorded = not isinstance(self.source, ReplaySource) or self.source.head.executes
        for plugin, trap in self._execute_traps:
            if recorded:
                prepared.executes.append(ArmedExecute(plugin, trap))
            else:
                prepared.refused.append(armed.Refused(plugin, trap, "the recording has no executed pages"))

    def attach(self, session: int = 1, next_process: int = 1) -> None:
        """Arm every trap, then run the collectors; rows carry ``session``, process rows count from ``next_process``."""
        prepared = self.prepare()
        driver, guest = self._driver, self.guest
        assert driver is not None  # noqa: S101  # made by `prepare`
        self.session = session
        put = self._put = self._fan_out()
        self._faults = Faults(session, put)
        self._book = CoverageBook(session, put)
        wants: Callable[[Process], bool] | None = self._filters.wants if self._filters else None
        if guest is not None:
            processes = self._processes = Processes(guest, session, next_process, put, wants)
            returns = self._returns = Returns(guest, driver.learn)
            hits = self._hits = Hits(processes, returns, self._faults, session, put)
        else:
            nobody: Any = Nobody()
            hits = self._hits = Hits(nobody, nobody, self._faults, session, put)
        note = self._recorder.hit if self._recorder is not None else None
        try:
            driver.attach(prepared, hits, note, self._pages(prepared, hits, driver, note))
            self._begin(prepared, driver)
        except BaseException:
            self.detach()
            raise

    def _pages(
        self, prepared: armed.Prepared, hits: Hits, driver: Driver, note: Callable[..., None] | None
    ) -> PageEvents | None:
        """Return what is told of executed pages, if anybody wants to know."""
        if not prepared.executes:
            return None
        origins = None
        if self.guest is not None:
            with contextlib.suppress(GuestError):  # of a kernel without these types pages are told without their origin
                origins = Origins(self.guest)
        if note is not None:
            for trap in prepared.executes:
                noting(trap, note, driver.now)
        return PageEvents(prepared.executes, hits, self._processes, self.guest, origins)

    def _begin(self, prepared: Prepared, driver: Driver) -> None:
        """Open the coverage and run the collectors; the traps are armed already, so nothing is missed in between."""
        book = self._book
        assert book is not None  # noqa: S101  # made by `attach`
        self.time = driver.now()
        for trap in self._traps:
            book.armed(trap.key, trap.tables, self.time)
        for refused in prepared.refused:
            book.gap(refused.key, refused.trap.tables, self.time, CoverageKind.NOT_ARMED, refused.reason)
        refusal = self._unknown if self._processes is None else self._processes.identity.refused
        if refusal:
            book.gap(identity.KEY, identity.TABLES, self.time, CoverageKind.NOT_ARMED, refusal)
        else:
            book.armed(identity.KEY, identity.TABLES, self.time)
        self._unnoticed = Unnoticed(book, self._traps, self.time)
        for plugin in self.plugins:
            for collector in plugin.collectors:
                if self.guest is None:
                    name = getattr(collector, "__name__", "collector")
                    book.gap((plugin.name, name), (), self.time, CoverageKind.NOT_ARMED, self._unknown or "")
                else:
                    self._collect(plugin.name, collector)
        if self._recorder is not None:
            self._recorder.note("attach", self.time)

    def _collect(self, plugin: str, collector: Callable[[Any], Iterable[Record]]) -> None:
        name = getattr(collector, "__name__", "collector")
        assert self._book is not None  # noqa: S101  # made by `attach`
        assert self._faults is not None  # noqa: S101  # made by `attach`
        assert self._driver is not None  # noqa: S101  # made by `prepare`
        pump = self._driver.pump
        try:
            for record in collector(self):
                self._put(record)
                self._records += 1
                if self._recorder is None:  # a replay has the hits after all that collectors read
                    pump()
        except Exception as error:  # noqa: BLE001  # a plugin may raise anything; the watch goes on
            text = self._faults.report(plugin, name, error, self.time)
            self._book.gap((plugin, name), (), self.time, CoverageKind.PLUGIN_ERROR, text)

    def run(self, seconds: float | None = None, on_tick: Callable[[Statistics], object] | None = None) -> str:
        """Handle hits; return ``done``, ``guest gone``, or why the watch could not go on.

        It ends after ``seconds``, at SIGINT or SIGTERM, after `stop`, or when ``on_tick``, which is called five times
        a second, returns False. Without a main thread of its own it sees no signals.
        """
        driver, hits = self._driver, self._hits
        assert driver is not None  # noqa: S101  # attached before
        assert hits is not None  # noqa: S101  # attached before

        ticks = itertools.count(1)
        clock = HostClock() if isinstance(driver, LiveDriver) else None

        def tick() -> bool:
            if clock is not None and self._book is not None and (jump := clock.look()):
                self._book.clock_set(*jump)
            if next(ticks) % _LOOK == 0:
                self._look(driver)
            self._tell_of_pauses(driver)
            self.flush()
            return on_tick is None or on_tick(self.statistics) is not False

        try:
            self.outcome = driver.run(seconds, tick, list(self._traps), self._turn)
        except BaseException as error:
            self.outcome = error.what if isinstance(error, DrakmetError) else type(error).__name__
            raise
        return self.outcome

    def _tell_of_pauses(self, driver: Driver) -> None:
        engine = getattr(driver, "engine", None)
        if engine is not None and self._book is not None and engine.pauses:
            self._book.paused(engine.pauses)
            engine.pauses.clear()

    def _look(self, driver: Driver) -> None:
        if self._unnoticed is not None:
            self._unnoticed.tell(driver.look(), driver.now())
        self._tell_of_pages(driver)

    def _tell_of_pages(self, driver: Driver, *, ending: bool = False) -> None:
        """Put into the coverage what execute traps did not see."""
        if self._book is None or self.prepared is None:
            return
        for gap in driver.gaps(ending=ending):
            for trap in self.prepared.executes:
                self._book.partly(trap.key, trap.tables, (gap.begin, gap.end), gap.kind, gap.reason, gap.missed)

    def stop(self) -> None:
        """End `run` at the next tick; safe in any thread and in a signal handler."""
        if self._driver is not None:
            self._driver.stop()

    def detach(self) -> None:
        """Take everything back, end the coverage, hand out what is left; raises what could not be taken back."""
        driver, self._driver = self._driver, None
        if driver is None:
            return
        if self.outcome == DONE:  # else the guest may be gone, or another's
            with contextlib.suppress(DrakmetError):
                self._look(driver)
        failed = driver.detach()
        paused = getattr(driver, "engine", None)
        now = driver.now()
        try:
            if self._hits is not None:
                self._hits.abandon(now)
            if self._book is not None:
                self._tell_of_pauses(driver)
                self._tell_of_the_end(driver, now)
                self._book.close_all(now)
            self._frozen = self._count(driver)
            self.flush()
        finally:
            if self._recorder is not None:
                self._recorder.end(
                    now, self.outcome, getattr(paused, "paused_attach", None), getattr(paused, "paused_detach", None)
                )
        if failed:
            name, error = failed[0]
            raise DrakmetError(
                f"the guest could not be left as it was ({name}): {error}", where=self.source.uri
            ) from error

    def _tell_of_the_end(self, driver: Driver, now: int) -> None:
        """Put into the coverage what traps did not see though they were armed, and that a watch was cut short."""
        assert self._book is not None  # noqa: S101  # its caller looked
        self._tell_of_pages(driver, ending=True)
        for trap in self._traps:
            for kind, reason, missed in trap.shortfalls(self._filters.told()):
                self._book.partly(trap.key, trap.tables, (self.time, now), kind, reason, missed)
        if self._unnoticed is not None:
            self._unnoticed.tell_of_the_ring(self._count(driver).events, now)
        check = self._processes.identity if self._processes else None
        for missed, reason in (
            ((check.unchecked, "could not be read"), (check.untold, "were too many")) if check else ()
        ):
            if missed:
                told = (identity.KEY, identity.TABLES, (self.time, now), CoverageKind.UNREADABLE)
                self._book.partly(*told, f"who ran at some hits: the kernel's books {reason}", missed)
        if self.outcome is not None and self.outcome in CUT_SHORT:
            for trap in self._traps:
                self._book.gap(trap.key, trap.tables, now, CoverageKind.MONITOR_AWAY, self.outcome)

    # for collectors (`drakmet.traps.Attached`)

    def process(self, task: int) -> Process | None:
        """Return the process record of the task at this address, making and storing it if it is new."""
        assert self._processes is not None  # noqa: S101  # collectors run when attached
        known = self._processes.of(task, self.time)
        return None if known is None else known.record

    def argv(self, task: int) -> list[str] | None:
        """Return the arguments of the process at this address as guest text; None if they cannot be read."""
        assert self.guest is not None  # noqa: S101  # collectors run when attached
        try:
            found: list[str] = settle(self.guest.argv(self.guest.task_reader.mm(task)))
        except GuestError:
            return None
        return found

    # inside

    def _fan_out(self) -> Callable[[Record], object]:
        puts = [sink.put for sink in self._sinks]
        if len(puts) == 1:
            return puts[0]

        def put(record: Record) -> None:
            for one in puts:
                one(record)

        return put

    def flush(self) -> None:
        """Have the sinks pass on what they took."""
        for sink in self._sinks:
            sink.flush()

    def _turn(self, trap: ArmedTrap, on: bool) -> None:
        """Take out a trap that fires too often, or put it back."""
        driver, book = self._driver, self._book
        assert driver is not None  # noqa: S101  # called while running
        assert book is not None  # noqa: S101  # called while running
        now = driver.now()
        if self._recorder is not None:
            self._recorder.note("arm" if on else "disarm", now, text="\0".join(trap.key))
        if on:
            self._resting.discard(trap)
            driver.arm(trap)
            book.armed(trap.key, trap.tables, now)
        else:
            self._resting.add(trap)
            driver.disarm(trap)
            if self._returns is not None:
                self._returns.drop(trap)
            book.gap(trap.key, trap.tables, now, CoverageKind.THROTTLED, f"more than {trap.limit} hits a second")

    @property
    def statistics(self) -> Statistics:
        """What was counted up to now."""
        return self._count(self._driver) if self._driver is not None else self._frozen

    _frozen = Statistics()

    def _count(self, driver: Driver) -> Statistics:
        rows = [
            TrapStatistics(
                plugin=trap.key[0],
                trap=trap.key[1],
                function=trap.place.function,
                state="resting" if trap in self._resting else "armed",
                hits=trap.hits,
                records=trap.records,
                errors=trap.errors,
                last_error=trap.last_error,
            )
            for trap in self._traps
        ]
        refused = self.prepared.refused if self.prepared else []
        rows += [TrapStatistics(plugin=one.plugin, trap=one.trap.label, state=one.reason) for one in refused]
        engine = getattr(driver, "engine", None)
        return Statistics(
            traps=rows,
            events=dict(engine.events) if engine else {},
            batches=driver.batches,
            records=(self._hits.records if self._hits else 0) + self._records,
            processes=self._processes.count if self._processes else 0,
            gaps=self._book.gaps if self._book else 0,
            shadow_frames=engine.shadow_frames if engine else 0,
            paused_attach=engine.paused_attach if engine else None,
            paused_detach=engine.paused_detach if engine else None,
        )
