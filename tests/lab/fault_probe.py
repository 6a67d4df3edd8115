# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in dom0: kills monitors of one guest again and again, and tells what each death left behind.

    python3 fault_probe.py GUEST SEED KILLS [exec|pages]

Every second death is at a random instant, the others are between two chosen steps of attach, arm, answer and detach.
The guardian is the real one in a process of its own; with ``exec`` it is started as in production, without it forked
off a small process that has imported it already, which saves two seconds each; with ``pages`` execute traps are armed
as well. Prints one line of JSON for each death.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import gc
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drakmet.guardian import __main__ as guardian
from drakmet.guardian import handle
from drakmet.monitor import Monitor
from drakmet.monitor.dispatch import Hits
from drakmet.monitor.live import LiveDriver
from drakmet.plugins import load_plugins
from drakmet.pyxen import Channel, Control, Xenstore, _memory, foreign
from drakmet.pyxen.claim import Claim
from drakmet.pyxen.ports import ports_of
from drakmet.pyxen.ring import Ring
from drakmet.sources.xen import XenSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet.guest.kernel import Kernel
    from drakmet.pyxen import GuestMemory

ALIVE = 2.0
"""Virtual seconds within which a guest must go on after its monitor's death."""
RUN = 0.4
NURSERY = "/run/drakmet-nursery"
foreign._BLOCK = 64  # what a child maps anew when it reads: no more than it needs
DEATHS = ("SIGKILL", "SIGKILL", "SIGKILL", "SIGSEGV", "SIGABRT", "exit")
STEPS: tuple[tuple[type, str], ...] = (
    (Control, "call"),
    (Control, "pause"),
    (Control, "unpause"),
    (Xenstore, "write"),
    (Xenstore, "remove"),
    (Channel, "hand_over"),
    (Channel, "close"),
    (Hits, "enter"),
    (Hits, "leave"),
    (Hits, "finish"),
    (Ring, "take"),
    (handle.Guardian, "arm"),
    (handle.Guardian, "disarm"),
)


def die(way: str) -> None:
    """End this process at once."""
    if way == "exit":
        os._exit(1)
    if way == "SIGSEGV":
        ctypes.string_at(0)
    os.kill(os.getpid(), getattr(signal, way))


