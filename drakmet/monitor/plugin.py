# SPDX-License-Identifier: GPL-2.0-or-later
"""What the monitor needs of a loaded plugin. It may have ``execute_traps`` (`drakmet.executions`) as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drakmet.traps import Collector, Sink, Trap


class Plugin(Protocol):
    """A plugin whose hooks were asked."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def traps(self) -> Sequence[Trap]:
        """The traps it wants."""

    @property
    def collectors(self) -> Sequence[Collector]:
        """What it reads once at attach."""

    @property
    def sinks(self) -> Sequence[Sink]:
        """Its receivers of all records."""
