# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes a watch into a recording as it happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from drakmet.monitor.loop import ALWAYS
from drakmet.sources.recording import Head, Recorder

if TYPE_CHECKING:
    from pathlib import Path

    from drakmet.guest.kernel import Kernel
    from drakmet.monitor.armed import Prepared
    from drakmet.sources.base import Source
    from drakmet.sources.recording import RecordedMemory

_REGISTERS = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
    "rip", "rflags", "cr3", "gs_base", "shadow_gs", "cs_sel",
)  # fmt: skip
_LEFT_OUT = frozenset({"reason", "altp2m_idx", "gfn"})


class WatchRecorder:
    """A recording in the making; `end` completes the file, without it nothing is left."""

    def __init__(self, path: Path, source: Source) -> None:
        self._recorder = Recorder(path, source.memory)
        self._source = source
        self._head: Head | None = None
        self._kernel: Kernel | None = None

    @property
    def memory(self) -> RecordedMemory:
        """The guest's memory, with every read of it kept."""
        return self._recorder.memory

    def begin(self, kernel: Kernel, prepared: Prepared, time: int) -> None:
        """The kernel was found and the traps were compiled for it. All registers are kept, for other plugins' sake."""
        prepared.registers |= set(_REGISTERS)
        about = self._source.about
        self._kernel = kernel
        self._head = Head(
            host=about.host,
            guest=about.guest,
            uuid=about.uuid,
            xen=about.xen,
            vcpus=about.vcpus,
            uri=self._source.uri,
            size=self._source.memory.size,
            base=kernel.base,
            slide=kernel.slide,
            levels=kernel.levels,
            registers=[],
            places={place.function: place.address for place in prepared.places.values()},
            executes=bool(prepared.executes),
            profile={},
            begin=time,
        )
        self.note("open", time)

    def note(self, kind: str, time: int, *, text: str = "") -> None:
        """Write a moment."""
        self._recorder.note(kind, time, text=text)

    def hit(self, kind: str, time: int, vcpu: int = 0, place: int = 0, registers: Any = None, text: str = "") -> None:
        """Write a hit, when all of it was read."""
        if registers is None:
            self._recorder.note(kind, time, vcpu, place)
            return
        head = self._head
        assert head is not None  # noqa: S101  # `begin` comes first
        if not head.registers:
            head.registers = [name for name in registers._fields if name not in _LEFT_OUT]
            self._pick = [registers._fields.index(name) for name in head.registers]
        self._recorder.note(kind, time, vcpu, place, tuple([registers[index] for index in self._pick]), text)

    def end(self, time: int, outcome: str | None, paused_attach: int | None, paused_detach: int | None) -> None:
        """Complete the file."""
        if self._head is None or self._kernel is None:
            self._recorder.close()
            return
        self.note("end", time)
        head = self._head
        head.registers = head.registers or [*ALWAYS]
        head.profile = self._kernel.profile.subset()
        head.outcome = outcome
        head.paused_attach, head.paused_detach = paused_attach, paused_detach
        self._recorder.finish(head)
