# SPDX-License-Identifier: GPL-2.0-or-later
"""What may happen on our side while a guest is watched: plugins, the guardian, signals, the clock, the disk."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from drakmet.errors import StoreError
from drakmet.monitor.live import LiveDriver
from drakmet.monitor.outcomes import DONE, FREED, GUEST_GONE, NO_GUARDIAN
from drakmet.pyxen import Reason
from drakmet.records import PluginFault
from drakmet.traps import Hit, Trap
from monitor.fake import FakeDomain
from monitor.scene import FUNCTION, Opened, Way

if TYPE_CHECKING:
    from collections.abc import Callable


class Guardian:
    """A guardian's handle."""

    def __init__(self) -> None:
        self.alive, self.freed, self.beats = True, 0, 0

    def beat(self) -> None:
        self.beats += 1


class Domain(FakeDomain):
    """A domain with a hit each time it is waited for."""

    def __init__(self, way: Way) -> None:
        super().__init__(way.memory)
        self.guardian = Guardian()  # type: ignore[assignment]
        self.way = way
        self.waits = 0
        self.then: Callable[[int], object] = lambda _: None
        self.order: list[str] = []

    def channel(self, port: int) -> Any:
        channel = super().channel(port)

        def wait_for(_ring: Any, _seconds: float) -> bool:
            self.waits += 1
            self.then(self.waits)
            regs = {key: value for key, value in self.way.registers.items() if key != "vcpu_id"}
            gfn = self.way.guest.kernel.gpa(self.way.address) >> 12
            self.ask(Reason.SOFTWARE_BREAKPOINT, 0, **{**regs, "rip": self.way.address, "gfn": gfn})
            return True

        def hand_over() -> None:
            self.order.append("answered")
            channel.hand_over()

        return SimpleNamespace(**{**channel.__dict__, "wait_for": wait_for, "hand_over": hand_over})


class Watch:
    """A driver over such a domain, with one plugin."""

    def __init__(self, handler: Callable[[Hit], Any] | None = None) -> None:
        record = None if handler is not None else Opened
        self.way = Way(Trap(function=FUNCTION, fetch={"requested": "pathname->name"}, record=record, handler=handler))
        self.domain = Domain(self.way)
        self.driver = LiveDriver(self.domain, self.way.guest)  # type: ignore[arg-type]
        self.tick: Callable[[], bool] = lambda: True
        self.driver.attach(self.way.prepared, self.way.hits, None)

    @property
    def guardian(self) -> Any:
        return self.domain.guardian

    def run(self, seconds: float | None = 0.3) -> str:
        return self.driver.run(seconds, self.tick, self.way.prepared.traps, lambda *_: None)

    def leave(self) -> dict[str, Any]:
        """Detach; return what is left on the guest."""
        assert self.driver.detach() == []
        return self.domain.left()


def test_a_watch_gives_signs_of_life_and_ends_in_order() -> None:
    watch = Watch()
    # Long enough for two beats on a machine that others keep busy.
    assert watch.run(1.5) == DONE
    assert watch.guardian.beats >= 2
    assert watch.leave() == {}
    assert watch.domain.log[-1] == "released"


def test_without_its_guardian_a_watch_takes_itself_down_in_order() -> None:
    watch = Watch()
    watch.domain.then = lambda number: setattr(watch.guardian, "alive", number < 3)
    assert watch.run(None) == NO_GUARDIAN
    assert watch.leave() == {}


def test_a_guest_that_was_taken_from_us_is_not_touched_again() -> None:
    watch = Watch()
    watch.domain.then = lambda number: setattr(watch.guardian, "freed", int(number > 2))
    assert watch.run(None) == FREED
    log = len(watch.domain.log)
    assert watch.driver.detach() == []
    assert set(watch.domain.log[log:]) <= {
        "channel.close",
        "unmap",
        "monitor.close",
    }  # our own ends of it, nothing more
    assert "released" not in watch.domain.log


