# SPDX-License-Identifier: GPL-2.0-or-later
"""The two emulators that run an unmodified Xen: Bochs (VMX, altp2m, traps) and QEMU's TCG (SVM, quick, no traps)."""

from __future__ import annotations

import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from drakmet.errors import LabError
from drakmet.lab.run import start

if TYPE_CHECKING:
    from drakmet.lab.images import Images
    from drakmet.lab.roots import Root

# What dom0's agent listens on (see inside/agent).
AGENT_PORT = 7001
_AGENT_ADDRESS = "10.0.2.15"
_COMMON = "bootscrub=0 spec-ctrl=no noreboot console=com1 com1=115200,8n1 hap=1 loglvl=info guest_loglvl=info"
# Bochs 3.0 rejects the posted-interrupt descriptor (VMLAUNCH error 7); TCG lacks the others. Under TCG the lazy switch
# of FPU registers loses some: what dom0's sshd decrypted with them was wrong, 16 bytes in some megabytes.
XEN_OPTIONS = {
    "vmx": f"{_COMMON} altp2m=1 apicv=0",
    "svm": f"{_COMMON} spec-ctrl=eager-fpu smap=0 smep=0 cpuidle=0",
}
DOM0_PINNED = " dom0_max_vcpus=1 dom0_vcpus_pin"
MOST_CPUS = 8
# Instructions in a virtual second: what is timed inside is a count of instructions.
INSTRUCTIONS_A_SECOND = 80_000_000


@dataclass(frozen=True)
class Machine:
    """The emulated machine: memory in MiB, and the loopback ports that reach dom0's agent and its sshd."""

    memory: int
    cpus: int
    port: int
    ssh_port: int = 0


def bochs(folder: Path, images: Images, machine: Machine) -> tuple[list[str], dict[str, str]]:
    """Write Bochs' configuration into the host's folder and return command line and environment."""
    tools = images.tools.path
    library = tools / "usr/lib/x86_64-linux-gnu"
    disks = _links(folder, images)
    (folder / "slirp.conf").write_text(
        f"# slirp config\nrestricted = 1\nhostfwd = tcp:127.0.0.1:{machine.port}-{_AGENT_ADDRESS}:{AGENT_PORT}\n"
    )
    lines = [
        "config_interface: textconfig",
        "display_library: term",
        "plugin_ctrl: e1000=1",
        f"memory: guest={machine.memory}, host={machine.memory}",
        f"cpu: model=corei7_skylake_x, count={machine.cpus}, ips={INSTRUCTIONS_A_SECOND}, reset_on_triple_fault=0",
        f"romimage: file={images.bios}",
        f"vgaromimage: file={images.vga_bios}",
        *([f"cmosimage: file={_cmos(folder, machine)}, rtc_init=time0"] if machine.cpus > 1 else []),
        "pci: enabled=1, chipset=i440fx, slot1=e1000",
        f"e1000: enabled=1, mac=52:54:00:12:34:56, ethmod=slirp, script={folder}/slirp.conf",
        "clock: sync=none, time0=utc",
        f"com1: enabled=1, mode=file, dev={folder}/console.log",
        "ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14",
        "ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15",
        *(
            f"ata{number // 2}-{'slave' if number % 2 else 'master'}: type=disk, path={disk}, mode=flat, "
            f"cylinders={disk.stat().st_size // (16 * 63 * 512)}, heads=16, spt=63"
            for number, disk in enumerate(disks)
        ),
        "boot: disk",
        f"log: {folder}/bochs.log",
        "panic: action=fatal",
        # Its speed report runs in a signal handler and can deadlock with logging.
        "error: action=ignore",
        "info: action=ignore",
        "debug: action=ignore",
    ]
    (folder / "bochsrc").write_text("\n".join(lines) + "\n")
    env = {
        "LTDL_LIBRARY_PATH": f"{library}/bochs/plugins",
        "BXSHARE": str(tools / "usr/share/bochs"),
        "TERM": "linux",
        "TERMINFO_DIRS": f"{tools}/usr/share/terminfo:{tools}/lib/terminfo",
    }
    command = [*images.tools.argv("usr/bin/bochs-bin"), "-q", "-f", str(folder / "bochsrc")]
    if machine.cpus > 1:
        # Its loop for more than one CPU forgets, after an exception, to note where the CPU is: an interrupt that comes
        # next and leaves a guest (a VM exit) puts the guest back to the instruction that failed, but in the kernel.
        # The debugger's loop does not, and is fair: each CPU executes 5 instructions, then time goes on by 5.
        (folder / "debugger.rc").write_text("c\n")
        command += ["-debugger", "-rc", str(folder / "debugger.rc")]
    return command, env


