# SPDX-License-Identifier: GPL-2.0-or-later
"""Errors of plugins: counted, told with the place in the plugin's file, and never passed on to the loop."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Final

from drakmet.records import PluginFault
from drakmet.text import escape

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet.records import Record

_MAX_ROWS: Final = 100
_MAX_TEXT: Final = 500


class Faults:
    """Stores the first faults of each trap as rows; the later ones are only counted."""

    def __init__(self, session: int, put: Callable[[Record], object]) -> None:
        self._session = session
        self._put = put
        self._rows: dict[tuple[str, str | None], int] = {}

    def report(self, plugin: str, trap: str | None, error: Exception, time: int) -> str:
        """Take an error; return it as text."""
        text = describe(error)
        rows = self._rows[plugin, trap] = self._rows.get((plugin, trap), 0) + 1
        if rows <= _MAX_ROWS:
            self._put(PluginFault(session=self._session, time=time, plugin=plugin, trap=trap, error=text))
        return text


def describe(error: Exception) -> str:
    """Return type, text and place of an error: the innermost line of the plugin's own file."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "drakmet/monitor/" not in frame.filename]
    where = f" ({frames[0].filename}:{frames[0].lineno})" if frames else ""
    return escape(f"{type(error).__name__}: {error}"[:_MAX_TEXT].replace("\\", "/")) + where