def test_a_guest_that_goes_ends_the_watch() -> None:
    watch = Watch()
    watch.domain.then = lambda number: setattr(watch.domain, "gone", number > 2)
    assert watch.run(None) == GUEST_GONE
    assert watch.driver.detach() == []
    assert watch.domain.log[-1] == "released"


@pytest.mark.parametrize(
    "error", [ValueError("no"), MemoryError(), RecursionError(), AssertionError(), OSError(28, "full")]
)
def test_a_plugin_that_raises_is_told_of_and_the_watch_goes_on(error: Exception) -> None:
    def handler(_hit: Hit) -> None:
        raise error

    watch = Watch(handler)
    assert watch.run() == DONE
    faults = watch.way.sink.of(PluginFault)
    assert faults
    assert type(error).__name__ in faults[0].error
    assert len(faults) <= 100
    assert watch.leave() == {}


def test_a_plugin_that_takes_all_memory_gets_an_error_and_the_watch_goes_on() -> None:
    def handler(_hit: Hit) -> None:
        bytearray(1 << 62)

    watch = Watch(handler)
    assert watch.run() == DONE
    assert "MemoryError" in watch.way.sink.of(PluginFault)[0].error
    assert watch.leave() == {}


def test_a_handler_slower_than_a_second_runs_when_the_guest_has_its_answer() -> None:
    def handler(_hit: Hit) -> None:
        watch.domain.order.append("handled")
        time.sleep(1.1)

    watch = Watch(handler)
    assert watch.run(0.2) == DONE
    assert watch.domain.order[:2] == ["answered", "handled"]
    assert watch.leave() == {}


def test_a_plugin_that_loops_for_ever_is_left_when_the_guest_was_freed() -> None:
    """The guardian stops this process, frees the guest and lets it go on: as SIGCONT shows."""

    looping = threading.Event()

    def handler(_hit: Hit) -> None:
        looping.set()
        while True:
            time.sleep(0.001)

    def free() -> None:
        # Not before it loops: what the guardian does earlier would end the watch before the plugin had its turn.
        looping.wait(30)
        watch.guardian.freed = time.time_ns()
        os.kill(os.getpid(), signal.SIGCONT)

    watch = Watch(handler)
    freeing = threading.Thread(target=free)
    freeing.start()
    assert watch.run(None) == FREED
    freeing.join()
    assert "FreedError" in watch.way.sink.of(PluginFault)[0].error


def test_being_stopped_and_let_go_before_the_guardian_acts_changes_nothing() -> None:
    watch = Watch()
    watch.domain.then = lambda number: os.kill(os.getpid(), signal.SIGCONT) if number == 2 else None
    assert watch.run() == DONE
    assert watch.leave() == {}


def test_a_signal_handler_of_ours_does_not_outlive_the_watch() -> None:
    before = signal.getsignal(signal.SIGCONT)
    Watch().run(0.1)
    assert signal.getsignal(signal.SIGCONT) is before


@pytest.mark.parametrize("jump", [-3600, 3600, -(1 << 31)])
def test_a_clock_that_jumps_neither_ends_nor_prolongs_a_watch(jump: int, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch()
    real = time.time_ns

    def jumping(number: int) -> None:
        if number == 3:
            monkeypatch.setattr(time, "time_ns", lambda: real() + jump * 10**9)

    watch.domain.then = jumping
    begun = time.monotonic()
    assert watch.run(0.3) == DONE
    assert 0.2 < time.monotonic() - begun < 5
    assert watch.leave() == {}


def test_a_disk_that_fills_up_ends_the_watch_with_its_error_and_leaves_the_guest() -> None:
    watch = Watch()

    def tick() -> bool:
        raise StoreError("the disk is full")

    watch.tick = tick
    with pytest.raises(StoreError):
        watch.run(None)
    assert watch.leave() == {}
