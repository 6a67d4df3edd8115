# SPDX-License-Identifier: GPL-2.0-or-later
"""What is being sent: the bytes behind a struct msghdr's iov_iter, whose layout differs from kernel to kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drakmet.guest.layout import Slice, first
from drakmet.guest.memory import Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet.guest.kernel import Kernel

_MAX_SEGMENTS: Final = 64
_DIRECTION: Final = 1  # up to 5.13 the low bit of iov_iter.type tells reading from writing


class Payloads:
    """Reads messages of one kernel; ``read`` takes an address, a length and the process' CR3."""

    def __init__(self, kernel: Kernel, read: Callable[[int, int, int], bytes]) -> None:
        types = kernel.profile.types
        self._space = kernel.space
        self._read = read
        self.iter_offset = types.offset("msghdr", "msg_iter")
        kind = first(types, "iov_iter", "iter_type", "type")
        segments = first(types, "iov_iter", "__iov", "iov")
        self._kinds = types.enum("iter_type")
        self._has_direction = kind == "type"
        self._iter = [Slice(types, "iov_iter", name) for name in (kind, "iov_offset", "count", segments, "nr_segs")]
        self._iovec = Slice(types, "iovec", "iov_base", "iov_len")

    def of_message(self, msghdr: int, limit: int, cr3: int) -> bytes:
        """Return the first ``limit`` bytes of what the ``struct msghdr`` (of the kernel) at ``msghdr`` sends."""
        return self.of_iter(msghdr + self.iter_offset, limit, cr3)

    def of_iter(self, address: int, limit: int, cr3: int) -> bytes:
        """Return the first ``limit`` bytes that the ``struct iov_iter`` at ``address`` goes over."""
        kind, skip, count, segments, number = (one.read(self._space, address)[0] for one in self._iter)
        if self._has_direction:
            kind &= ~_DIRECTION
        left = min(count, limit)
        if kind == self._kinds.get("ITER_UBUF"):
            return self._read(segments + skip, left, cr3)
        if kind not in (self._kinds.get("ITER_IOVEC"), self._kinds.get("ITER_KVEC")):
            raise Unreadable("what is sent is not in the process' memory")
        parts = []
        for i in range(min(number, _MAX_SEGMENTS)):
            if left <= 0:
                break
            base, length = self._iovec.unpack(self._read(segments + i * self._iovec.length, self._iovec.length, cr3))
            if skip >= length:
                skip -= length
                continue
            step = min(length - skip, left)
            parts.append(self._read(base + skip, step, cr3))
            left -= step
            skip = 0
        return b"".join(parts)
