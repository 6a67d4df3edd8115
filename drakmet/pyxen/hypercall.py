# SPDX-License-Identifier: GPL-2.0-or-later
"""Telling Xen and giving the guest the CPU in one call, for a monitor that does not sleep while events come.

To block in read(2) costs two switches of Linux' scheduler and an interrupt for each event, a third of all that a trap
costs. To yield the virtual CPU in Xen instead costs one hypercall: where dom0 shares a CPU with the guest, it runs and
comes back with the next event; where it does not, the call returns at once.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
from functools import partial
from typing import TYPE_CHECKING

from drakmet.pyxen._lib import libraries

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

_HYPERCALL_DEVICE = "/dev/xen/hypercall"
"""Memory from here stays where it is, as a hypercall's argument must."""
_PRIVCMD = "/dev/xen/privcmd"
# linux/include/uapi/xen/privcmd.h: _IOC(_IOC_NONE, 'P', 0, sizeof(struct privcmd_hypercall)); op and five arguments
_IOCTL_HYPERCALL = 48 << 16 | ord("P") << 8
_HYPERCALL = struct.Struct("=6Q")
# xen/xen.h, event_channel.h, sched.h
_MULTICALL, _SCHED_OP, _EVENT_CHANNEL_OP = 13, 29, 32
_EVTCHNOP_SEND, _SCHEDOP_YIELD = 4, 0
_ENTRY = struct.Struct("=8Q")  # struct multicall_entry: op, result, args[6]
_SEND_AT = 256


class Yielder:
    """Hypercalls for one event channel port: `send` tells Xen, `hand_over` also yields, `give_way` only yields."""

    def __init__(self, port: int) -> None:
        self.fd = -1
        device = os.open(_HYPERCALL_DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._page = mmap.mmap(device, mmap.PAGESIZE)
        finally:
            os.close(device)
        ffi = libraries().ffi
        with memoryview(self._page) as view:
            address = int(ffi.cast("uintptr_t", ffi.from_buffer(view)))
        _ENTRY.pack_into(self._page, 0, _EVENT_CHANNEL_OP, 0, _EVTCHNOP_SEND, address + _SEND_AT, 0, 0, 0, 0)
        _ENTRY.pack_into(self._page, _ENTRY.size, _SCHED_OP, 0, _SCHEDOP_YIELD, 0, 0, 0, 0, 0)
        struct.pack_into("=I", self._page, _SEND_AT, port)
        # Writable ones: what is not, fcntl.ioctl finds out through an exception that it makes and drops.
        send = bytearray(_HYPERCALL.pack(_EVENT_CHANNEL_OP, _EVTCHNOP_SEND, address + _SEND_AT, 0, 0, 0))
        both = bytearray(_HYPERCALL.pack(_MULTICALL, address, 2, 0, 0, 0))
        give_way = bytearray(_HYPERCALL.pack(_SCHED_OP, _SCHEDOP_YIELD, 0, 0, 0, 0))
        self.fd = os.open(_PRIVCMD, os.O_RDWR | os.O_CLOEXEC)
        # These run at every hit, so no Python stands between them and the system call.
        self.send: Callable[[], object] = partial(fcntl.ioctl, self.fd, _IOCTL_HYPERCALL, send)
        """Notify Xen of answers."""
        self.hand_over: Callable[[], object] = partial(fcntl.ioctl, self.fd, _IOCTL_HYPERCALL, both)
        """Notify Xen of answers, then give way."""
        self.give_way: Callable[[], object] = partial(fcntl.ioctl, self.fd, _IOCTL_HYPERCALL, give_way)
        """Let others have the CPU, and return when they gave it back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the device; a second call does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            self.send = self.hand_over = self.give_way = _refuse  # the number of the file may soon be another file's
            os.close(fd)
            self._page.close()


def _refuse() -> None:
    raise OSError(errno.EBADF, os.strerror(errno.EBADF))
