# SPDX-License-Identifier: GPL-2.0-or-later
"""xenstore: the names of domains, and what else their toolstack writes down."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from drakmet.errors import UsageError
from drakmet.pyxen._lib import libraries
from drakmet.pyxen.failures import XenCallError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_MAX_VALUE = 4096  # XENSTORE_PAYLOAD_MAX, xen/io/xs_wire.h


class Xenstore:
    """A connection to xenstored; `close` may be called twice."""

    def __init__(self) -> None:
        shared = libraries()
        self._ffi = shared.ffi
        self._library = shared.store
        self._free = shared.libc.free
        handle = self._library.xs_open(0)
        if handle == self._ffi.NULL:
            raise XenCallError("xs_open", self._ffi.errno)
        self._handle: Any = handle

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._library.xs_close(handle)

    @property
    def handle(self) -> Any:
        """The raw ``struct xs_handle *``."""
        if self._handle is None:
            raise XenCallError("xenstore (closed)", errno.EBADF)
        return self._handle

    def read(self, path: str) -> bytes | None:
        """Return the value at ``path``, None if there is none."""
        length = self._ffi.new("unsigned int *")
        value = self._library.xs_read(self.handle, 0, path.encode(), length)
        if value == self._ffi.NULL:
            if self._ffi.errno == errno.ENOENT:
                return None
            raise XenCallError("xs_read", self._ffi.errno, detail=path)
        try:
            return bytes(self._ffi.buffer(value, min(length[0], _MAX_VALUE)))
        finally:
            self._free(value)

    def read_text(self, path: str) -> str | None:
        """Return the value at ``path`` as text; what is no UTF-8 is kept in surrogates."""
        value = self.read(path)
        return None if value is None else value.decode("utf-8", "surrogateescape")

    def list(self, path: str) -> list[str]:
        """Return the names below ``path``, none if it does not exist."""
        count = self._ffi.new("unsigned int *")
        names = self._library.xs_directory(self.handle, 0, path.encode(), count)
        if names == self._ffi.NULL:
            if self._ffi.errno == errno.ENOENT:
                return []
            raise XenCallError("xs_directory", self._ffi.errno, detail=path)
        try:
            return [self._ffi.string(names[index]).decode("utf-8", "surrogateescape") for index in range(count[0])]
        finally:
            self._free(names)

    def write(self, path: str, value: bytes) -> None:
        """Set the value at ``path``."""
        if not self._library.xs_write(self.handle, 0, path.encode(), value, len(value)):
            raise XenCallError("xs_write", self._ffi.errno, detail=path)

    def remove(self, path: str) -> None:
        """Remove what is at ``path`` and below, if it is there."""
        if not self._library.xs_rm(self.handle, 0, path.encode()) and self._ffi.errno != errno.ENOENT:
            raise XenCallError("xs_rm", self._ffi.errno, detail=path)

    def name_of(self, domid: int) -> str | None:
        """Return a domain's name, None if it has none."""
        return self.read_text(f"/local/domain/{domid}/name")

    def names(self) -> dict[int, str]:
        """Return the name of each domain that has one."""
        found = {}
        for entry in self.list("/local/domain"):
            if entry.isdecimal():
                name = self.name_of(int(entry))
                if name is not None:
                    found[int(entry)] = name
        return found

    def find(self, guest: str) -> int:
        """Return the id of the guest that is called ``guest``, or that has this id if it is a number and no name."""
        names = self.names()
        for domid, name in names.items():
            if name == guest:
                return domid
        if guest.isdecimal() and int(guest) in names:
            return int(guest)
        known = ", ".join(sorted(name for domid, name in names.items() if domid)) or "none runs"
        raise UsageError(f"there is no guest {guest!r} on this host", hint=f"Guests: {known}. `xl list` shows them.")
