# SPDX-License-Identifier: GPL-2.0-or-later
"""Domains: finding, pausing, inspecting and resizing them, through libxenctrl."""

from __future__ import annotations

import contextlib
import errno
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

from drakmet.pyxen._lib import libraries
from drakmet.pyxen.failures import XenCallError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from drakmet.pyxen import registers
    from drakmet.pyxen.ledger import Ledger

DOM0 = 0
MAX_DOMAINS = 32752
"""Domain ids from DOMID_FIRST_RESERVED (0x7FF0) on are not guests (xen/xen.h)."""

# xen/domctl.h, XEN_DOMINF_*
_DYING, _HVM, _SHUTDOWN, _PAUSED, _BLOCKED, _RUNNING, _HAP = (1 << bit for bit in (0, 1, 2, 3, 4, 5, 8))
_SHUTDOWN_SHIFT = 16
_REASON_MASK = 255

# xen/version.h, XENVER_*
_VER_VERSION, _VER_EXTRA, _VER_CAPABILITIES = 0, 1, 3
_HVM_SAVE_CPU = 2  # xen/arch-x86/hvm/save.h
_SINGLE_STEP_OFF = 0  # xen/domctl.h, XEN_DOMCTL_DEBUG_OP_SINGLE_STEP_OFF
HVM_PARAM_MONITOR_RING_PFN = 28  # xen/hvm/params.h
HVM_PARAM_ALTP2M = 35


class DomainInfo(NamedTuple):
    """One domain as Xen describes it; pages are of 4 KiB, ``cpu_time`` in nanoseconds."""

    domid: int
    hvm: bool
    hap: bool
    dying: bool
    shutdown: bool
    shutdown_reason: int
    paused: bool
    blocked: bool
    running: bool
    tot_pages: int
    max_pages: int
    cpu_time: int
    online_vcpus: int
    max_vcpu_id: int
    handle: uuid.UUID

    @property
    def max_memkb(self) -> int:
        """The memory limit, as `Control.set_max_memkb` takes it."""
        return self.max_pages * 4

    @property
    def vcpus(self) -> int:
        """How many vCPUs the domain has, online or not."""
        return self.max_vcpu_id + 1


class VcpuInfo(NamedTuple):
    """One vCPU; ``cpu_time`` in nanoseconds, ``cpu`` the physical CPU it is or was on."""

    online: bool
    blocked: bool
    running: bool
    cpu_time: int
    cpu: int


class HostInfo(NamedTuple):
    """The host: CPUs and memory, pages of 4 KiB."""

    cpus: int
    cpu_khz: int
    total_pages: int
    free_pages: int
    hvm: bool


