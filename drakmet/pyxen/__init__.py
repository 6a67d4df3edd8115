# SPDX-License-Identifier: GPL-2.0-or-later
"""Xen bindings: control, altp2m, monitor ring, event channels, foreign memory, xenstore.

Made with cffi on the system's own libraries, of whatever version; no compiler is needed, and importing this works on a
machine without Xen: the first handle that is opened says what is missing.
"""

from drakmet.pyxen.altp2m import HOST_VIEW, Access, Altp2m
from drakmet.pyxen.control import Control, DomainInfo, HostInfo, VcpuInfo
from drakmet.pyxen.events import (
    Cpuid,
    DebugException,
    Event,
    GuestRequest,
    Interrupt,
    MemAccess,
    MovToMsr,
    SingleStep,
    SoftwareBreakpoint,
    WriteControlRegister,
    event_at,
)
from drakmet.pyxen.evtchn import Channel
from drakmet.pyxen.failures import XenCallError
from drakmet.pyxen.foreign import ForeignMap, ForeignMemory, GuestMemory
from drakmet.pyxen.layout import AccessFlag, ControlRegister, Flag, Reason
from drakmet.pyxen.monitor import Monitor
from drakmet.pyxen.recovery import abandoned, owner, recover
from drakmet.pyxen.registers import Registers
from drakmet.pyxen.ring import HIT, HIT_ARGS, HIT_RETURN, Ring, RingError, reader
from drakmet.pyxen.session import ExtraFrames, Session
from drakmet.pyxen.xenstore import Xenstore

__all__ = [
    "HIT",
    "HIT_ARGS",
    "HIT_RETURN",
    "HOST_VIEW",
    "Access",
    "AccessFlag",
    "Altp2m",
    "Channel",
    "Control",
    "ControlRegister",
    "Cpuid",
    "DebugException",
    "DomainInfo",
    "Event",
    "ExtraFrames",
    "Flag",
    "ForeignMap",
    "ForeignMemory",
    "GuestMemory",
    "GuestRequest",
    "HostInfo",
    "Interrupt",
    "MemAccess",
    "Monitor",
    "MovToMsr",
    "Reason",
    "Registers",
    "Ring",
    "RingError",
    "Session",
    "SingleStep",
    "SoftwareBreakpoint",
    "VcpuInfo",
    "WriteControlRegister",
    "XenCallError",
    "Xenstore",
    "abandoned",
    "event_at",
    "owner",
    "reader",
    "recover",
]
