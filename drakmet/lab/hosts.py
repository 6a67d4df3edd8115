# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts: an emulator in the background, what is known of it in a file, and the agent inside that does as told."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drakmet.errors import LabError, UsageError
from drakmet.lab import emulators
from drakmet.lab.client import Agent
from drakmet.lab.images import Builder
from drakmet.lab.places import Places, locked, write_private
from drakmet.lab.run import start

if TYPE_CHECKING:
    from drakmet.lab.progress import Progress

DEFAULT_NAME = "lab"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_LOG_LINES = 8
_BOOT, _BOOT_MANY = 600.0, 2400.0
"""Wall seconds that a boot may take at the most on a busy machine, with one CPU and with more."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a host is to be: sizes in MiB."""

    kind: str = "vmx"
    xen: str = "4.17"
    guest_kernel: str = "6.1"
    guests: int = 1
    guest_memory: int = 256
    guest_vcpus: int = 2
    dom0_memory: int = 768
    host_cpus: int = 1

    def check(self) -> None:
        """Raise UsageError if no host can be like this."""
        if self.kind not in emulators.XEN_OPTIONS:
            raise UsageError(f"{self.kind} is not a kind of host", hint=f"Kinds: {', '.join(emulators.XEN_OPTIONS)}.")
        if not 0 <= self.guests <= 8 or not 1 <= self.guest_vcpus <= 8:
            raise UsageError("a host has 0 to 8 guests with 1 to 8 vCPUs each")
        if not 1 <= self.host_cpus <= emulators.MOST_CPUS:
            raise UsageError(f"a host has 1 to {emulators.MOST_CPUS} CPUs")

    @property
    def memory(self) -> int:
        """Return the emulated machine's memory: Xen's own, dom0's, the guests' and room for shadow frames."""
        return self.dom0_memory + max(self.guests, 1) * (self.guest_memory + 32) + 256

    @property
    def xen_options(self) -> str:
        """Return Xen's command line. With more than one CPU, the first is dom0's; the guests have the others."""
        return emulators.XEN_OPTIONS[self.kind] + (emulators.DOM0_PINNED if self.host_cpus > 1 else "")


@dataclasses.dataclass(frozen=True)
class Host:
    """A host that was started: its folder holds its disks, logs and this."""

    name: str
    folder: Path
    pid: int
    started: int
    port: int
    token: str
    choice: Choice
    seconds: float
    ssh_port: int = 0

    @property
    def agent(self) -> Agent:
        """Return the way to dom0's agent."""
        return Agent(self.port, self.token)

    @property
    def running(self) -> bool:
        """Tell whether the emulator runs (and is the one that was started, not another with its number)."""
        # One that ended before its start time could be read has none, as a process that is not there has none.
        return bool(self.started) and _start_time(self.pid) == self.started

    def guest(self, name: str) -> Agent:
        """Return the way to a guest's agent."""
        numbers = {guest: number for number, guest in enumerate(self.guest_names(), 1)}
        if name not in numbers:
            raise UsageError(f"host {self.name} has no guest {name}", hint=f"Guests: {', '.join(numbers) or 'none'}.")
        return self.agent.guest(f"10.77.{numbers[name]}.2")

    def guest_names(self) -> list[str]:
        """Return the names of the guests that the host was started with."""
        return [f"web{number}" for number in range(1, self.choice.guests + 1)]

    def log_end(self) -> str:
        """Return the last lines of the console and of the emulator, for an error's text."""
        parts = []
        for name in ("console.log", "emulator.log"):
            with contextlib.suppress(OSError):
                lines = (self.folder / name).read_text(errors="replace").splitlines()[-_LOG_LINES:]
                parts.append(f"{name}:\n    " + "\n    ".join(ascii(line)[1:-1] for line in lines))
        return "\n  ".join(parts)


def known_hosts(places: Places) -> list[Host]:
    """Return the hosts that were started and not taken down, running or not."""
    found = []
    for path in sorted(places.hosts.glob("*/host.json")):
        with contextlib.suppress(LabError):
            found.append(_load(path.parent))
    return found


