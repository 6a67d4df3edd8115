# SPDX-License-Identifier: GPL-2.0-or-later
"""What a watch needs of whatever moves it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet.monitor.armed import ArmedTrap, Prepared
    from drakmet.monitor.dispatch import Hits
    from drakmet.monitor.pagecheck import Gap
    from drakmet.monitor.pageevents import PageEvents
    from drakmet.monitor.unnoticed import Change


class Driver(Protocol):
    """What moves a watch: a running domain, or a recording."""

    batches: int

    def now(self) -> int:
        """Return the time that rows carry, in nanoseconds since 1970."""

    def learn(self, address: int) -> bool:
        """Arm a place that calls return to."""

    def attach(
        self, prepared: Prepared, hits: Hits, note: Callable[..., None] | None, pages: PageEvents | None = None
    ) -> None:
        """Arm everything; ``pages`` are told of every page that is executed."""

    def pump(self) -> None:
        """Handle what waits already."""

    def run(
        self,
        seconds: float | None,
        tick: Callable[[], bool],
        traps: list[ArmedTrap],
        turn: Callable[[ArmedTrap, bool], None],
    ) -> str:
        """Handle hits; return how the watch ended."""

    def arm(self, trap: ArmedTrap) -> None:
        """Put a trap back."""

    def disarm(self, trap: ArmedTrap) -> None:
        """Take a trap out."""

    def look(self) -> list[Change]:
        """Put right what changed in the guest without an event; return what that was."""

    def gaps(self, *, ending: bool = False) -> list[Gap]:
        """Return what execute traps did not see since this was asked before."""

    def stop(self) -> None:
        """End `run` soon."""

    def detach(self) -> list[tuple[str, Exception]]:
        """Take everything back; return what failed."""
