# SPDX-License-Identifier: GPL-2.0-or-later
"""A monitor that is killed at any of its calls, with or without effect of that call: the guest is always got back."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from pyxen.test_session import DOMAIN, Xen, untouched
from pyxen.test_session import xen as xen  # noqa: PLC0414  # the fixture is used by its name

from drakmet.errors import XenError
from drakmet.pyxen import Control, Session, recover, recovery
from drakmet.pyxen.control import DomainInfo
from drakmet.pyxen.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


CALLS = 55
"""In a life (`live`)."""


class Killed(BaseException):
    """The process is no more: nothing that it would do when it unwinds is done."""


class Death:
    """Ends the process at the call of this number, before it or when it was done; calls after it do nothing."""

    def __init__(self, machine: Xen, ledger: Ledger, at: int, *, after: bool) -> None:
        self.xen, self.ledger, self.at, self.after = machine, ledger, at, after
        self.count, self.dead = 0, False
        self.page = b""
        """The ledger at that instant: what Python's ``finally`` writes here a killed process does not."""

    def __call__(self, name: str) -> Callable[..., Any]:
        real = Xen.__getattr__(self.xen, name)

        def call(*args: Any) -> Any:
            if self.dead:
                raise Killed
            self.count += 1
            if self.count != self.at:
                return real(*args)
            if self.after:
                real(*args)
            self.dead, self.page = True, bytes(self.ledger._view)
            raise Killed

        return call


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    made = Ledger()
    yield made
    made.close()


def live(ledger: Ledger) -> None:
    """A monitor's life: attach, frames, a view, an event, detach."""
    with Control() as control:
        ledger.name(DOMAIN, control.domain(DOMAIN).handle)
        control.ledger = ledger
        ledger.armed = True
        with Session(control, DOMAIN) as session:
            session.altp2m.create_view()
            session.frames.add(3)
            with control.paused(DOMAIN):
                session.altp2m.switch(1)
        ledger.armed = False


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(1, CALLS + 1))
def test_a_death_at_any_call_is_made_good(
    xen: Xen,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
    after: bool,
) -> None:
    death = Death(xen, ledger, at, after=after)
    monkeypatch.setattr(DomainInfo, "paused", property(lambda _: xen.pauses > 0), raising=False)
    for name in [name[1:] for name in dir(Xen) if name.startswith(("_xc_", "_xs_", "_xenev", "_xenfo"))] + ["xs_open"]:
        monkeypatch.setattr(xen, name, death(name), raising=False)
    with contextlib.suppress(Killed):
        live(ledger)
    assert death.dead, "a life has fewer calls now"
    for name in [name for name in vars(xen) if name.startswith(("xc_", "xs_", "xenev", "xenfo"))]:
        monkeypatch.delattr(xen, name)
    ledger._view[:] = death.page
    if not ledger.armed:
        return untouched(xen)
    with Control() as control:
        recover(control, DOMAIN, pauses=ledger.pauses, pausing=ledger.pausing)
    untouched(xen)
    assert xen.memory == 1 << 20
    return None


def test_no_call_is_left_out(xen: Xen, ledger: Ledger) -> None:
    live(ledger)
    assert len([name for name in xen.calls if hasattr(Xen, "_" + name) or name == "xs_open"]) <= CALLS


def test_a_guest_that_somebody_listens_to_is_not_taken(
    xen: Xen,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recovery, "listened", lambda *_: True)
    with Control() as control:
        with pytest.raises(XenError, match="a monitor that lives"):
            recover(control, DOMAIN)
        recover(control, DOMAIN, from_the_living=True)
    untouched(xen)
