# SPDX-License-Identifier: GPL-2.0-or-later
"""What a failed call into Xen means, and what to do about it."""

from __future__ import annotations

import errno
import os

from drakmet.errors import XenError

_NO_ROOT = "Run drakmet as root in dom0 (sudo drakmet ...)."
_NO_XEN = (
    "This machine does not run as Xen's dom0, or its modules xen-privcmd and xen-evtchn are not loaded: "
    "boot Xen, or load them."
)
_NO_DOMAIN = "There is no such guest: `xl list` shows those that run."
NO_ALTP2M = (
    'Put altp2m="external" into the guest\'s configuration and start it anew; Xen itself must be booted with altp2m=1, '
    "on an Intel CPU (altp2m does not exist on AMD)."
)
_NO_MONITOR = "Monitoring needs an HVM or PVH guest with hardware-assisted paging, and page traps need an Intel CPU."
_MONITORED = (
    "Another monitor is attached to this guest (DRAKVUF, another drakmet?): end it first, Xen allows one at a time. "
    "If it is dead already, `drakmet rescue GUEST` frees the guest of it."
)
_NO_MEMORY = (
    "Xen has no memory left for it: free some on the host (`xl info` shows free_memory), "
    "or raise the guest's shadow_memory."
)
_VERSION = "The libraries are not those of the running Xen: install the matching ones."

# (prefix of the call, errno) -> what to do; the longest prefix that fits wins, "" fits all.
_HINTS: dict[tuple[str, int], str] = {
    ("", errno.EPERM): _NO_ROOT,
    ("", errno.EACCES): _NO_ROOT,
    ("", errno.ESRCH): _NO_DOMAIN,
    ("", errno.ENOMEM): _NO_MEMORY,
    ("", errno.ENOSYS): _VERSION,
    ("xc_interface_open", errno.ENOENT): _NO_XEN,
    ("xc_interface_open", errno.ENODEV): _NO_XEN,
    ("xc_interface_open", errno.ENXIO): _NO_XEN,
    ("xenevtchn_open", errno.ENOENT): _NO_XEN,
    ("xenforeignmemory_open", errno.ENOENT): _NO_XEN,
    ("xs_open", errno.ENOENT): "xenstored does not run: start it (systemctl start xenstored), or run drakmet in dom0.",
    ("xs_open", errno.ECONNREFUSED): "xenstored does not run: start it (systemctl start xenstored).",
    ("xc_altp2m_", errno.EOPNOTSUPP): NO_ALTP2M,
    ("xc_altp2m_", errno.ENODEV): NO_ALTP2M,
    ("xc_altp2m_", errno.EINVAL): NO_ALTP2M,
    ("xc_altp2m_", errno.ENOSYS): NO_ALTP2M,
    (
        "xc_altp2m_create_view",
        errno.EINVAL,
    ): "Every view that Xen has room for is in use: end the other users of altp2m.",
    (
        "xc_altp2m_create_view",
        errno.ENOSPC,
    ): "Every view that Xen has room for is in use: end the other users of altp2m.",
    ("xc_altp2m_destroy_view", errno.EBUSY): "A vCPU still runs in this view: switch the guest to view 0 first.",
    ("xc_altp2m_change_gfn", errno.ESRCH): "The frame is not plain RAM of the guest.",
    ("xc_altp2m_set_mem_access", errno.ESRCH): "The frame is not plain RAM of the guest.",
    ("xc_altp2m_change_gfn", errno.EINVAL): "There is no such view.",
    ("xc_altp2m_set_mem_access", errno.EINVAL): "There is no such view.",
    ("xc_monitor_enable", errno.EBUSY): _MONITORED,
    (
        "xc_monitor_disable",
        errno.EBUSY,
    ): "vCPUs wait for room in the event ring: answer the events first, then disable.",
    ("xc_monitor_", errno.EOPNOTSUPP): _NO_MONITOR,
    ("xc_monitor_", errno.ENODEV): _NO_MONITOR,
    ("xc_monitor_", errno.EINVAL): _NO_MONITOR,
    ("xc_monitor_", errno.EEXIST): "It is already so: another monitor's setting was left behind.",
    ("xc_set_mem_access", errno.ENODEV): _NO_MONITOR,
    ("xc_domain_populate_physmap_exact", errno.ENOMEM): _NO_MEMORY,
    (
        "xc_domain_populate_physmap_exact",
        errno.EBUSY,
    ): "The guest is at its memory limit: raise it (xl mem-max) before.",
    ("mmap", errno.ENOMEM): "This machine has too little memory, or the process too many mappings (vm.max_map_count).",
    ("xenevtchn_bind_interdomain", errno.EINVAL): "The other end is gone: the monitor was disabled meanwhile.",
}


class XenCallError(XenError):
    """A call of Xen's libraries failed: ``call`` its name, ``domain`` the guest's id, ``errno`` as usual."""

    def __init__(self, call: str, number: int, *, domain: int | None = None, detail: str | None = None) -> None:
        name = errno.errorcode.get(number, str(number))
        what = f"{call} failed: {os.strerror(number)} ({name})"
        if detail:
            what += f": {detail}"
        where = None if domain is None else f"domain {domain}"
        super().__init__(what, where=where, hint=hint_for(call, number))
        self.call = call
        self.domain = domain
        self.errno = number


def hint_for(call: str, number: int) -> str | None:
    """Return what to do when ``call`` fails with errno ``number``; None where only the facts can be told."""
    fitting = [key for key in _HINTS if key[1] == number and call.startswith(key[0])]
    return _HINTS[max(fitting, key=lambda key: len(key[0]))] if fitting else None
