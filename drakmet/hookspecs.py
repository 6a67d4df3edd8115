# SPDX-License-Identifier: GPL-2.0-or-later
"""The hooks a plugin may implement. Each is called once, when drakmet starts; none is called for an event."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from drakmet.executions import ExecuteTrap
    from drakmet.records import Record
    from drakmet.traps import Collector, Sink, Trap

hookspec = pluggy.HookspecMarker("drakmet")
hookimpl = pluggy.HookimplMarker("drakmet")


@hookspec
def drakmet_records() -> Iterable[type[Record]]:  # type: ignore[empty-body]
    """Return the record classes the plugin writes, those of its traps' ``record`` included."""


@hookspec
def drakmet_traps() -> Iterable[Trap]:  # type: ignore[empty-body]
    """Return the traps the plugin wants set."""


@hookspec
def drakmet_execute_traps() -> Iterable[ExecuteTrap]:  # type: ignore[empty-body]
    """Return what wants to be told of every page of code that is executed."""


@hookspec
def drakmet_collectors() -> Iterable[Collector]:  # type: ignore[empty-body]
    """Return what is read once from the guest when it is attached to, such as the processes that already run."""


@hookspec
def drakmet_sinks() -> Iterable[Sink]:  # type: ignore[empty-body]
    """Return receivers of every record that is written."""