def find_host(places: Places, name: str | None = None) -> Host:
    """Return a running host by name, or the only one; raise LabError if it is not there or has ended."""
    hosts = known_hosts(places)
    if name is None:
        running = [host for host in hosts if host.running]
        if len(running) > 1:
            raise UsageError(
                "more than one host is up", hint=f"Name one with --host: {', '.join(host.name for host in running)}."
            )
        hosts = running or hosts
    else:
        hosts = [host for host in hosts if host.name == name]
    if not hosts:
        raise LabError(f"no host {name or ''}".rstrip() + " is up", hint="Start one: `drakmet lab up`.")
    host = hosts[0]
    if not host.running:
        raise LabError(
            f"host {host.name}'s emulator has ended",
            where=str(host.folder),
            hint=f"{host.log_end()}\n  Start it again: `drakmet lab up`.",
        )
    return host


def up(
    places: Places,
    name: str,
    choice: Choice,
    progress: Progress,
    *,
    refresh: bool = False,
    seconds: float | None = None,
) -> Host:
    """Start a host and its guests and return when they answer; one of that name that is up is returned as it is."""
    choice.check()
    if seconds is None:
        seconds = _BOOT if choice.host_cpus == 1 else _BOOT_MANY
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a host", hint="Small letters, digits and dashes, a letter first.")
    folder = places.hosts / name
    with locked(places.hosts, f".{name}.lock"):
        host = next((known for known in known_hosts(places) if known.name == name and known.running), None)
        if host is not None:
            if host.choice != choice:
                raise UsageError(
                    f"host {name} is up with other settings",
                    hint=f"Take it down first (`drakmet lab down {name}`), or name another.",
                )
            progress.note(f"host {name} is up already")
            return host
        host = _start(places, folder, name, choice, progress, refresh=refresh)
        try:
            _wait(host, seconds, progress)
            for number, guest in enumerate(host.guest_names(), 1):
                with progress.stage(f"start guest {guest}"):
                    create_guest(host, guest, number)
            for guest in host.guest_names():
                with progress.stage(f"wait for guest {guest}"):
                    _wait_guest(host, guest, seconds)
        except BaseException:
            _stop(host)
            raise
    progress.note(f"host {name} is up after {progress.seconds:.0f} s")
    return host


def down(places: Places, name: str) -> bool:
    """End a host and forget it, and tell whether there was one."""
    folder = places.hosts / name
    if not (folder / "host.json").exists():
        return False
    with contextlib.suppress(LabError):
        _stop(_load(folder))
    shutil.rmtree(folder, ignore_errors=True)
    return True


def create_guest(host: Host, name: str, number: int) -> None:
    """Start a guest in dom0, with altp2m for an outside monitor where the host can do that."""
    choice = host.choice
    lines = [
        f'name="{name}"',
        'type="pvh"',
        'kernel="/lab/guest/boot/guest.elf"',
        f"memory={choice.guest_memory}",
        f"vcpus={choice.guest_vcpus}",
        'disk=["format=raw,vdev=xvda,access=ro,script=/lab/block,target=/dev/lab-guest"]',
        f'vif=["mac=00:16:3e:4c:00:{number:02x},script=/lab/vif"]',
        'on_crash="preserve"',
        *([f'cpus="1-{choice.host_cpus - 1}"'] if choice.host_cpus > 1 else []),
        'altp2m="external"' if choice.kind == "vmx" else 'tsc_mode="native"',
    ]
    agent = host.agent
    path = f"/etc/xen/{name}.cfg"
    agent.run(["tee", path], stdin=("\n".join(lines) + "\n").encode(), check=True)
    agent.run(["xl", "create", path], check=True)


def status(host: Host) -> dict[str, Any]:
    """Return what a person or a script wants to know of a host."""
    found: dict[str, Any] = {
        "name": host.name,
        **dataclasses.asdict(host.choice),
        "running": host.running,
        "pid": host.pid,
        "port": host.port,
        "up_seconds": round(host.seconds, 1),
        "folder": str(host.folder),
        "guests": [],
    }
    if host.running:
        try:
            listed = host.agent.run(["xl", "list"], timeout=20)
        except LabError as error:
            # One host that hangs must not hide the others.
            found["trouble"] = error.what
            return found
        rows = [line.split() for line in listed.stdout.decode(errors="replace").splitlines()[1:]]
        found["guests"] = [
            {
                "name": row[0],
                "domid": int(row[1]),
                "memory": int(row[2]),
                "vcpus": int(row[3]),
                "state": row[4],
                "cpu_seconds": float(row[5]),
            }
            for row in rows
            if len(row) == 6 and row[1] != "0"
        ]
    return found


