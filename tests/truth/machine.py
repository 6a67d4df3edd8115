# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest under QEMU whose breakpoints lead to drakmet's own way from hits to records; no Xen is needed."""

from __future__ import annotations

import contextlib
import gzip
import io
import shutil
import socket
import subprocess
import tarfile
import time
from collections import namedtuple
from pathlib import Path
from typing import TYPE_CHECKING

from make_guest_images import GENERAL, Gdb

from drakmet.guest import kernel
from drakmet.guest.linux import LinuxGuest
from drakmet.guest.memory import ImageMemory
from drakmet.monitor.armed import prepare
from drakmet.monitor.dispatch import Hits
from drakmet.monitor.faults import Faults
from drakmet.monitor.processes import Processes
from drakmet.monitor.returns import Returns

if TYPE_CHECKING:
    from drakmet.plugins import LoadedPlugin
    from drakmet.records import Record

HERE = Path(__file__).parent
MEGABYTES = 256
TOOLS = ("strace", "busybox", "gcc", "cpio")
"""What this machine needs to build the root."""
PROGRAMS = ("/usr/bin/strace", "/bin/true", "/bin/cat", "/bin/cp", "/bin/echo", "/bin/rm", "/bin/mv")
APPLETS = (
    "sh", "mount", "tr", "ln", "chmod", "chown", "mkdir", "rmdir", "sleep", "kill", "wget", "nslookup", "ip", "stty",
    "tar", "printf", "poweroff",
)  # fmt: skip
INIT = """#!/bin/sh
mount -t proc none /proc; mount -t devtmpfs none /dev; mount -t sysfs none /sys; mount -t tmpfs none /tmp
mount -t tmpfs none /truth; ip link set lo up
stty -F /dev/ttyS1 raw
echo ready
read line
CALLS=%process,%network,open,openat,openat2,creat,unlink,unlinkat,rename,rmdir,chmod,fchmodat,chown,fchownat
env -i PATH=/bin strace -ff -xx -X raw -v -y -s 200000 -e trace=$CALLS -o /truth/t sh /bin/work.sh > /dev/null 2>&1
echo worked
read line
tar -c -f /dev/ttyS1 -C /truth .
echo told
read line
"""
Registers = namedtuple("Registers", (*GENERAL, "rip", "rflags", "cr3", "gs_base", "vcpu_id"))  # type: ignore[misc]


def programs(work: Path) -> Path:
    """Return a folder below ``work`` to be a root, with the programs and the libraries they need."""
    root = work / "root"
    shutil.rmtree(root, ignore_errors=True)
    for name in ("bin", "proc", "dev", "sys", "tmp", "truth", "etc", "lib", "lib64", "root"):
        (root / name).mkdir(parents=True)
    deeds = root / "bin" / "deeds"
    subprocess.run(["gcc", "-O1", "-pthread", "-w", "-o", deeds, HERE / "deeds.c"], check=True)
    busybox = shutil.which("busybox")
    assert busybox is not None, "install busybox-static"
    shutil.copy(busybox, root / "bin" / "busybox")
    for program in PROGRAMS:
        shutil.copy(program, root / "bin")
    shutil.copy(HERE / "work.sh", root / "bin")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    for program in (*PROGRAMS, str(deeds)):
        told = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
        for word in told.split():
            if word.startswith("/") and Path(word).exists():
                target = root / word[1:]
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(word, target)
    (root / "etc" / "hostname").write_text("truth\n")
    (root / "etc" / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    (root / "bin" / "work.sh").chmod(0o755)
    return root


def initrd(work: Path) -> Path:
    """Pack those, and an init that runs them."""
    root = programs(work)
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    names = "".join(f"{path.relative_to(root)}\n" for path in sorted(root.rglob("*")))
    packed = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=names.encode(), capture_output=True, check=True
    )
    target = work / "initrd.gz"
    target.write_bytes(gzip.compress(packed.stdout, 1))
    return target


