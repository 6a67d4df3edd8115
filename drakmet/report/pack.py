# SPDX-License-Identifier: GPL-2.0-or-later
"""A report's data in the form that a page carries: lists of rows by columns, each text once."""

from __future__ import annotations

import json
from typing import Any

_WORTH = 8


class Packer:
    """Packs one model; ``texts`` are those that its columns name by their place."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._places: dict[str, int] = {}

    def pack(self, value: Any) -> Any:
        """Return a value with each long list of alike rows as ``{"#rows", "#columns"}``, its columns by name.

        A column is ``{"v": values}``, or ``{"t": places}`` for texts.
        """
        if isinstance(value, dict):
            return {key: self.pack(one) for key, one in value.items()}
        if not isinstance(value, list):
            return value
        rows = [row for row in value if isinstance(row, dict)]
        if len(value) < _WORTH or len(rows) < len(value) or any(row.keys() != rows[0].keys() for row in rows):
            return [self.pack(one) for one in value]
        return {"#rows": len(rows), "#columns": {name: self._column([row[name] for row in rows]) for name in rows[0]}}

    def _column(self, values: list[Any]) -> dict[str, Any]:
        if all(value is None or isinstance(value, str) for value in values):
            return {"t": [None if value is None else self._place(value) for value in values]}
        return {"v": [self.pack(value) for value in values]}

    def _place(self, text: str) -> int:
        place = self._places.get(text)
        if place is None:
            place = self._places[text] = len(self.texts)
            self.texts.append(text)
        return place


def packed(model: dict[str, Any]) -> str:
    """Return a model as JSON that can stand inside an HTML script element: ASCII, with no ``<``, ``>`` and ``&``."""
    packer = Packer()
    body = packer.pack(model)
    text = json.dumps({"texts": packer.texts, "data": body}, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