class Steps:
    """Counts the calls that change something, and dies before or after one of them."""

    def __init__(self, at: int, way: str) -> None:
        self.at, self.way, self.count, self.name = at, way, 0, ""

    def point(self) -> None:
        """Be between two steps."""
        self.count += 1
        if self.count == self.at:
            die(self.way)

    def watch(self) -> None:
        """Put a point before and after each step."""
        for kind, name in STEPS:
            setattr(kind, name, self.around(getattr(kind, name)))

    def around(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``step`` with a point on both sides."""

        @functools.wraps(step)
        def stepped(*args: Any, **kwargs: Any) -> Any:
            self.point()
            try:
                return step(*args, **kwargs)
            finally:
                self.point()

        return stepped


class Traps:
    """A plugin's traps without its collectors, which would take a second each time."""

    def __init__(self, plugin: Any) -> None:
        self.name, self.traps, self.collectors, self.sinks = plugin.name, plugin.traps, (), ()
        self.execute_traps = plugin.execute_traps


class Nothing:
    """A sink that keeps nothing."""

    def put(self, record: object) -> None:
        """Forget it."""

    def flush(self) -> None:
        """Nothing waits."""


def nursery() -> None:
    """Fork a guardian for each who comes with the files it is to inherit: this process is small, a monitor is not."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    Control().close()  # the libraries are loaded
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.bind(NURSERY)
    server.listen()
    print("ready", flush=True)
    while True:
        caller, _ = server.accept()
        _, files, _, _ = socket.recv_fds(caller, 64, 3)
        if len(files) == 3 and (pid := os.fork()) == 0:
            os.setsid()
            server.close()
            caller.close()
            os._exit(guardian.main(["", *map(str, files)]))
        with contextlib.suppress(OSError):  # the monitor may be dead by now
            child = os.pidfd_open(pid)
            socket.send_fds(caller, [str(pid).encode()], [child])
            os.close(child)
        for file in files:
            os.close(file)
        caller.close()


class Forked:
    """What `subprocess.Popen` is to a guardian's handle, for one out of the nursery."""

    def __init__(self, inherited: tuple[int, int, int]) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
            caller.connect(NURSERY)
            socket.send_fds(caller, [b"fork"], list(inherited))
            pid, (self._pidfd,), _, _ = socket.recv_fds(caller, 64, 1)
        self.pid = int(pid)

    def _ended(self, seconds: float) -> bool:
        return bool(select.select([self._pidfd], [], [], seconds)[0])

    def poll(self) -> int | None:
        return 0 if self._ended(0) else None

    def wait(self, seconds: float | None = None) -> int:
        if not self._ended(seconds or 60):
            raise subprocess.TimeoutExpired("guardian", seconds or 60)
        return 0


def renew(memory: GuestMemory) -> None:
    """Make a memory usable in a forked child, where nothing of the guest is mapped: map it as it is asked for."""
    _memory.blank(memory._address, memory.frames << 12)
    memory.present[:] = bytes(memory.frames)
    memory._tried[:] = bytes(len(memory._tried))


def monitor(watch: Monitor, steps: Steps, ready: int) -> None:
    """Go on with a watch that was prepared before the fork, to its end; dies on the way if `steps` says so."""
    signal.alarm(120)
    began = time.monotonic()
    renew(watch.source.memory)  # type: ignore[arg-type]  # before anything is mapped into the holes where it was
    memory, source = watch.source.memory, XenSource(watch.source.about.guest)
    source._memory = memory  # type: ignore[assignment]
    source.guard()
    assert watch.guest is not None
    watch.source, watch._driver = source, LiveDriver(source, watch.guest)
    steps.watch()
    os.write(ready, f"({time.monotonic() - began:.2f})".encode())
    watch.attach()
    os.write(ready, f"a{time.monotonic() - began:.2f}".encode())
    watch.run(RUN)
    os.write(ready, b"r")
    watch.detach()
    os.write(ready, f"d{time.monotonic() - began:.2f}".encode())
    source.close()
    os.write(ready, steps.count.to_bytes(8, "little"))
    os._exit(0)


class Guest:
    """What the guest is like from outside."""

    def __init__(self, source: XenSource, known: Kernel) -> None:
        self.source, self.control, self.domid = source, source.control, source.domid
        self.words = source.memory.words
        self.forks = known.gpa(known.address("total_forks")) >> 3
        self.text = range(known.gpa(known.address("_stext")), known.gpa(known.address("_etext")), 1 << 20)

        self.code = [self.read(start) for start in self.text]
        self._compare = ctypes.CDLL(None).memcmp
        self._compare.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]

    def read(self, start: int) -> bytes:
        """Return a piece of the kernel's text as it is in the guest's own memory."""
        return bytes(self.source.memory.buffer[start : min(start + self.text.step, self.text.stop)])

    def differs(self, start: int, code: bytes) -> bool:
        """Tell whether a piece of it is not as it was, every byte compared, none copied."""
        return bool(self._compare(self.source.memory._address + start, code, len(code)))

    def state(self) -> dict[str, Any]:
        """Return what a death must not change."""
        info, own, dom0 = self.control.domain(self.domid), ports_of(self.control, self.domid), ports_of(self.control, 0)
        with Xenstore() as store:
            journal = store.read(f"/tool/drakmet/{self.domid}")
        return {
            "pages": info.tot_pages,
            "limit": info.max_pages,
            "pool": self.control.paging_pool(self.domid),
            "paused": info.paused,
            "ports": own.used,
            "rings": len(own.xen),
            "dom0 ports": dom0.used,
            "journal": journal is not None,
            "text": [start for start, code in zip(self.text, self.code, strict=True) if self.differs(start, code)],
        }

    def beats(self) -> int:
        """Return the forks the guest has made: its scheduler, its memory and its programs go on."""
        return self.words[self.forks]

    def wait_for_beat(self, since: float) -> float | None:
        """Return how many seconds after ``since`` it made another one; None if it made none for long."""
        before = self.beats()
        while (waited := time.monotonic() - since) < 3 * ALIVE:
            if self.beats() != before:
                return waited
            time.sleep(0.005)
        return None


