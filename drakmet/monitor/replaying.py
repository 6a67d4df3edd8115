# SPDX-License-Identifier: GPL-2.0-or-later
"""Driving a recording: the same hits in the same order, with the guest's memory as it was at each."""

from __future__ import annotations

from collections import deque, namedtuple
from typing import TYPE_CHECKING, Any

from drakmet.errors import UsageError
from drakmet.monitor.pageevents import EXECUTE, RESOLVED, Executed

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet.monitor.armed import ArmedTrap, Place, Prepared
    from drakmet.monitor.dispatch import Hits
    from drakmet.monitor.pagecheck import Gap
    from drakmet.monitor.pageevents import PageEvents
    from drakmet.monitor.unnoticed import Change
    from drakmet.sources.recording import Moment
    from drakmet.sources.replay import ReplaySource

_TICK = 512
"""Moments between two ticks."""


class ReplayDriver:
    """Replays a recording through the same `Hits` as a live guest."""

    def __init__(self, source: ReplaySource) -> None:
        self._source = source
        self._moment: Moment | None = None
        self._time = source.head.begin
        self._places: dict[int, Place] = {}
        self._sites: set[int] = set()
        self._hits: Hits | None = None
        self._stopped = False
        self._pages: PageEvents | None = None
        self._waiting: deque[Any] = deque()
        self.batches = 0

    def now(self) -> int:
        """Return the recorded time."""
        return self._time

    def _next(self) -> Moment | None:
        moment = self._source.next()
        if moment is not None:
            self._time = moment.time
        return moment

    def learn(self, address: int) -> bool:
        """Take note of a place that calls return to."""
        self._sites.add(address)
        return True

    def attach(
        self, prepared: Prepared, hits: Hits, _note: Callable[..., None] | None, pages: PageEvents | None = None
    ) -> None:
        """Go to the moment of the attach."""
        self._pages = pages
        self._places = prepared.places
        self._hits = hits
        moment = self._next()
        if moment is None or moment.kind != "attach":
            raise UsageError("the recording does not say what the guest was when it was attached to")

    def pump(self) -> None:
        """Nothing waits: `run` has it all."""

    def run(
        self,
        _seconds: float | None,
        tick: Callable[[], bool],
        traps: list[ArmedTrap],
        turn: Callable[[ArmedTrap, bool], None],
    ) -> str:
        """Replay to the end, or until ``tick`` returns False."""
        hits = self._hits
        assert hits is not None  # noqa: S101  # attached before
        kind: Any = namedtuple("Registers", self._source.head.registers)  # type: ignore[misc]  # as recorded
        make = kind._make
        by_key = {"\0".join(trap.key): trap for trap in traps}
        while not self._stopped:
            moment = self._next()
            if moment is None:
                break
            if moment.kind == "hit":
                self._hit(hits, moment, make(moment.registers))
            elif moment.kind == EXECUTE:
                self._executed(moment, make(moment.registers))
            elif moment.kind == RESOLVED:
                self._resolved(hits)
            elif moment.kind in ("arm", "disarm") and moment.text in by_key:
                turn(by_key[moment.text], moment.kind == "arm")
            elif moment.kind == "end":
                break
            self.batches += 1
            if self.batches % _TICK == 0 and not tick():
                break
        return self._source.head.outcome or "done"

    def _hit(self, hits: Hits, moment: Moment, registers: object) -> None:
        place = self._places.get(moment.place)
        if place is not None and place.traps:
            hits.enter(place, registers, moment.time)
        if moment.place in self._sites:
            hits.leave(registers, moment.time)
        if hits.later:
            hits.finish()

    def _executed(self, moment: Moment, registers: Any) -> None:
        """A page was executed; what its handlers read comes with a later moment."""
        if self._pages is None:
            return
        try:
            executed = Executed.parse(moment.place, moment.text)
        except ValueError as error:
            raise UsageError("the recording is damaged: an execution that is none") from error
        self._waiting.extend(self._pages.jobs(executed, registers, moment.time))

    def _resolved(self, hits: Hits) -> None:
        if self._waiting:
            hits.later.append(self._waiting.popleft())
            hits.finish()

    def gaps(self, *, ending: bool = False) -> list[Gap]:  # noqa: ARG002  # as of a running domain
        """What was not seen when it was recorded is not in a recording."""
        return []

    def arm(self, trap: ArmedTrap) -> None:
        """Put a trap back."""
        trap.place.traps.append(trap)

    def disarm(self, trap: ArmedTrap) -> None:
        """Take a trap out."""
        if trap in trap.place.traps:
            trap.place.traps.remove(trap)

    def look(self) -> list[Change]:
        """What changes without an event is not in a recording."""
        return []

    def stop(self) -> None:
        """End `run`."""
        self._stopped = True

    def detach(self) -> list[tuple[str, Exception]]:
        """Nothing was changed."""
        return []
