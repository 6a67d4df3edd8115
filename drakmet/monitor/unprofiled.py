# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest whose kernel is not known: its pages can be watched, its functions and processes cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from drakmet.monitor.armed import Prepared, Refused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from drakmet.monitor.plugin import Plugin


class Nobody:
    """In the place of what knows processes and returns: no function can be trapped that would ask it."""

    def current(self, _registers: Any, _time: int) -> None:
        """Nobody can be told."""

    def abandon(self) -> list[Any]:
        """No call is under way."""
        return []


def refuse_all(plugins: Iterable[Plugin], reason: str) -> Prepared:
    """Return that no function can be trapped, and why."""
    refused = [Refused(plugin.name, trap, reason) for plugin in plugins for trap in plugin.traps]
    return Prepared(refused=refused)
