# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that LibVMI opens, ``vmi:FILE`` or ``vmi:DOMAIN``, through the package libvmi (the extra ``vmi``)."""

from __future__ import annotations

import contextlib
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from drakmet.errors import DrakmetError, UsageError
from drakmet.guest import kernel as kernels
from drakmet.guest.memory import missing
from drakmet.guest.profile import ProfileCache
from drakmet.sources.base import About

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from drakmet.guest.kernel import Kernel
    from drakmet.guest.memory import PhysicalMemory
    from drakmet.guest.profile import Profile

_U64 = struct.Struct("<Q")
_MOST_AT_ONCE: Final = 1 << 20


class VmiMemory:
    """Guest-physical memory through LibVMI."""

    def __init__(self, vmi: Any, error: type[Exception]) -> None:
        self._vmi = vmi
        self._error = error
        self._size: int = vmi.get_max_physical_address()

    @property
    def size(self) -> int:
        """One past the highest guest-physical address."""
        return self._size

    def read(self, gpa: int, length: int) -> bytes:
        """Return exactly ``length`` bytes at ``gpa``."""
        if gpa < 0 or length < 0 or gpa + length > self._size:
            raise missing(gpa, length)
        parts: list[bytes] = []
        at, end = gpa, gpa + length
        while at < end:
            step = min(end - at, _MOST_AT_ONCE)
            try:
                data, count = self._vmi.read_pa(at, step)
            except self._error as error:
                raise missing(gpa, length) from error
            if count != step:
                raise missing(gpa, length)
            parts.append(data)
            at += step
        return b"".join(parts)

    def read_u64(self, gpa: int) -> int:
        """Return the 64-bit word at ``gpa``."""
        value: int = _U64.unpack(self.read(gpa, 8))[0]
        return value


class VmiSource:
    """A file of a guest's memory, or a domain of any hypervisor that this LibVMI was built for."""

    def __init__(self, name: str) -> None:
        self.uri = f"vmi:{name}"
        try:
            import libvmi
        except ImportError as error:
            raise UsageError(
                f"LibVMI cannot be used: {error}", where=self.uri, hint="pip install 'drakmet[vmi]' installs it"
            ) from error
        is_file = Path(name).is_file()
        try:
            self._vmi = libvmi.Libvmi(name, mode=libvmi.VMIMode.FILE if is_file else None, partial=True)
        except (libvmi.LibvmiError, ValueError, RuntimeError) as error:
            raise DrakmetError(f"LibVMI cannot open it: {error}", where=self.uri) from error
        self._error: type[Exception] = libvmi.LibvmiError
        self.moves = not is_file
        self.memory: PhysicalMemory = VmiMemory(self._vmi, self._error)
        self.about = About(host=socket.gethostname(), guest=Path(name).name)
        self.profiles: Sequence[Profile] = ()
        self.paused = None if is_file else self._paused

    @contextlib.contextmanager
    def _pausing(self) -> Iterator[None]:
        self._vmi.pause_vm()
        try:
            yield
        finally:
            self._vmi.resume_vm()

    def _paused(self) -> AbstractContextManager[object]:
        return self._pausing()

    def kernel(self, memory: PhysicalMemory | None = None) -> Kernel:
        """Return the guest's kernel, found by drakmet itself: LibVMI needs no configuration."""
        found = kernels.find(self.memory, profiles=self.profiles, cache=ProfileCache())
        if memory is None:
            return found
        return kernels.Kernel(found.profile, memory, found.base, found.slide, found.levels)

    def close(self) -> None:
        """Let the guest go."""
        vmi, self._vmi = self._vmi, None
        if vmi is not None:
            with contextlib.suppress(self._error):
                vmi.destroy()