def _cmos(folder: Path, machine: Machine) -> Path:
    """Write a CMOS image that tells SeaBIOS how many CPUs to wait for, and return its name.

    Bochs fills that memory by itself, but for the CPUs' number, which its own BIOS does not ask for; with an image it
    leaves out the boot order, and the image may be read after it wrote the memory's size. Registers are SeaBIOS' (1.16,
    src/hw/rtc.h) and the IBM AT's.
    """
    low, high = 639, min((machine.memory << 10) - 1024, 0xFC00)  # KiB below and above 1 MiB
    above_16 = ((machine.memory - 16) << 20) >> 16
    registers = bytearray(128)
    registers[0x0A], registers[0x0B], registers[0x0D] = 0x26, 0x02, 0x80  # 32 kHz, 24 hours, the battery is good
    registers[0x14] = 0x02  # there is a floating-point unit
    registers[0x15:0x19] = low.to_bytes(2, "little") + high.to_bytes(2, "little")
    registers[0x30:0x32] = high.to_bytes(2, "little")
    registers[0x34:0x36] = above_16.to_bytes(2, "little")
    registers[0x3D] = 0x02  # boot from disk
    registers[0x5F] = machine.cpus - 1
    path = folder / "cmos.img"
    path.write_bytes(registers)
    return path


def drain_screen(log: Path, seconds: float = 30.0) -> None:
    """Have Bochs' text screen read by someone, for as long as Bochs lives.

    It draws on a pseudo-terminal of its own and stops, whole, when nobody reads that. (Its other screens are windows,
    and a VNC server for the whole network.)
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        match = re.search(rb'connected to screen "(/dev/pts/\d+)"', log.read_bytes())
        if match:
            with Path(os.fsdecode(match[1])).open("rb") as screen:
                start(["cat"], stdin=screen, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            return
        time.sleep(0.05)
    raise LabError("Bochs did not start its screen", where=str(log), hint=log.read_text(errors="replace")[-600:])


def qemu(folder: Path, images: Images, machine: Machine, root: Root) -> tuple[list[str], dict[str, str]]:
    """Return command line and environment of QEMU for the same machine."""
    share = root.path / "usr/share"
    forwards = [(machine.port, AGENT_PORT), *([(machine.ssh_port, 22)] if machine.ssh_port else [])]
    network = "".join(f",hostfwd=tcp:127.0.0.1:{here}-{_AGENT_ADDRESS}:{there}" for here, there in forwards)
    command = [
        *root.argv("usr/bin/qemu-system-x86_64"),
        *("-machine", "pc,accel=tcg", "-cpu", "EPYC,+svm,+npt,-x2apic,-smap,-smep,-monitor,-rdtscp"),
        *("-m", str(machine.memory), "-smp", str(machine.cpus), "-display", "none", "-nodefaults", "-vga", "std"),
        *("-L", f"{share}/qemu", "-L", f"{share}/seabios", "-L", f"{root.path}/usr/lib/ipxe/qemu"),
        *("-serial", f"file:{folder}/console.log", "-monitor", "none", "-no-reboot"),
        *("-netdev", f"user,id=n,restrict=on{network}"),
        *("-device", "e1000,netdev=n,mac=52:54:00:12:34:56,romfile="),
    ]
    for number, disk in enumerate(_links(folder, images)):
        command += ["-drive", f"if=ide,index={number},file={disk},format=raw,snapshot=on"]
    return command, {"QEMU_MODULE_DIR": f"{root.path}/usr/lib/x86_64-linux-gnu/qemu"}


def _links(folder: Path, images: Images) -> list[Path]:
    """Give the host names of its own for the shared images: Bochs locks a disk by a file beside its name."""
    links = []
    for name, target in (
        ("boot", images.boot),
        ("dom0", images.dom0),
        ("drakmet", images.drakmet),
        ("guest", images.guest),
    ):
        link = folder / f"{name}.img"
        link.unlink(missing_ok=True)
        link.with_name(f"{link.name}.lock").unlink(missing_ok=True)
        # A hard link, so that a running host keeps its disks when the cache moves on.
        os.link(target, link)
        links.append(link)
    return links
