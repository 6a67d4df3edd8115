# SPDX-License-Identifier: GPL-2.0-or-later
"""Event channels as Xen has them: whether a guest has an event ring, and whether a process here still listens to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from drakmet.pyxen.control import DOM0
from drakmet.pyxen.xenstore import Xenstore

if TYPE_CHECKING:
    from drakmet.pyxen.control import Control

# xen/event_channel.h, EVTCHNSTAT_*
_CLOSED, _INTERDOMAIN = 0, 2
_MAX_PORTS = 1 << 17
"""EVTCHN_FIFO_NR_CHANNELS: a domain has no more."""


class Ports(NamedTuple):
    """The event channels of a guest."""

    used: int
    """How many are not closed."""
    xen: list[int]
    """Those that end in Xen itself: one for an event ring; those of a device model's requests, too."""
    heard: list[int]
    """Those of ``xen`` that a process in dom0 has bound."""


def ports_of(control: Control, domid: int) -> Ports:
    """Return a guest's event channels. Costs one hypercall for each there ever was, of the guest's and of dom0's."""
    used, xen = _own(control, domid)
    wanted = set(xen)
    heard = [port for dom, port in _remotes(control) if dom == domid and port in wanted] if xen else []
    return Ports(used, xen, sorted(heard))


def listened(control: Control, domid: int) -> bool:
    """Return whether a monitor that lives is bound to the guest's event ring."""
    heard = len(ports_of(control, domid).heard)
    if not heard:
        return False
    with Xenstore() as store:
        model = store.read(f"/local/domain/{DOM0}/device-model/{domid}/state")
    # A device model has one channel for each vCPU and one for buffered requests.
    return heard > (control.domain(domid).vcpus + 1 if model is not None else 0)


def _own(control: Control, domid: int) -> tuple[int, list[int]]:
    used, xen = 0, []
    for port in range(1, _MAX_PORTS):
        try:
            found = control.port_status(domid, port)
        except PermissionError:
            used += 1
            xen.append(port)
            continue
        if found is None:
            break
        used += found[0] != _CLOSED
    return used, xen


def _remotes(control: Control) -> list[tuple[int, int]]:
    """Return (domain, port) of the other end of each channel that dom0 has bound to another domain."""
    remotes = []
    for port in range(1, _MAX_PORTS):
        try:
            found = control.port_status(DOM0, port)
        except PermissionError:
            continue
        if found is None:
            break
        if found[0] == _INTERDOMAIN:
            remotes.append((found[1], found[2]))
    return remotes