class Control:
    """A handle on libxenctrl. Use it as a context manager, or call `close`, which may be called twice.

    `close` also unpauses what this handle paused and did not unpause: no way of ending leaves a guest stopped.
    """

    def __init__(self) -> None:
        self._libraries = libraries()
        self._ctrl = self._libraries.ctrl
        self._ffi = self._libraries.ffi
        handle = self._ctrl.xc_interface_open(self._libraries.quiet, self._libraries.quiet, 0)
        if handle == self._ffi.NULL:
            raise XenCallError("xc_interface_open", self._ffi.errno)
        self._handle: Any = handle
        self._pauses: dict[int, int] = {}
        self._paused_by_others = False
        self.ledger: Ledger | None = None
        """Where pauses of its guest are noted, for who has to undo them if this process is killed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Undo the pauses that are left and close the handle."""
        if self._handle is None:
            return
        for domid, count in self._pauses.items():
            for _ in range(count):
                self._ctrl.xc_domain_unpause(self._handle, domid)
        self._pauses.clear()
        handle, self._handle = self._handle, None
        self._ctrl.xc_interface_close(handle)

    @property
    def handle(self) -> Any:
        """The raw ``xc_interface *``."""
        if self._handle is None:
            raise XenCallError("xc_interface (closed)", errno.EBADF)
        return self._handle

    def check(self, result: int, call: str, domid: int | None = None) -> int:
        """Return ``result`` of a libxenctrl call, or raise what its failure means."""
        if result >= 0:
            return result
        number = self._ffi.errno
        raise XenCallError(call, number, domain=domid, detail=self._detail())

    def _detail(self) -> str | None:
        """Return libxenctrl's own words on the last failure, if it has any."""
        if self._handle is None:
            return None
        error = self._ctrl.xc_get_last_error(self._handle)
        if error == self._ffi.NULL or error.code == 0:
            return None
        text: str = self._ffi.string(error.message).decode("utf-8", "replace").strip()
        self._ctrl.xc_clear_last_error(self._handle)
        return text or None

    def call(self, name: str, domid: int, *args: Any) -> int:
        """Call libxenctrl's ``name(handle, domid, *args)`` and check its result."""
        return self.check(getattr(self._ctrl, name)(self.handle, domid, *args), name, domid)

    # domains

    def domains(self) -> list[DomainInfo]:
        """Return every domain, in the order of their ids."""
        found, first = [], 0
        while first < MAX_DOMAINS:
            info = self._info(first)
            if info is None:
                break
            found.append(info)
            first = info.domid + 1
        return found

    def domain(self, domid: int) -> DomainInfo:
        """Return one domain; ESRCH if there is none of this id."""
        info = self._info(domid)
        if info is None or info.domid != domid:
            raise XenCallError("xc_domain_getinfolist", errno.ESRCH, domain=domid)
        return info

    def _info(self, first: int) -> DomainInfo | None:
        """Return the domain with the lowest id from ``first`` on.

        xc_domain_getinfolist is in every version, while xc_domain_getinfo ended with 4.17; asked for one domain
        at a time, the size of its structure does not matter.
        """
        raw = self._ffi.new("xc_domaininfo_t *")
        result = self._ctrl.xc_domain_getinfolist(self.handle, first, 1, raw)
        if self.check(result, "xc_domain_getinfolist") == 0:
            return None
        flags = raw.flags
        return DomainInfo(
            domid=raw.domain,
            hvm=bool(flags & _HVM),
            hap=bool(flags & _HAP),
            dying=bool(flags & _DYING),
            shutdown=bool(flags & _SHUTDOWN),
            shutdown_reason=flags >> _SHUTDOWN_SHIFT & _REASON_MASK,
            paused=bool(flags & _PAUSED),
            blocked=bool(flags & _BLOCKED),
            running=bool(flags & _RUNNING),
            tot_pages=raw.tot_pages,
            max_pages=raw.max_pages,
            cpu_time=raw.cpu_time,
            online_vcpus=raw.nr_online_vcpus,
            max_vcpu_id=raw.max_vcpu_id,
            handle=uuid.UUID(bytes=bytes(raw.handle)),
        )

    def pause(self, domid: int) -> None:
        """Stop a domain; pauses count, each wants its `unpause`. On return no vCPU runs any more."""
        with self.pausing(domid):
            self.call("xc_domain_pause", domid)
            self._pauses[domid] = self._pauses.get(domid, 0) + 1

    def unpause(self, domid: int) -> None:
        """Undo one `pause`."""
        left = self._pauses.get(domid, 0) - 1
        if left > 0:
            self._pauses[domid] = left
        else:
            self._pauses.pop(domid, None)
        with self.pausing(domid):
            self.call("xc_domain_unpause", domid)

    @contextlib.contextmanager
    def pausing(self, domid: int) -> Iterator[None]:
        """Note that a call is under way that pauses or unpauses the domain, and what came of it."""
        ledger = self.ledger
        if ledger is None or ledger.domid != domid:
            yield
            return
        if not ledger.pauses:
            self._paused_by_others = self.domain(domid).paused
        ledger.pausing = not self._paused_by_others
        ledger.pauses = min(ledger.pauses, self._pauses.get(domid, 0))
        try:
            yield
        finally:
            ledger.pauses = self._pauses.get(domid, 0)
            ledger.pausing = False

    @contextlib.contextmanager
    def paused(self, domid: int) -> Iterator[None]:
        """Keep a domain stopped for the time of the ``with`` block."""
        self.pause(domid)
        try:
            yield
        finally:
            if self._handle is not None:
                self.unpause(domid)

    # vCPUs

    def vcpu_info(self, domid: int, vcpu: int) -> VcpuInfo:
        """Return whether a vCPU runs, and its CPU time."""
        raw = self._ffi.new("xc_vcpuinfo_t *")
        self.call("xc_vcpu_getinfo", domid, vcpu, raw)
        return VcpuInfo(bool(raw.online), bool(raw.blocked), bool(raw.running), raw.cpu_time, raw.cpu)

    def registers(self, domid: int, vcpu: int) -> registers.Registers:
        """Return an HVM or PVH vCPU's registers; pause the domain first for values that stay true."""
        from drakmet.pyxen import registers

        buffer = self._ffi.new("uint8_t[]", registers.HVM_CPU_SIZE)
        self.call("xc_domain_hvm_getcontext_partial", domid, _HVM_SAVE_CPU, vcpu, buffer, registers.HVM_CPU_SIZE)
        return registers.from_saved(self._ffi.buffer(buffer))

    def single_step_off(self, domid: int, vcpu: int) -> None:
        """End any single-step of a vCPU, also a fast one that is under way."""
        self.call("xc_domain_debug_control", domid, _SINGLE_STEP_OFF, vcpu)

    def inject_trap(
        self,
        domid: int,
        vcpu: int,
        vector: int,
        kind: int,
        *,
        length: int = 0,
        error_code: int = 0xFFFFFFFF,
        cr2: int = 0,
    ) -> None:
        """Have a vCPU take an exception when it next runs.

        ``kind`` is HVMOP_TRAP_* (3 hardware exception, 6 software exception: int3 and into), ``length`` the
        instruction's, which software exceptions need; ``error_code`` 0xFFFFFFFF is none.
        """
        self.call("xc_hvm_inject_trap", domid, vcpu, vector, kind, error_code, length, cr2)

    # memory

    def max_gpfn(self, domid: int) -> int:
        """Return the highest guest frame number in use (special frames below 4 GiB included)."""
        found = self._ffi.new("xen_pfn_t *")
        self.call("xc_domain_maximum_gpfn", domid, found)
        return int(found[0])

    def set_max_memkb(self, domid: int, max_memkb: int) -> None:
        """Set how much memory a domain may have, in KiB."""
        self.call("xc_domain_setmaxmem", domid, max_memkb)

    def populate(self, domid: int, gfns: Sequence[int]) -> None:
        """Give a domain new frames at ``gfns``, all or none; ENOMEM or EBUSY if its limit does not allow it."""
        if gfns:
            frames = self._ffi.new("xen_pfn_t[]", list(gfns))
            self.call("xc_domain_populate_physmap_exact", domid, len(gfns), 0, 0, frames)

    def depopulate(self, domid: int, gfns: Sequence[int]) -> None:
        """Take the frames at ``gfns`` from a domain.

        Xen resets every altp2m view with a remapping to any frame between the lowest and highest one remapped to
        when such a frame goes: take frames away after the views are destroyed.
        """
        if gfns:
            frames = self._ffi.new("xen_pfn_t[]", list(gfns))
            self.call("xc_domain_decrease_reservation_exact", domid, len(gfns), 0, frames)

    def paging_pool(self, domid: int) -> int:
        """Return the bytes Xen has set aside for a domain's page tables, altp2m views included."""
        size = self._ffi.new("uint64_t *")
        self.call("xc_get_paging_mempool_size", domid, size)
        return int(size[0])

    def set_paging_pool(self, domid: int, size: int) -> None:
        """Set that pool, in bytes. A domain whose pool runs out when a view needs a table is crashed by Xen."""
        self.call("xc_set_paging_mempool_size", domid, size)

    def hvm_param(self, domid: int, param: int) -> int:
        """Return an HVM parameter (``HVM_PARAM_*``)."""
        value = self._ffi.new("uint64_t *")
        self.call("xc_hvm_param_get", domid, param, value)
        return int(value[0])

    def port_status(self, domid: int, port: int) -> tuple[int, int, int] | None:
        """Return an event channel's (EVTCHNSTAT_*, remote domain, remote port), None past the last one there is.

        PermissionError where the other end is Xen itself.
        """
        asked = self._ffi.new("xc_evtchn_status_t *")
        asked.dom, asked.port = domid, port
        if self._ctrl.xc_evtchn_status(self.handle, asked) >= 0:
            return asked.status, asked.remote_dom, asked.remote_port
        number = self._ffi.errno
        if number == errno.EACCES:
            raise PermissionError
        if number == errno.EINVAL:
            return None
        raise XenCallError("xc_evtchn_status", number, domain=domid)

    # host

    def version(self) -> str:
        """Return the running Xen's version, such as ``4.17.5``."""
        number = self.check(self._ctrl.xc_version(self.handle, _VER_VERSION, self._ffi.NULL), "xc_version")
        extra = self._ffi.new("char[16]")
        self.check(self._ctrl.xc_version(self.handle, _VER_EXTRA, extra), "xc_version")
        return f"{number >> 16}.{number & 0xFFFF}{self._ffi.string(extra).decode('ascii', 'replace')}"

    def capabilities(self) -> str:
        """Return what guests the running Xen can take, such as ``xen-3.0-x86_64 hvm-3.0-x86_64``."""
        text = self._ffi.new("char[1024]")
        self.check(self._ctrl.xc_version(self.handle, _VER_CAPABILITIES, text), "xc_version")
        return str(self._ffi.string(text).decode("ascii", "replace")).strip()

    def host(self) -> HostInfo:
        """Return the host's CPUs and memory."""
        raw = self._ffi.new("xc_physinfo_t *")
        self.check(self._ctrl.xc_physinfo(self.handle, raw), "xc_physinfo")
        return HostInfo(raw.nr_cpus, raw.cpu_khz, raw.total_pages, raw.free_pages, bool(raw.capabilities & 1))

    def event_version(self) -> int:
        """Return the version of the running Xen's event interface; `layout.INTERFACE_VERSION` is what is understood."""
        return self.check(self._ctrl.xc_vm_event_get_version(self.handle), "xc_vm_event_get_version")
