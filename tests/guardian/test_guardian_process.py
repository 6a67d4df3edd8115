# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guardian knows and decides; that it frees a guest is shown on a real Xen in tests/lab."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from drakmet.errors import XenError
from drakmet.guardian import __main__ as process
from drakmet.guardian import handle, line
from drakmet.guardian.handle import Guardian
from drakmet.guardian.stuck import Stillness
from drakmet.pyxen import claim as claims
from drakmet.pyxen.claim import Claim, ClaimedError
from drakmet.pyxen.failures import XenCallError
from drakmet.pyxen.ledger import NOBODY, Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GUEST = uuid.UUID("737d9479-9999-4b1b-acdd-191378c27eab")
DOMAIN = 5


class Xen:
    """One domain as a guardian sees it."""

    def __init__(self) -> None:
        self.handle = GUEST
        self.paused = self.blocked = self.running = self.gone = False
        self.cpu_time = 1000

    def domain(self, domid: int) -> Any:
        if self.gone:
            raise XenCallError("xc_domain_getinfolist", 3, domain=domid)
        return SimpleNamespace(handle=self.handle, paused=self.paused, vcpus=1, dying=False, shutdown=False)

    def vcpu_info(self, domid: int, vcpu: int) -> Any:
        return SimpleNamespace(online=True, blocked=self.blocked, running=self.running, cpu_time=self.cpu_time)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    made = Ledger()
    made.name(DOMAIN, GUEST)
    yield made
    made.close()


def test_both_ends_of_a_ledger_see_the_same(ledger: Ledger) -> None:
    other = Ledger(os.dup(ledger.fd))
    ledger.armed, ledger.pauses, ledger.pausing = True, 2, True
    ledger.beat()
    assert (other.domid, other.guest, other.armed, other.pauses, other.pausing, other.beats) == (
        DOMAIN, GUEST, True, 2, True, 1,
    )  # fmt: skip
    other.freed = 7
    assert ledger.freed == 7
    other.close()
    other.close()


def test_a_new_ledger_is_about_nobody() -> None:
    ledger = Ledger()
    assert (ledger.domid, ledger.armed, ledger.freed) == (NOBODY, False, 0)
    ledger.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(claims, "FOLDER", tmp_path / "locks")
    return tmp_path / "locks"


def test_a_guest_has_one_drakmet_at_a_time(folder: Path) -> None:
    with Claim(DOMAIN), pytest.raises(ClaimedError, match=rf"process {os.getpid()}"):
        Claim(DOMAIN, 0)
    Claim(DOMAIN, 0).close()
    assert folder.stat().st_mode & 0o077 == 0


def test_a_claim_ends_with_the_last_process_that_has_it(folder: Path) -> None:
    mine = Claim(DOMAIN)
    keeper = subprocess.Popen(["sleep", "60"], pass_fds=[mine.fd])
    mine.close()
    with pytest.raises(ClaimedError):
        Claim(DOMAIN, 0)
    keeper.kill()
    keeper.wait()
    Claim(DOMAIN, 1).close()


def still(xen: Xen, ledger: Ledger) -> Stillness:
    watch = Stillness(xen, ledger, 5.0)  # type: ignore[arg-type]
    watch.look(100.0)
    return watch


def test_a_monitor_that_gives_signs_of_life_keeps_the_guest_for_ever(ledger: Ledger) -> None:
    watch = still(Xen(), ledger)
    for second in range(101, 160):
        ledger.beat()
        assert not watch.look(float(second))


def test_a_silent_monitor_loses_a_guest_that_waits_after_five_seconds(ledger: Ledger) -> None:
    watch = still(Xen(), ledger)
    assert [second for second in range(101, 108) if watch.look(float(second))] == [105, 106, 107]


@pytest.mark.parametrize("state", ["blocked", "running"])
def test_a_silent_monitor_keeps_a_guest_that_does_not_wait(ledger: Ledger, state: str) -> None:
    xen = Xen()
    setattr(xen, state, True)
    watch = still(xen, ledger)
    assert not any(watch.look(float(second)) for second in range(101, 200))


