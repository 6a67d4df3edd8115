# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes tests/data/guest-*.pages and .json: real guests, cut down to the pages that the tests touch.

    python tests/make_guest_images.py --vmlinuz NAME=PATH ... [--only NAME] [--keep DIR]

Needs qemu-system-x86_64, cpio and gcc with a static libc. Each guest runs tests/guest/acts.c as its init, under
QEMU with its RAM in a file; at each function of tests/guest/scenes.py it is stopped through QEMU's gdb stub, the
registers and the pages that decoding touches are kept. What must come out of them was told by the guest itself
before it did it, and by its /proc at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import lzma
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))

from guest.cut_btf import cut
from guest.scan_truth import compare
from guest.scenes import SCENES, Act
from guest.truth import census

from drakmet.errors import GuestError
from drakmet.guest import kernel
from drakmet.guest.fetch import compile_field
from drakmet.guest.linux import LinuxGuest
from drakmet.guest.memory import ImageMemory, RecordingMemory, SparseMemory
from drakmet.plugins import load_plugins
from drakmet.scan import scan

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = Path(__file__).parent
DATA = HERE / "data"
QEMU = ("qemu-system-x86_64",)
MEGABYTES = 160
PATIENCE = 300
"""Seconds for what takes ten on a quiet machine."""
HIT_SHIFT = 32
GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16)))
MODULES = ("fuse", "cuse", "tun", "crc7", "dummy")
CPUS = {"5.10": "Haswell", "6.1": "max", "6.12": "Haswell"}


class Gdb:
    """As much of the gdb remote protocol as stopping at addresses takes."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(str(path))
        self.buffer = b""
        self._packet()  # connecting stops the guest, and it says so

    def _packet(self) -> str:
        while True:
            start, end = self.buffer.find(b"$"), self.buffer.find(b"#")
            if 0 <= start < end and len(self.buffer) >= end + 3:
                body = self.buffer[start + 1 : end]
                self.buffer = self.buffer[end + 3 :]
                self.socket.sendall(b"+")
                return body.decode()
            self.buffer += self.socket.recv(65536)

    def send(self, body: str) -> None:
        self.socket.sendall(f"${body}#{sum(body.encode()) % 256:02x}".encode())

    def ask(self, body: str) -> str:
        self.send(body)
        return self._packet()

    def stop(self) -> None:
        self.socket.sendall(b"\x03")
        self._packet()

    def go(self, seconds: float) -> bool:
        """Run until a breakpoint; false if none came."""
        self.send("c")
        self.socket.settimeout(seconds)
        try:
            stopped = self._packet()
        except TimeoutError:
            self.socket.settimeout(60)
            self.stop()
            return False
        self.socket.settimeout(60)
        thread = stopped.partition("thread:")[2].partition(";")[0]
        if thread:
            self.ask(f"Hg{thread}")
            self.ask(f"Hc{thread}")
        return True

    def registers(self) -> dict[str, int]:
        raw = bytes.fromhex(self.ask("g").replace("x", "0"))
        words = [int.from_bytes(raw[at : at + 8], "little") for at in range(0, 17 * 8, 8)]
        names = ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16)), "rip"]
        found = dict(zip(names, words, strict=True))
        at = 17 * 8
        found["rflags"] = int.from_bytes(raw[at : at + 4], "little")
        at += 4 + 6 * 4  # past the segment registers
        values = [int.from_bytes(raw[at + 8 * i : at + 8 * i + 8], "little") for i in range(6)]
        found["gs_base"], found["cr3"] = values[1], values[5]
        return found


def modules_beside(vmlinuz: Path) -> list[Path]:
    """Return the kernel modules to load, from the tree that a kernel's package was unpacked to."""
    found = []
    for folder in (vmlinuz.parent.parent / "lib/modules", vmlinuz.parent.parent / "usr/lib/modules"):
        found += [path for name in MODULES for path in sorted(folder.rglob(f"{name}.ko*"))]
    return found


def initramfs(work: Path, modules: list[Path]) -> Path:
    """Compile acts.c and pack it."""
    root = work / "root"
    shutil.rmtree(root, ignore_errors=True)
    for folder in ("bin", "dev", "modules"):
        (root / folder).mkdir(parents=True)
    for path in modules:
        data = path.read_bytes()
        target = root / "modules" / path.name.removesuffix(".xz")
        target.write_bytes(lzma.decompress(data) if path.suffix == ".xz" else data)
    source = HERE / "guest" / "acts.c"
    subprocess.run(
        ["gcc", "-static", "-O1", "-s", "-Wall", "-Wextra", "-o", str(root / "init"), str(source)], check=True
    )
    shutil.copy(root / "init", root / "bin" / "acts")
    names = "".join(f"{path.relative_to(root)}\n" for path in sorted(root.rglob("*")))
    packed = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=names.encode(), capture_output=True, check=True
    )
    target = work / "initrd.gz"
    target.write_bytes(gzip.compress(packed.stdout, 6))
    return target


