# SPDX-License-Identifier: GPL-2.0-or-later
"""drakmet watches Xen guests from outside. These names are what plugins are written with."""

from drakmet.errors import DrakmetError
from drakmet.hookspecs import hookimpl
from drakmet.records import Address, EventRecord, Process, Record
from drakmet.text import escape_bytes, unescape
from drakmet.traps import Attached, Hit, Sink, Trap

__all__ = [
    "Address",
    "Attached",
    "DrakmetError",
    "EventRecord",
    "Hit",
    "Process",
    "Record",
    "Sink",
    "Trap",
    "escape_bytes",
    "hookimpl",
    "unescape",
]
__version__ = "0.1.0"
