# SPDX-License-Identifier: GPL-2.0-or-later
"""The event channel that tells of events in the ring, and that Xen is told of answers through."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
from itertools import repeat
from typing import TYPE_CHECKING, Any

from drakmet.pyxen._lib import libraries
from drakmet.pyxen.failures import XenCallError
from drakmet.pyxen.hypercall import Yielder
from drakmet.pyxen.patience import Patience
from drakmet.pyxen.ring import REQ_PROD

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from drakmet.pyxen.ring import Ring

_PORT = struct.Struct("=I")
# linux/include/uapi/xen/evtchn.h: _IOC(_IOC_NONE, 'E', 4, sizeof(unsigned int)); what xenevtchn_notify calls
_IOCTL_NOTIFY = 4 << 16 | ord("E") << 8 | 4


class Channel:
    """One end of an interdomain event channel, bound to a domain's port.

    The quick loop is made of two calls::

        while channel.wait_for(ring, seconds):
            ...  # take and answer what is in the ring
            ring.push()
            channel.hand_over()

    `wait`, `poll`, `unmask` and `notify` are the plain steps these are made of, one system call each on the file
    itself, as libxenevtchn makes them: use the one set or the other.
    """

    def __init__(self, domid: int, remote_port: int, *, yields: int = 5, poll: float = 0) -> None:
        """Bind to ``remote_port``.

        ``poll`` is for how many seconds to look for an event before giving the CPU away (0: not at all), ``yields``
        how often to give it to others before sleeping.
        """
        shared = libraries()
        self._ffi = shared.ffi
        self._library = shared.evtchn
        self.domid = domid
        self.fd: int = -1
        self._bound = False
        self._yielder: Yielder | None = None
        handle = self._library.xenevtchn_open(shared.quiet, 0)
        if handle == self._ffi.NULL:
            raise XenCallError("xenevtchn_open", self._ffi.errno)
        self._handle: Any = handle
        port = self._library.xenevtchn_bind_interdomain(handle, domid, remote_port)
        if port < 0:
            number = self._ffi.errno
            self.close()
            raise XenCallError("xenevtchn_bind_interdomain", number, domain=domid)
        self._bound = True
        self.port: int = port
        self.fd = self._library.xenevtchn_fd(handle)
        self._bytes = _PORT.pack(port)
        self._masked = False
        self._poller = select.poll()
        self._poller.register(self.fd, select.POLLIN)
        self.yields = yields
        self.patience = Patience(poll)
        if yields:
            with contextlib.suppress(OSError):  # an old kernel, or a policy: then it goes without
                self._yielder = Yielder(port)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def wait_for(self, ring: Ring, seconds: float | None) -> bool:
        """Wait up to ``seconds`` (None: for ever) for a request; return whether there is one.

        While events come one after the other this does not sleep: with the channel masked, it looks again for a while
        (`Patience`), then yields the CPU in Xen a few times, before it unmasks it and sleeps until the kernel wakes it.
        """
        ints = ring.ints
        if ints[REQ_PROD] != ring.taken:
            return True
        if self._masked:
            asked, taken = REQ_PROD, ring.taken
            if rounds := self.patience.begin(taken):
                for _ in repeat(None, rounds):
                    if ints[asked] != taken:
                        return True
                self.patience.missed(taken)
            if self._yielder is not None:
                give_way, taken = self._yielder.give_way, ring.taken
                with contextlib.suppress(OSError):
                    for _ in range(self.yields):
                        give_way()
                        if ints[REQ_PROD] != taken:
                            return True
            self._masked = False
            os.write(self.fd, self._bytes)
            if ints[REQ_PROD] != ring.taken:  # came before it was unmasked: the kernel tells of it later, for nothing
                return True
        if self._poller.poll(None if seconds is None else seconds * 1000):
            os.read(self.fd, 4)
            self._masked = True
        return ints[REQ_PROD] != ring.taken

    def hand_over(self) -> None:
        """Tell Xen that the ring holds answers, and let the guest run with them."""
        yielder = self._yielder
        if yielder is not None and self._masked:
            try:
                if self.patience.rounds:
                    yielder.send()
                else:
                    yielder.hand_over()
            except OSError:  # refused after all; that the answers are told of twice does no harm
                yielder.close()
                self._yielder = None
            else:
                return
        fcntl.ioctl(self.fd, _IOCTL_NOTIFY, self._bytes)

    def wait(self) -> None:
        """Block until the channel was notified. The port then stays masked until `unmask`.

        Signal handlers run meanwhile, and what they raise ends the wait.
        """
        os.read(self.fd, 4)
        self._masked = True

    def poll(self, seconds: float | None) -> bool:
        """Wait up to ``seconds`` (None: for ever) for a notification; if one came, return True: `unmask` is due."""
        if self._poller.poll(None if seconds is None else seconds * 1000):
            os.read(self.fd, 4)
            self._masked = True
            return True
        return False

    def unmask(self) -> None:
        """Let the next notification through; before the ring is looked at for the last time, so that none is lost."""
        os.write(self.fd, self._bytes)
        self._masked = False

    def notify(self) -> None:
        """Tell Xen that the ring holds answers."""
        fcntl.ioctl(self.fd, _IOCTL_NOTIFY, self._bytes)

    def close(self) -> None:
        """Unbind the port and close the file; a second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        if self._yielder is not None:
            self._yielder.close()
        if self._bound:
            self._bound = False
            self._library.xenevtchn_unbind(handle, self.port)
        self.fd = -1
        self._library.xenevtchn_close(handle)
