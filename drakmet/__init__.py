# SPDX-License-Identifier: GPL-2.0-or-later
"""drakmet watches Xen guests from outside. These names are what plugins are written with."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drakmet.errors import DrakmetError
    from drakmet.executions import ExecuteTrap, Execution, ExecutionKind, Origin, Region
    from drakmet.hookspecs import hookimpl
    from drakmet.records import Address, EventRecord, Process, Record
    from drakmet.text import escape_bytes, unescape
    from drakmet.traps import Attached, Hit, Sink, Trap

__all__ = [
    "Address",
    "Attached",
    "DrakmetError",
    "EventRecord",
    "ExecuteTrap",
    "Execution",
    "ExecutionKind",
    "Hit",
    "Origin",
    "Process",
    "Record",
    "Region",
    "Sink",
    "Trap",
    "escape_bytes",
    "hookimpl",
    "unescape",
]
__version__ = "0.1.0"

# Imported when they are asked for: what watches over a guest needs none of them and has to start quickly.
_HOMES = {
    "errors": ("DrakmetError",),
    "executions": ("ExecuteTrap", "Execution", "ExecutionKind", "Origin", "Region"),
    "hookspecs": ("hookimpl",),
    "records": ("Address", "EventRecord", "Process", "Record"),
    "text": ("escape_bytes", "unescape"),
    "traps": ("Attached", "Hit", "Sink", "Trap"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"drakmet.{home}"), name)
            return value
    raise AttributeError(f"module 'drakmet' has no attribute {name!r}")