class Campaign:
    """Deaths, one after the other."""

    def __init__(self, guest: str, seed: int, *, pages: bool) -> None:
        self.chance = random.Random(seed)  # noqa: S311  # it is to be repeatable
        self.source = XenSource(guest)
        self.known = self.source.kernel()
        loaded = load_plugins()
        plugins = [Traps(plugin) for plugin in (loaded if pages else loaded.without_execute_traps()).plugins]
        self.watch = Monitor(self.source, plugins, [Nothing()], guarded=False)
        self.traps = len(self.watch.prepare().traps)
        self.guest = Guest(self.source, self.known)
        self.before = self.guest.state()
        gc.collect()
        gc.freeze()  # else each child's first collection copies all of this

    def one(self, at: int, delay: float | None, way: str) -> dict[str, Any]:
        """Have a monitor die at a step, or after some seconds; without either it lives to its end."""
        begun = time.monotonic()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            try:
                monitor(self.watch, Steps(at, way), writer)
            except BaseException as error:  # noqa: BLE001  # told of, whatever it is
                os.write(writer, b"!" + repr(error).encode()[:2000])
            os._exit(9)
        os.close(writer)
        said = os.read(reader, 4096)
        ready = time.monotonic()
        if delay is not None:
            select.select([], [], [], delay)
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        died = time.monotonic()
        lived = died - ready
        beat = self.guest.wait_for_beat(died)
        with Claim(self.guest.domid, 10):
            freed = time.monotonic() - died
        while chunk := os.read(reader, 4096):
            said += chunk
        os.close(reader)
        after = self.guest.state()
        return {
            "at": at,
            "delay": delay,
            "way": way,
            "status": status,
            "said": said[:200].decode("latin1"),
            "lived": lived,
            "beat": beat,
            "freed": freed,
            "cycle": time.monotonic() - begun,
            "changed": {key: [self.before[key], after[key]] for key in after if after[key] != self.before[key]},
        }


def main(guest: str, seed: str = "1", kills: str = "1", how: str = "fork") -> None:
    """Kill, and tell."""
    if guest == "--nursery":
        nursery()
    if how != "exec":
        Path(NURSERY).unlink(missing_ok=True)
        forker = subprocess.Popen([sys.executable, __file__, "--nursery"], stdout=subprocess.PIPE)
        atexit.register(forker.kill)
        assert forker.stdout is not None
        forker.stdout.readline()
        handle.start = lambda _guest, inherited: Forked(inherited)  # type: ignore[assignment, return-value]
    campaign = Campaign(guest, int(seed), pages=how == "pages")
    campaign.one(0, None, "none")  # the first takes longer: much is read from disk then
    whole = campaign.one(0, None, "none")
    window = whole["lived"] - 0.1
    points = int.from_bytes(whole["said"][-8:].encode("latin1"), "little") if whole["status"] == 0 else 0
    print(json.dumps({"whole": whole, "points": points, "before": campaign.before}), flush=True)
    for number in range(int(kills)):
        chance = campaign.chance
        if number % 2:
            told = campaign.one(0, chance.uniform(0, window), "SIGKILL")
        else:
            told = campaign.one(chance.randint(1, max(points, 1)), None, chance.choice(DEATHS))
        print(json.dumps({"kill": number, **told}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