class Run:
    """One kernel's run: the records, and strace's files by thread id."""

    def __init__(self, work: Path, vmlinuz: Path, plugins: list[LoadedPlugin]) -> None:
        self.work = work
        self.records: list[Record] = []
        self.hits = 0
        self.truth: dict[int, str] = {}
        self.lost = 0
        packed = initrd(work)
        self.serial = socket.socket(socket.AF_UNIX)
        self.output = b""
        try:
            self._start(vmlinuz, packed)
            self._watch(plugins)
            self.serial.sendall(b"\n")
            self._await("told", 120)
            time.sleep(0.5)
            with tarfile.open(fileobj=io.BytesIO((self.work / "told").read_bytes()), ignore_zeros=True) as tar:
                for member in tar:
                    if member.isfile():
                        text = tar.extractfile(member).read().decode()  # type: ignore[union-attr]
                        self.truth[int(member.name.rpartition(".")[2])] = text
        finally:
            self.serial.close()
            self.process.kill()  # it is the first thing that is started
            self.process.wait()

    def _start(self, vmlinuz: Path, packed: Path) -> None:
        ram, serial, gdb = self.work / "ram", self.work / "serial", self.work / "gdb"
        for path in (ram, serial, gdb):
            path.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot", "-cpu", "Haswell",
             "-m", str(MEGABYTES), "-object", f"memory-backend-file,id=ram,size={MEGABYTES}M,mem-path={ram},share=on",
             "-machine", "q35,memory-backend=ram", "-kernel", str(vmlinuz), "-initrd", str(packed),
             "-append", "quiet console=ttyS0 panic=-1", "-chardev", f"socket,id=s,path={serial},server=on,wait=on",
             "-serial", "chardev:s", "-serial", f"file:{self.work / 'told'}", "-gdb", f"unix:{gdb},server,nowait"],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for _ in range(100):
            try:
                self.serial.connect(str(serial))
                break
            except OSError:
                time.sleep(0.1)
        self._await("ready", 120)

    def said(self, word: str) -> bool:
        """Tell whether the guest said a word; take in what it says."""
        self.serial.settimeout(0.001)
        with contextlib.suppress(TimeoutError):
            self.output += self.serial.recv(65536)
        return word.encode() in self.output

    def _await(self, word: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self.said(word):
            time.sleep(0.1)
            if time.monotonic() > end or self.process.poll() is not None:
                raise TimeoutError(f"the guest did not say {word}: {self.output[-2000:]!r}")

    def _watch(self, plugins: list[LoadedPlugin]) -> None:
        gdb = Gdb(self.work / "gdb")
        with contextlib.closing(gdb.socket):
            self._play(gdb, plugins)

    def _play(self, gdb: Gdb, plugins: list[LoadedPlugin]) -> None:
        guest = LinuxGuest(kernel.find(ImageMemory(self.work / "ram")))
        prepared = prepare(guest, plugins)
        assert not prepared.refused, [one.reason for one in prepared.refused]
        sites: set[int] = set()

        def learn(address: int) -> bool:
            sites.add(address)
            gdb.ask(f"Z1,{address:x},1")
            return True

        put = self.records.append
        returns = Returns(guest, learn)
        hits = Hits(Processes(guest, 1, 1, put, None), returns, Faults(1, put), 1, put)
        for address in prepared.places:
            gdb.ask(f"Z1,{address:x},1")
        self.serial.sendall(b"go\n")
        while True:
            if not self._next(gdb):
                break
            found = gdb.registers()
            registers = Registers(**{name: found[name] for name in Registers._fields[:-1]}, vcpu_id=0)
            now, place = time.time_ns(), prepared.places.get(registers.rip)
            if place is not None:
                hits.enter(place, registers, now)
            if registers.rip in sites:
                hits.leave(registers, now)
            hits.finish()
            self.hits += 1
            gdb.ask(f"z1,{registers.rip:x},1")
            gdb.ask("s")
            gdb.ask(f"Z1,{registers.rip:x},1")
        for address in (*prepared.places, *sites):
            gdb.ask(f"z1,{address:x},1")
        hits.abandon(time.time_ns())
        self.lost = returns.lost
        gdb.ask("D")  # let go; it runs on

    def _next(self, gdb: Gdb) -> bool:
        """Run to the next breakpoint; False when the work is done."""
        gdb.send("c")
        gdb.socket.settimeout(1)
        try:
            while True:
                # Never interrupted before it is done: an interrupt and a breakpoint at once would be told as two stops.
                with contextlib.suppress(TimeoutError):
                    gdb._packet()
                    return True
                if self.said("worked"):
                    gdb.socket.settimeout(60)
                    gdb.stop()
                    return False
                if self.process.poll() is not None:
                    raise TimeoutError("the guest has gone")
        finally:
            gdb.socket.settimeout(60)
