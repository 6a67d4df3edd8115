# SPDX-License-Identifier: GPL-2.0-or-later
"""Turning a guest's event ring and its kinds of events on and off."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, Any

from drakmet.errors import XenError
from drakmet.pyxen import _memory
from drakmet.pyxen._lib import libraries
from drakmet.pyxen.control import HVM_PARAM_MONITOR_RING_PFN
from drakmet.pyxen.failures import XenCallError
from drakmet.pyxen.foreign import ForeignMemory
from drakmet.pyxen.layout import INTERFACE_VERSION, PAGE_SIZE, ControlRegister
from drakmet.pyxen.ring import Ring

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from drakmet.pyxen.control import Control

# Bits of the capabilities: xen/domctl.h, XEN_DOMCTL_MONITOR_EVENT_*
SINGLESTEP, SOFTWARE_BREAKPOINT = 1 << 2, 1 << 3


class Monitor:
    """The event ring of one domain; the domain should be paused while it is made.

    `close` turns off what was turned on here and gives the ring back. Views that bar access should be gone by then,
    no answer outstanding, and the domain paused.
    """

    def __init__(self, control: Control, domid: int) -> None:
        self._control = control
        self._ffi = libraries().ffi
        self.domid = domid
        self._page: Any = None
        self._on: dict[str, tuple[Any, ...]] = {}
        version = control.event_version()
        if version != INTERFACE_VERSION:
            raise XenError(
                f"Xen's event interface has version {version}, drakmet knows {INTERFACE_VERSION}",
                hint="Use a Xen from 4.17 to 4.20, or a newer drakmet.",
            )
        self._ring_gfn = control.hvm_param(domid, HVM_PARAM_MONITOR_RING_PFN)
        self.gives_page_back = self._has_ring_page()
        """Whether `close` gives the guest a frame for the next ring: Xen takes the one it has, for good."""
        port = self._ffi.new("uint32_t *")
        with control.pausing(domid):  # libxenctrl does, while it takes the page out of the guest
            page = libraries().ctrl.xc_monitor_enable(control.handle, domid, port)
            number = self._ffi.errno
        if page == self._ffi.NULL:
            if not self.gives_page_back and self._has_ring_page():
                # libxenctrl gives the guest a page before it asks Xen, and leaves it there when Xen refuses
                control.depopulate(domid, [self._ring_gfn])
            raise XenCallError("xc_monitor_enable", number, domain=domid)
        self._page = page
        self.port: int = int(port[0])
        """Xen's end of the event channel, for `Channel`."""
        self.ring = Ring(self._ffi.buffer(page, PAGE_SIZE))
        self.ring.initialise()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _has_ring_page(self) -> bool:
        with ForeignMemory() as foreign, foreign.map(self.domid, [self._ring_gfn]) as page:
            return not page.errors

    @property
    def capabilities(self) -> int:
        """What this domain can report, a bit for each ``XEN_DOMCTL_MONITOR_EVENT_*``."""
        found = self._ffi.new("uint32_t *")
        self._control.call("xc_monitor_get_capabilities", self.domid, found)
        return int(found[0])

    def _set(self, name: str, on: bool, key: tuple[Any, ...], *rest: Any) -> None:
        """Turn one kind on or off; what is on is remembered, with its arguments, for `close`."""
        try:
            self._control.call(name, self.domid, *key, on, *rest)
        except XenCallError as error:
            if error.errno != errno.EEXIST:  # it is as asked already
                raise
        if on:
            self._on[name + repr(key)] = (name, key, rest)
        else:
            self._on.pop(name + repr(key), None)

    def software_breakpoint(self, on: bool = True) -> None:
        """Report int3 to us and not to the guest."""
        self._set("xc_monitor_software_breakpoint", on, ())

    def singlestep(self, on: bool = True) -> None:
        """Report single steps; needed for the fast ones too, which come without an event."""
        self._set("xc_monitor_singlestep", on, ())

    def write_control_register(
        self, register: ControlRegister, on: bool = True, *, sync: bool = True, only_changes: bool = True, mask: int = 0
    ) -> None:
        """Report writes to a control register; ``mask`` names bits whose changes do not matter."""
        self._set("xc_monitor_write_ctrlreg", on, (int(register),), sync, mask, only_changes)

    def mov_to_msr(self, msr: int, on: bool = True, *, only_changes: bool = True) -> None:
        """Report writes to a model-specific register."""
        self._set("xc_monitor_mov_to_msr", on, (msr,), only_changes)

    def guest_request(self, on: bool = True, *, sync: bool = True, from_user_space: bool = False) -> None:
        """Report the guest's own requests for an event."""
        self._set("xc_monitor_guest_request", on, (), sync, from_user_space)

    def debug_exceptions(self, on: bool = True, *, sync: bool = True) -> None:
        """Report #DB."""
        self._set("xc_monitor_debug_exceptions", on, (), sync)

    def cpuid(self, on: bool = True) -> None:
        """Report CPUID."""
        self._set("xc_monitor_cpuid", on, ())

    def resume(self) -> None:
        """Have Xen take the answers in the ring, where no event channel is bound to notify it through."""
        self._control.call("xc_monitor_resume", self.domid)

    def events_off(self) -> None:
        """Turn off every kind that was turned on here; events under way still come."""
        for name, key, rest in list(self._on.values()):
            self._set(name, False, key, *rest)

    def forget(self) -> None:
        """Let the page go and ask nothing of Xen: the ring was taken away."""
        page, self._page = self._page, None
        if page is not None:
            _memory.blank(int(self._ffi.cast("uintptr_t", page)), PAGE_SIZE, writable=True)

    def close(self) -> None:
        """Give the ring back; a second call does nothing."""
        page, self._page = self._page, None
        if page is None:
            return
        try:
            self.events_off()
        finally:
            try:
                self._control.call("xc_monitor_disable", self.domid)
            finally:
                # The page is the guest's until it is unmapped. Views of it may still be about, so that its address
                # stays readable: as a page of zeros.
                _memory.blank(int(self._ffi.cast("uintptr_t", page)), PAGE_SIZE, writable=True)
                if self.gives_page_back and not self._has_ring_page():
                    with contextlib.suppress(XenCallError):  # at its limit; the next monitor has Xen give it one
                        self._control.populate(self.domid, [self._ring_gfn])