class Machine:
    """A guest under QEMU."""

    def __init__(self, work: Path, vmlinuz: Path, initrd: Path, cpu: str, qemu: Sequence[str | Path] = QEMU) -> None:
        self.ram, self.told = work / "ram", work / "told"
        serial, gdb = work / "serial", work / "gdb"
        for path in (self.ram, self.told, serial, gdb):
            path.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [*qemu, "-nodefaults", "-display", "none", "-no-reboot", "-cpu", cpu, "-m", str(MEGABYTES),
             "-object", f"memory-backend-file,id=ram,size={MEGABYTES}M,mem-path={self.ram},share=on",
             "-machine", "q35,memory-backend=ram", "-kernel", str(vmlinuz), "-initrd", str(initrd),
             "-append", "quiet console=ttyS0 panic=-1", "-debugcon", f"file:{self.told}",
             "-chardev", f"socket,id=s,path={serial},server=on,wait=off", "-serial", "chardev:s",
             "-gdb", f"unix:{gdb},server,nowait"],
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.serial_path, self.gdb_path = serial, gdb
        self.serial = socket.socket(socket.AF_UNIX)
        self.wait_for("ready", PATIENCE)
        self.serial.connect(str(serial))

    def lines(self) -> list[Act]:
        found = []
        for line in self.told.read_text().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def wait_for(self, key: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.told.exists() and any(key in line for line in self.lines()):
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.3)
        self.close()
        raise SystemExit(f"the guest did not say {key}")

    def close(self) -> None:
        self.serial.close()
        self.process.kill()
        self.process.wait()


def make(name: str, vmlinuz: Path, work: Path) -> None:
    """Run one guest and write its fixture."""
    version = next(key for key in sorted(CPUS, key=len, reverse=True) if key in name)
    machine = Machine(work, vmlinuz, initramfs(work, modules_beside(vmlinuz)), CPUS[version])
    try:
        hits, overlays = play(machine)
        gdb_free = ImageMemory(machine.ram)
        told = machine.lines()
        for line in told:
            if "warning" in line:
                print(name, "the guest warns:", line["warning"])
        write(name, gdb_free, hits, overlays, told)
    finally:
        machine.close()


def run_to_census(
    name: str, vmlinuz: Path, work: Path, cpu: str | None = None, qemu: Sequence[str | Path] = QEMU
) -> tuple[Path, list[Act]]:
    """Run a guest to the moment after it told everything, and return its memory of then and what it told."""
    version = next(key for key in sorted(CPUS, key=len, reverse=True) if key in name)
    machine = Machine(work, vmlinuz, initramfs(work, modules_beside(vmlinuz)), cpu or CPUS[version], qemu)
    try:
        machine.serial.sendall(b"go\n")
        machine.wait_for("census", PATIENCE)
        time.sleep(0.5)
        gdb = Gdb(machine.gdb_path)
        target = work / f"{name}.raw"
        subprocess.run(["cp", "--sparse=always", str(machine.ram), str(target)], check=True)
        told = machine.lines()
        gdb.socket.close()
    finally:
        machine.close()
    (work / f"{name}.json").write_text(json.dumps(told))
    return target, told


def play(machine: Machine) -> tuple[list[dict[str, Any]], list[dict[int, bytes]]]:
    """Let the guest act; return each wanted hit and the pages that decoding it touched."""
    gdb = Gdb(machine.gdb_path)
    memory = ImageMemory(machine.ram)
    found = kernel.find(memory)
    guest = LinuxGuest(found)
    traps = {}
    for scene in SCENES:
        try:
            traps.setdefault(guest.function_entry(scene.function).address, []).append(scene)
        except GuestError as error:
            print("no trap:", error)
    for address in traps:
        gdb.ask(f"Z1,{address:x},1")
    machine.serial.sendall(b"go\n")
    hits: list[dict[str, Any]] = []
    overlays: list[dict[int, bytes]] = []
    pending: dict[int, tuple[Any, Act, int]] = {}  # return address -> what awaits it
    done = False
    while True:
        if not gdb.go(20):
            break
        regs = gdb.registers()
        told = machine.lines()
        done = done or any("acts" in line for line in told)
        if done:
            for address in (*traps, *pending):
                gdb.ask(f"z1,{address:x},1")
            gdb.send("c")
            machine.wait_for("census", 60)
            time.sleep(0.5)
            gdb.stop()
            break
        pc = regs["rip"]
        for scene in traps.get(pc, ()):
            act = acting(guest, regs, told, scene)
            if act is not None and not any(hit["act"] == act and hit["function"] == scene.function for hit in hits):
                keep(memory, found, scene.function, "entry", regs, act, scene.fields, hits, overlays)
                if scene.returns:
                    back = memory_u64(guest, regs["rsp"])
                    pending[back] = (scene, act, regs["rsp"] + 8)
                    gdb.ask(f"Z1,{back:x},1")
        if pc in pending and pending[pc][2] == regs["rsp"]:
            scene, act, _ = pending.pop(pc)
            gdb.ask(f"z1,{pc:x},1")
            keep(memory, found, scene.function, "return", regs, act, scene.returns, hits, overlays)
            continue
        if pc not in traps and pc not in pending:
            continue
        gdb.ask(f"z1,{pc:x},1")
        gdb.ask("s")
        gdb.ask(f"Z1,{pc:x},1")
    return hits, overlays


