# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers in the texts of which a log's lines are made, looked up instead of read: most of each recurs.

A look-up raises `KeyError` for a text that is not exactly what DRAKVUF prints.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_REMEMBERED = 1 << 14
_SECONDS = re.compile(r': ?"(\d{1,10})\.', re.ASCII)
_HIGH = re.compile(r': ?"0x([0-9a-f]{0,12})')


class _Learned(dict[str, int]):
    """Numbers by their text; what it does not know yet is read."""

    def __init__(self, read: Callable[[str], int]) -> None:
        super().__init__()
        self._read = read

    def __missing__(self, text: str) -> int:
        """Read a text, and remember it."""
        number = self._read(text)
        if len(self) >= _REMEMBERED:
            self.clear()
        self[text] = number
        return number


def _second(text: str) -> int:
    match = _SECONDS.fullmatch(text)
    if match is None:
        raise KeyError(text)
    return int(match[1]) * 1_000_000_000


def _high(text: str) -> int:
    match = _HIGH.fullmatch(text)
    if match is None:
        raise KeyError(text)
    return int(match[1] or "0", 16) << 12


SECONDS = _Learned(_second)
"""Nanoseconds by what stands between TimeStamp and the first digit behind the point."""
MILLISECONDS = {f"{number:03}": number * 1_000_000 for number in range(1000)}
"""Nanoseconds by the first three digits behind the point."""
MICROSECONDS = {f'{number:03}"': number * 1000 for number in range(1000)}
"""Nanoseconds by the last three digits and the quote."""
HIGHS = _Learned(_high)
"""Numbers by what stands between EventUID and the last three digits."""
LOWS = {f'{number:03x}"': number for number in range(4096)}
"""Numbers by the last three hexadecimal digits and the quote."""
SHORTS = {f'{before}{number:x}"': number for before in (': "0x', ':"0x') for number in range(256)}
"""Numbers by all that stands between EventUID and the comma, if it has less than three digits."""
