# SPDX-License-Identifier: GPL-2.0-or-later
"""The event channel that tells of events in the ring, and that Xen is told of answers through."""

from __future__ import annotations

import fcntl
import os
import select
import struct
from typing import TYPE_CHECKING, Any

from drakmet.pyxen._lib import libraries
from drakmet.pyxen.failures import XenCallError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_PORT = struct.Struct("=I")
# linux/include/uapi/xen/evtchn.h: _IOC(_IOC_NONE, 'E', 4, sizeof(unsigned int)); what xenevtchn_notify calls
_IOCTL_NOTIFY = 4 << 16 | ord("E") << 8 | 4


class Channel:
    """One end of an interdomain event channel, bound to a domain's port.

    `wait`, `unmask` and `notify` are one system call each, on the file itself, as libxenevtchn makes them.
    """

    def __init__(self, domid: int, remote_port: int) -> None:
        shared = libraries()
        self._ffi = shared.ffi
        self._library = shared.evtchn
        self.domid = domid
        handle = self._library.xenevtchn_open(shared.quiet, 0)
        if handle == self._ffi.NULL:
            raise XenCallError("xenevtchn_open", self._ffi.errno)
        self._handle: Any = handle
        port = self._library.xenevtchn_bind_interdomain(handle, domid, remote_port)
        if port < 0:
            number = self._ffi.errno
            self.close()
            raise XenCallError("xenevtchn_bind_interdomain", number, domain=domid)
        self.port: int = port
        self.fd: int = self._library.xenevtchn_fd(handle)
        self._bytes = _PORT.pack(port)
        self._bound = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def wait(self) -> None:
        """Block until the channel was notified. The port then stays masked until `unmask`.

        Signal handlers run meanwhile, and what they raise ends the wait.
        """
        os.read(self.fd, 4)

    def poll(self, seconds: float | None) -> bool:
        """Wait up to ``seconds`` (None: for ever) for a notification; if one came, return True: `unmask` is due."""
        if select.select([self.fd], [], [], seconds)[0]:
            os.read(self.fd, 4)
            return True
        return False

    def unmask(self) -> None:
        """Let the next notification through; before the ring is looked at for the last time, so that none is lost."""
        os.write(self.fd, self._bytes)

    def notify(self) -> None:
        """Tell Xen that the ring holds answers."""
        fcntl.ioctl(self.fd, _IOCTL_NOTIFY, self._bytes)

    def close(self) -> None:
        """Unbind the port and close the file; a second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        if getattr(self, "_bound", False):
            self._bound = False
            self._library.xenevtchn_unbind(handle, self.port)
        self.fd = -1
        self._library.xenevtchn_close(handle)