def test_a_guest_whose_time_goes_on_does_not_wait(ledger: Ledger) -> None:
    xen = Xen()
    watch = still(xen, ledger)
    for second in range(101, 130):
        xen.cpu_time += 1
        assert not watch.look(float(second))


def test_a_guest_that_a_person_paused_does_not_wait_for_the_monitor_but_one_it_paused_does(ledger: Ledger) -> None:
    xen = Xen()
    xen.paused = True
    watch = still(xen, ledger)
    assert not any(watch.look(float(second)) for second in range(101, 130))
    ledger.pauses = 1
    assert watch.look(130.0)


def test_a_guardian_that_was_stopped_itself_begins_to_count_anew(ledger: Ledger) -> None:
    watch = still(Xen(), ledger)
    assert not watch.look(170.0)
    assert not watch.look(171.0)


def test_a_guest_that_is_gone_is_nobody_to_free(ledger: Ledger) -> None:
    xen = Xen()
    watch = still(xen, ledger)
    xen.gone = True
    assert not any(watch.look(float(second)) for second in range(101, 130))


class Scene:
    """A guard in this process, over a monitor that is a child, with what it did to Xen."""

    def __init__(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        self.xen, self.ledger = Xen(), ledger
        self.recovered: list[dict[str, Any]] = []
        self.failures = 0
        monkeypatch.setattr(process, "Control", lambda: self.xen)
        monkeypatch.setattr(process, "recover", self.recover)
        monkeypatch.setattr(process, "log", lambda text: None)
        monkeypatch.setattr(process, "_LOOK", 0.01)
        self.child = subprocess.Popen(["sleep", "60"])
        self.pidfd = os.pidfd_open(self.child.pid)
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.guard = process.Guard(ledger, theirs, self.pidfd)

    def recover(self, _control: Any, domid: int, **how: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise XenError("not now")
        self.recovered.append({"domid": domid, "armed": self.ledger.armed, **how})

    def close(self) -> None:
        self.child.kill()
        self.child.wait()
        self.ours.close()
        if self.guard.line is not None:
            self.guard.line.close()
        self.guard.drop_claim()
        os.close(self.pidfd)


@pytest.fixture
def scene(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    made = Scene(ledger, monkeypatch)
    yield made
    made.close()


def test_the_end_of_the_monitor_frees_the_guest_with_the_pauses_it_had(scene: Scene) -> None:
    scene.ledger.armed, scene.ledger.pauses, scene.ledger.pausing = True, 1, True
    scene.child.kill()
    scene.guard.run()
    assert scene.recovered == [{"domid": DOMAIN, "armed": True, "pauses": 1, "pausing": True, "from_the_living": False}]
    assert not scene.ledger.armed


def test_the_end_of_a_monitor_that_left_in_order_needs_nothing(scene: Scene) -> None:
    scene.child.kill()
    scene.guard.run()
    assert scene.recovered == []


def test_another_guest_with_the_same_number_is_left_alone(scene: Scene) -> None:
    scene.ledger.armed = True
    scene.xen.handle = uuid.uuid4()
    scene.child.kill()
    scene.guard.run()
    assert scene.recovered == []


def test_freeing_is_tried_again(scene: Scene) -> None:
    scene.ledger.armed, scene.failures = True, 2
    scene.child.kill()
    scene.guard.run()
    assert len(scene.recovered) == 1


def test_a_monitor_that_cannot_leave_has_it_done(scene: Scene) -> None:
    scene.ledger.armed = True
    scene.ours.send(line.TAKE_OVER)
    scene.guard.run()
    assert len(scene.recovered) == 1


def test_a_line_that_is_closed_while_armed_is_not_the_end(scene: Scene) -> None:
    scene.ledger.armed = True
    scene.ours.close()
    assert scene.guard.hear()
    assert scene.recovered == []
    scene.child.kill()
    scene.guard.run()
    assert len(scene.recovered) == 1


def state_of(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as text:  # noqa: PTH123
        return text.read().rpartition(")")[2].split()[0]


def test_a_monitor_that_hangs_is_stopped_while_the_guest_is_taken_away_and_goes_on_then(scene: Scene) -> None:
    scene.ledger.armed = True
    seen = []
    scene.recover = lambda *_args, **how: seen.append((state_of(scene.child.pid), how))  # type: ignore[method-assign]
    process.recover = scene.recover
    scene.guard.take_away()
    assert [state for state, _ in seen] == ["T"]
    assert seen[0][1]["from_the_living"]
    assert scene.ledger.freed
    until = time.monotonic() + 2
    while state_of(scene.child.pid) == "T" and time.monotonic() < until:
        time.sleep(0.01)
    assert state_of(scene.child.pid) != "T"


def test_a_monitor_that_somebody_stopped_stays_so(scene: Scene) -> None:
    scene.ledger.armed = True
    scene.child.send_signal(signal.SIGSTOP)
    until = time.monotonic() + 2
    while state_of(scene.child.pid) != "T" and time.monotonic() < until:
        time.sleep(0.01)
    scene.guard.take_away()
    assert state_of(scene.child.pid) == "T"
    assert scene.ledger.freed


def test_a_guardian_is_armed_over_the_line_and_keeps_the_claim(scene: Scene, folder: Path) -> None:
    claim = Claim(DOMAIN)
    socket.send_fds(scene.ours, [line.ARM], [claim.fd])
    assert scene.guard.hear()
    assert scene.ours.recv(64) == line.ARMED
    claim.close()
    with pytest.raises(ClaimedError):
        Claim(DOMAIN, 0)
    scene.ours.send(line.DISARM)
    assert scene.guard.hear()
    Claim(DOMAIN, 0).close()


@pytest.mark.skipif(os.path.exists("/dev/xen/privcmd"), reason="this is a Xen host")  # noqa: PTH110
def test_a_guardian_that_cannot_start_says_why_and_the_guest_is_not_touched(folder: Path) -> None:
    guardian = Guardian("web1")
    try:
        with Claim(DOMAIN) as claim, pytest.raises(XenError, match=r"cannot guard the guest") as caught:
            guardian.arm(DOMAIN, GUEST, claim)
        assert "xc_interface_open" in str(caught.value) or "not installed" in str(caught.value)
        assert not guardian.ledger.armed
    finally:
        guardian.close()
    assert not guardian.alive


DYING = """
import select, socket, sys
line = socket.socket(fileno=int(sys.argv[1]))
line.send(b"there is no Xen")
select.select([line], [], [])  # what it is asked is there, and it ends without reading it
"""


def test_what_a_guardian_says_last_is_heard_though_it_ends_unasked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_guest: str, inherited: tuple[int, int, int]) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", DYING, str(inherited[1])], pass_fds=inherited)

    def late(size: int) -> bytes:
        guardian._process.wait(30)
        return asked.recv(size)

    monkeypatch.setattr(handle, "start", start)
    guardian = Guardian("web1")
    asked = guardian._line
    guardian._line = SimpleNamespace(  # type: ignore[assignment]
        sendmsg=asked.sendmsg, settimeout=asked.settimeout, recv=late, close=asked.close
    )
    try:
        with Claim(DOMAIN) as claim, pytest.raises(XenError, match="there is no Xen"):
            guardian.arm(DOMAIN, GUEST, claim)
    finally:
        guardian.close()


def test_the_process_imports_nothing_that_it_does_not_need() -> None:
    code = "import sys, drakmet.guardian.__main__; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    unwanted = {"msgspec", "pluggy", "click", "rich", "sqlite3", "subprocess", "drakmet.monitor", "drakmet.guest"}
    assert unwanted & set(loaded) == set()
