# SPDX-License-Identifier: GPL-2.0-or-later
"""What was done to the guest, as a list of what takes it back: a failure at any step takes down what was built."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Undo:
    """Steps are taken back in reverse order; one that fails does not keep the others from being tried."""

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], object]]] = []

    def add(self, name: str, step: Callable[[], object]) -> None:
        """Remember how to take back what was just done."""
        self._steps.append((name, step))

    @property
    def names(self) -> list[str]:
        """What is still to be taken back, the last done first."""
        return [name for name, _ in reversed(self._steps)]

    def unwind(self) -> list[tuple[str, Exception]]:
        """Take everything back; return what failed. A second call finds nothing left."""
        failed: list[tuple[str, Exception]] = []
        while self._steps:
            name, step = self._steps.pop()
            try:
                step()
            except Exception as error:  # noqa: BLE001  # the other steps matter more than this one's reason
                failed.append((name, error))
        return failed
