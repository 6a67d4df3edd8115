# SPDX-License-Identifier: GPL-2.0-or-later
"""What a hit becomes: read what may change, later run the handlers, hand the records out.

`Hits.enter` and `Hits.leave` run while the vCPU waits and only read; `Hits.finish` runs when it was let go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from drakmet.errors import XenError
from drakmet.guest.memory import Unreadable
from drakmet.monitor.values import settle
from drakmet.records import Record
from drakmet.text import escape

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet.monitor.armed import ArmedTrap, Place
    from drakmet.monitor.faults import Faults
    from drakmet.monitor.processes import Known, Processes
    from drakmet.monitor.returns import Returns

    Job = tuple[ArmedTrap, tuple[Any, ...], Known | None, int, int]

_UNRETURNED: Final = Unreadable("the call had not returned when the watch ended")
_COLUMN_TYPES: Final = frozenset((int, str, bool, float, list, type(None)))


class Hits:
    """The way of every hit, live or replayed. Registers are any object with the attributes the fetchers want."""

    def __init__(
        self, processes: Processes, returns: Returns, faults: Faults, session: int, put: Callable[[Record], object]
    ) -> None:
        self._current = processes.current
        self._returns = returns
        self._faults = faults
        self._session = session
        self._put = put
        self.later: list[Job] = []
        self.records = 0
        self._ending = False
        self.mixed = False
        """Whether executions are among what is to be finished."""

    def enter(self, place: Place, registers: Any, time: int) -> None:
        """A trapped function is entered: read what its traps want."""
        known = self._current(registers, time)
        if known is not None and not known.wanted:
            place.filtered += 1
            self._returns.forget(registers.rsp)
            return
        waiting = None
        for trap in place.traps:
            trap.hits += 1
            values = trap.fetch(registers)
            if trap.back is None:
                self.later.append((trap, values, known, registers.vcpu_id, time))
            elif waiting is None:
                waiting = [(trap, values)]
            else:
                waiting.append((trap, values))
        if waiting is not None:
            self._returns.enter(registers, waiting, known)

    def leave(self, registers: Any, time: int) -> None:
        """A place that trapped functions return to is reached."""
        call = self._returns.leave(registers)
        if call is None:
            return
        waiting, entry, known = call
        for trap, values in waiting:
            assert trap.back is not None  # noqa: S101  # only such traps wait for a return
            source = entry_with_result(entry, registers) if trap.back_needs_entry else registers
            self.later.append((trap, values + trap.back(source), known, registers.vcpu_id, time))

    def abandon(self, time: int) -> None:
        """The watch ends: tell of the calls that have not returned, their results unreadable."""
        self.finish()
        for waiting, entry, known in self._returns.abandon():
            for trap, values in waiting:
                rest = (_UNRETURNED,) * (len(trap.names) - len(values))
                self.later.append((trap, values + rest, known, entry.vcpu_id, time))
        # That a call outlasts the watch is no fault of the reading.
        self._ending = True
        self.finish()

    def finish(self) -> None:
        """Make records of all that was read."""
        later, self.later = self.later, []
        if self.mixed:
            # Behind the hits, as in a replay: what handlers of executions read comes later in a recording than those.
            self.mixed = False
            later.sort(key=lambda job: job[0].last)
        for job in later:
            trap = job[0]
            try:
                if trap.handler is None:
                    self._put(self._record(*job))
                    trap.records += 1
                    self.records += 1
                else:
                    self._handle(*job)
            except Exception as error:  # a plugin may raise anything; the watch goes on
                trap.errors += 1
                trap.last_error = self._faults.report(*trap.key, error, job[4])
                if isinstance(error, XenError):
                    # Not the plugin's: the guest was taken from us meanwhile, and no handler may go on with it.
                    raise

    def _record(self, trap: ArmedTrap, values: tuple[Any, ...], known: Known | None, vcpu: int, time: int) -> Record:
        """Return the record of a trap without a handler."""
        columns: dict[str, Any] = {}
        missing = None
        for name, value in zip(trap.names, values, strict=True):
            kind = value.__class__
            if kind is str:
                value = escape(value)
            elif kind is Unreadable:
                missing = name if missing is None else f"{missing},{name}"
                value = None
            elif kind is not int:
                value = settle(value)
                if value.__class__ not in _COLUMN_TYPES:
                    value = str(value)
            columns[name] = value
        assert trap.record is not None  # noqa: S101  # `prepare` refuses a trap with neither
        trap.unread += missing is not None and not self._ending
        return trap.record(
            session=self._session,
            time=time,
            vcpu=vcpu,
            process=None if known is None else known.record.id,
            unreadable=missing,
            **columns,
        )

    def _handle(self, trap: ArmedTrap, values: tuple[Any, ...], known: Known | None, vcpu: int, time: int) -> None:
        """Run a trap's handler and hand out what it returns."""
        settled: dict[str, Any] = {}
        missing: tuple[str, ...] = ()
        for name, value in zip(trap.names, values, strict=True):
            kind = value.__class__
            if kind is str:
                value = escape(value)
            elif kind is Unreadable:
                missing += (name,)
                value = None
            elif kind is not int:
                value = settle(value)
            settled[name] = value
        assert trap.handler is not None  # noqa: S101  # the caller looked
        process = None if known is None else known.record
        found = trap.handler(trap.event(self._session, time, vcpu, process, settled, missing))
        if found is None:
            return
        for record in (found,) if isinstance(found, Record) else found:
            if not isinstance(record, Record):
                raise TypeError(f"the handler returned a {type(record).__name__} where a record was expected")
            self._put(record)
            trap.records += 1
            self.records += 1
            if missing and not self._ending and getattr(record, "unreadable", None):
                trap.unread += 1


def entry_with_result(entry: Any, now: Any) -> Any:
    """Return the entry's registers with the result and the CPU's base of the return."""
    return entry._replace(rax=now.rax, gs_base=now.gs_base)