def _start(places: Places, folder: Path, name: str, choice: Choice, progress: Progress, *, refresh: bool) -> Host:
    builder = Builder(places.cache, progress, xen=choice.xen, guest_kernel=choice.guest_kernel, refresh=refresh)
    images = builder.build(choice.xen_options, dom0_memory=choice.dom0_memory, kind=choice.kind)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    ssh_port = _free_port() if choice.kind == "svm" else 0
    machine = emulators.Machine(choice.memory, choice.host_cpus, _free_port(), ssh_port)
    if choice.kind == "vmx":
        command, env = emulators.bochs(folder, images, machine)
    else:
        command, env = emulators.qemu(folder, images, machine, builder.qemu())
    with (folder / "emulator.log").open("wb") as log:
        try:
            pid = start(
                command, cwd=folder, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        except OSError as error:
            raise LabError(f"cannot start the emulator: {error.strerror}", where=command[0]) from error
    host = Host(name, folder, pid, _start_time(pid), machine.port, images.token, choice, 0.0, ssh_port)
    _save(host)
    if choice.kind == "vmx":
        emulators.drain_screen(folder / "emulator.log")
    return host


def _wait(host: Host, seconds: float, progress: Progress) -> None:
    deadline = time.monotonic() + seconds
    said = 0
    with progress.stage("boot Xen and dom0"):
        while True:
            said = _tell_console(host, said, progress)
            if said < 0 and host.agent.answers(20.0):
                break
            _check(host, deadline, "dom0's agent did not answer")
            time.sleep(0.3)


_MARKS = ("Xen version", "about to get started", "lab: xenstored", "lab: agent", "lab: dom0 ready")


def _tell_console(host: Host, said: int, progress: Progress) -> int:
    """Say which mark of the boot is new; return the number of marks seen, or -1 once dom0 is ready."""
    if said < 0:
        return said
    try:
        text = (host.folder / "console.log").read_text(errors="replace")
    except OSError:
        return 0
    seen = sum(1 for mark in _MARKS if mark in text)
    for mark in _MARKS[said:seen]:
        progress.note(f"  console: {mark.removeprefix('lab: ')}")
    return -1 if seen == len(_MARKS) else seen


def _wait_guest(host: Host, guest: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    agent = host.guest(guest)
    while not agent.answers(30.0):
        _check(host, deadline, f"guest {guest} did not answer")
        time.sleep(0.5)


def _check(host: Host, deadline: float, what: str) -> None:
    if not host.running:
        raise LabError(f"the emulator of host {host.name} ended", where=str(host.folder), hint=host.log_end())
    if time.monotonic() > deadline:
        raise LabError(f"{what} in time", where=str(host.folder), hint=host.log_end())


def _stop(host: Host) -> None:
    for number, seconds in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 10.0)):
        deadline = time.monotonic() + seconds
        while host.running and time.monotonic() < deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(host.pid, number)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(host.pid, os.WNOHANG)
            time.sleep(0.1)


def _save(host: Host) -> None:
    fields = dataclasses.asdict(host)
    fields["folder"] = str(host.folder)
    write_private(host.folder / "host.json", json.dumps(fields))


def _load(folder: Path) -> Host:
    try:
        fields = json.loads((folder / "host.json").read_text())
        return Host(**{**fields, "folder": folder, "choice": Choice(**fields["choice"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LabError(f"cannot read what is known of a host: {error}", where=str(folder)) from error


def finished(host: Host, seconds: float) -> Host:
    """Keep how long the host took to come up."""
    done = dataclasses.replace(host, seconds=seconds)
    _save(done)
    return done


def _start_time(pid: int) -> int:
    """Return when a process started (clock ticks since boot; proc(5), field 22 of stat), or 0 if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return 0
    return 0 if fields[0] == "Z" else int(fields[19])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