def memory_u64(guest: LinuxGuest, address: int) -> int:
    return guest.read_u64(address)


def acting(guest: LinuxGuest, regs: dict[str, int], told: list[Act], scene: Any) -> Act | None:
    """Return the act the current process announced last, if the scene is one of it."""
    pid = guest.process(guest.current_task(regs["gs_base"])).tgid
    acts = [line for line in told if "act" in line and line["pid"] == pid]
    return acts[-1] if acts and acts[-1]["act"] in scene.acts else None


def keep(
    memory: ImageMemory, found: kernel.Kernel, function: str, when: str, regs: dict[str, int], act: Act,
    fields: dict[str, Any], hits: list[dict[str, Any]], overlays: list[dict[int, bytes]],
) -> None:  # fmt: skip
    recording = RecordingMemory(memory)
    guest = LinuxGuest(kernel.Kernel(found.profile, recording, found.base, found.slide, found.levels))
    for expression, expected in fields.items():
        value = compile_field(expression, function, guest.types).bind(guest)(SimpleNamespace(**regs))
        if not expected(act, value):
            print(f"DIFFERS {function} {expression}: {value!r}, the guest said {act}")
    kept = {name: regs[name] for name in (*GENERAL, "rip", "rflags", "cr3", "gs_base") if name in regs}
    hits.append({"function": function, "when": when, "regs": kept, "act": act})
    overlays.append(recording.touched)


class Rows:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def put(self, row: Any) -> None:
        self.rows.append(row)

    def flush(self) -> None:
        pass


class Placed:
    """A source of memory alone."""

    uri = "image:fixture"

    def __init__(self, memory: RecordingMemory) -> None:
        self.memory = memory


def write(
    name: str, memory: ImageMemory, hits: list[dict[str, Any]], overlays: list[dict[int, bytes]], told: list[Act]
) -> None:
    recording = RecordingMemory(memory)
    # Where the tables lie must be touched without the whole of memory: only what is around them is read.
    found = kernel.find(memory)
    placed = kernel.Kernel(found.profile, recording, found.base, found.slide, found.levels)
    guest = LinuxGuest(placed)
    census(guest, told, problems := [])
    rows = Rows()
    scan(Placed(recording), load_plugins(only=["execution"]).plugins, [rows], kernel=placed)
    problems += compare(rows.rows, told)[0]
    for problem in problems:
        print(name, "DIFFERS", problem)
    kernel.build_id(kernel.verify(recording, found.profile, found.base))
    recording.read(found.gpa(found.address("linux_banner")), 512)
    for scene in SCENES:
        with contextlib.suppress(GuestError):
            guest.function_entry(scene.function)
            for expression in (*scene.fields, *scene.returns):
                compile_field(expression, scene.function, guest.types)
    pages = dict(recording.touched)
    pages.update(table_pages(memory, found))
    pages.update(cut(found, pages))
    for number, overlay in enumerate(overlays, 1):
        for gfn, page in overlay.items():
            if pages.get(gfn) != page:
                pages[number << HIT_SHIFT | gfn] = page
    DATA.mkdir(exist_ok=True)
    target = DATA / f"guest-{name}.pages"
    SparseMemory(pages, memory.size).save(target)
    target.chmod(0o644)
    truth = {"hits": hits, "told": [line for line in told if "act" not in line and "ready" not in line]}
    packed = gzip.compress(json.dumps(truth, separators=(",", ":")).encode(), 9, mtime=0)
    (DATA / f"guest-{name}.json.gz").write_bytes(packed)
    print(f"{name}: {len(hits)} hits, {len(pages)} pages, {target.stat().st_size} bytes, truth {len(packed)} bytes")


def table_pages(memory: ImageMemory, found: kernel.Kernel) -> dict[int, bytes]:
    """Return the pages that hold the kernel's symbol table."""
    for table in kernel.tables(memory):
        if found.base <= table.token_table < found.base + found.space.image_end - found.space.image_start:
            start, end = table.extent
            break
    return {gfn: memory.read(gfn << 12, 4096) for gfn in range(start >> 12, (end + 4095) >> 12)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vmlinuz", action="append", required=True, metavar="NAME=PATH")
    parser.add_argument("--keep", type=Path, help="work here and leave the RAM files")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        work = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(exist_ok=True)
        for one in options.vmlinuz:
            name, _, path = one.partition("=")
            make(name, Path(path), work)


if __name__ == "__main__":
    main()
