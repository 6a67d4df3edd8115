# SPDX-License-Identifier: GPL-2.0-or-later
"""altp2m: other views of a guest's physical memory, with frames exchanged and rights of their own."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from drakmet.pyxen._lib import libraries

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType
    from typing import Self

    from drakmet.pyxen.control import Control

HOST_VIEW = 0
"""View 0 is the guest's memory as it is."""
_INVALID_GFN = (1 << 64) - 1


class Access(enum.IntEnum):
    """Rights on a frame (``xenmem_access_t``, xen/memory.h)."""

    N = 0
    R = 1
    W = 2
    RW = 3
    X = 4
    RX = 5
    WX = 6
    RWX = 7
    RX2RW = 8
    N2RWX = 9
    DEFAULT = 10


class Altp2m:
    """The views of one domain. `close` switches to view 0, destroys the views made here and turns altp2m off again.

    Frames that a view was remapped to must go after the views (see `Control.depopulate`).
    """

    def __init__(self, control: Control, domid: int) -> None:
        self._control = control
        self._ffi = libraries().ffi
        self.domid = domid
        self.views: list[int] = []
        self._turned_on = False
        self._call = control.call

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def active(self) -> bool:
        """Whether altp2m is on for the domain."""
        state = self._ffi.new("_Bool *")
        self._call("xc_altp2m_get_domain_state", self.domid, state)
        return bool(state[0])

    def turn_on(self) -> None:
        """Turn altp2m on; the guest's configuration must allow it (``altp2m="external"``)."""
        if not self.active:
            self._call("xc_altp2m_set_domain_state", self.domid, True)
            self._turned_on = True

    def turn_off(self) -> None:
        """Turn altp2m off: every view is gone and every vCPU in the guest's own memory."""
        self._call("xc_altp2m_set_domain_state", self.domid, False)
        self.views.clear()
        self._turned_on = False

    def create_view(self, access: Access = Access.RWX) -> int:
        """Return a new view.

        ``access`` holds for frames that are set in the view without rights of their own, and *not* for those that
        Xen copies from the guest's own memory as they are touched (4.17): use `set_access_many` for these.
        """
        view = self._ffi.new("uint16_t *")
        self._call("xc_altp2m_create_view", self.domid, int(access), view)
        self.views.append(int(view[0]))
        return int(view[0])

    def destroy_view(self, view: int) -> None:
        """Remove a view; EBUSY while a vCPU is in it."""
        self._call("xc_altp2m_destroy_view", self.domid, view)
        if view in self.views:
            self.views.remove(view)

    def switch(self, view: int) -> None:
        """Put every vCPU into ``view``; the domain is stopped for the moment it takes."""
        self._call("xc_altp2m_switch_to_view", self.domid, view)

    def view_of(self, vcpu: int) -> int:
        """Return the view a vCPU is in."""
        view = self._ffi.new("uint16_t *")
        self._call("xc_altp2m_get_vcpu_p2m_idx", self.domid, vcpu, view)
        return int(view[0])

    def change_gfn(self, view: int, old: int, new: int) -> None:
        """Show the frame ``new`` of the guest's own memory at ``old`` in ``view``, with the rights ``new`` has."""
        self._call("xc_altp2m_change_gfn", self.domid, view, old, new)

    def reset_gfn(self, view: int, gfn: int) -> None:
        """Show at ``gfn`` in ``view`` what the guest's own memory holds there, with its rights."""
        self._call("xc_altp2m_change_gfn", self.domid, view, gfn, _INVALID_GFN)

    def set_access(self, view: int, gfn: int, access: Access) -> None:
        """Set the rights on one frame in a view."""
        self._call("xc_altp2m_set_mem_access", self.domid, view, gfn, int(access))

    def set_access_many(self, view: int, gfns: Iterable[int], access: Access | Sequence[Access]) -> None:
        """Set the rights on many frames in a view, the same on all or one for each."""
        frames = list(gfns)
        rights = [int(access)] * len(frames) if isinstance(access, Access) else [int(one) for one in access]
        if len(rights) != len(frames):
            raise ValueError("one right for each frame is needed")
        if frames:
            self._call(
                "xc_altp2m_set_mem_access_multi",
                self.domid,
                view,
                self._ffi.new("uint8_t[]", rights),
                self._ffi.new("uint64_t[]", frames),
                len(frames),
            )

    def get_access(self, view: int, gfn: int) -> Access:
        """Return the rights on one frame in a view."""
        found = self._ffi.new("int *")
        self._call("xc_altp2m_get_mem_access", self.domid, view, gfn, found)
        return Access(found[0])

    def set_host_access(self, first: int, count: int, access: Access) -> None:
        """Set the rights on ``count`` frames of the guest's own memory; no altp2m is needed for it."""
        self._call("xc_set_mem_access", self.domid, int(access), first, count)

    def get_host_access(self, gfn: int) -> Access:
        """Return the rights on a frame of the guest's own memory."""
        found = self._ffi.new("int *")
        self._call("xc_get_mem_access", self.domid, gfn, found)
        return Access(found[0])

    def close(self) -> None:
        """Leave no view behind; a second call does nothing."""
        if self.views:
            self.switch(HOST_VIEW)
            for view in list(self.views):
                self.destroy_view(view)
        if self._turned_on:
            self.turn_off()
