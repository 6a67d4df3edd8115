# SPDX-License-Identifier: GPL-2.0-or-later
"""Looks into a running Bochs, from outside, at what its CPUs execute: samples of whose code it is, and how much.

Bochs tells its own symbols; where a register lies in its CPU's structure was found in Debian's Bochs 3.0 for amd64
and is checked by what stands there. Samples come at even distances of the emulator's time, in which code that is dear
to emulate is seen too often: so each is weighed by how many instructions were executed in the moment after it.
"""

from __future__ import annotations

import os
import struct
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from drakmet.errors import LabError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_RIP: Final = 0xE0  # of BX_CPU_C: gen_reg[BX_64BIT_REG_RIP]
_WORD: Final = struct.Struct("<Q")
_STATE: Final = struct.Struct("<Q80xQ368xQ")
"""From `_RIP` on: it, icount (instructions executed), and CR3."""
_XEN: Final = range(0xFFFF_8000_0000_0000, 0xFFFF_8800_0000_0000)  # xen/include/asm-x86/config.h, HYPERVISOR_VIRT_*
_KERNEL: Final = 1 << 63
_HALF: Final = 1 << 47  # what lies between the two halves is no address
_CHECKED: Final = 200
WHERE: Final = ("Xen", "dom0's kernel", "dom0's programs", "guest")


def owner(rip: int, cr3: int, guest_memory: int) -> str:
    """Return whose code it is, of `WHERE`; ``guest_memory`` in bytes.

    Page tables of the guest lie in its own memory as it counts it, near zero; those of dom0 in the machine's, which
    is given out from its end.
    """
    if rip in _XEN:
        return WHERE[0]
    if cr3 < guest_memory:
        return WHERE[3]
    return WHERE[1] if rip & _KERNEL else WHERE[2]


class Emulator:
    """A running Bochs, by its process id and how many CPUs it has."""

    def __init__(self, pid: int, cpus: int = 1) -> None:
        self._memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
        try:
            start, program = _program(pid)
            array = self._word(start + _symbol(program, "bx_cpu_array"))
            self._cpus = [self._word(array + _WORD.size * number) for number in range(cpus)]
            self._check()
        except BaseException:
            os.close(self._memory)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._memory)

    def _word(self, address: int) -> int:
        return int(_WORD.unpack(os.pread(self._memory, _WORD.size, address))[0])

    def _state(self, cpu: int) -> tuple[int, int, int]:
        rip, executed, cr3 = _STATE.unpack(os.pread(self._memory, _STATE.size, cpu + _RIP))
        return rip, executed, cr3

    def executed(self) -> list[int]:
        """Return how many instructions each CPU has executed since it was started."""
        return [self._state(cpu)[1] for cpu in self._cpus]

    def _check(self) -> None:
        seen = set()
        for _ in range(_CHECKED):
            seen.add(self._state(self._cpus[0])[0])
            time.sleep(0.0005)
        if not any(rip in _XEN for rip in seen) or any(_HALF <= rip < (1 << 64) - _HALF for rip in seen):
            raise LabError("this Bochs keeps its registers elsewhere", hint="the profile needs Debian's Bochs 3.0")

    def sample(self, seconds: float, guest_memory: int) -> Counter[str]:
        """Count whose code runs, some thousand times a second; counts are only good for their ratios."""
        found: Counter[str] = Counter()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for cpu in self._cpus:
                rip, before, cr3 = self._state(cpu)
                _, after, _ = self._state(cpu)
                found[owner(rip, cr3, guest_memory)] += max(after - before, 0)
            time.sleep(0.0003)
        return found


def _program(pid: int) -> tuple[int, Path]:
    """Return where Bochs' program is mapped, and its file."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        words = line.split()
        if len(words) == 6 and words[5].endswith("bochs-bin"):
            return int(words[0].partition("-")[0], 16), Path(words[5])
    raise LabError("the host's emulator is no Bochs", hint="drakmet lab up --kind vmx")


def _symbol(program: Path, name: str) -> int:
    told = subprocess.run(["nm", "-D", program], capture_output=True, text=True, check=True).stdout
    for line in told.splitlines():
        words = line.split()
        if len(words) == 3 and words[2] == name:
            return int(words[0], 16)
    raise LabError(f"{program} tells no {name}")
