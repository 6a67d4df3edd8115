# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel or module as its file says it lies in the guest's memory before anything is patched."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple

from drakmet.errors import GuestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_FAR: Final = 1 << 20


class Span(NamedTuple):
    """A part of the image that is executed: where it lies, one past its end, the section it is."""

    start: int
    end: int
    name: str


class Table(NamedTuple):
    """A patch table: where it lies and its bytes."""

    address: int
    data: bytes


class Names:
    """Function and data symbols by address: ``(address, name)``, the first of several at one address."""

    def __init__(self, symbols: Iterable[tuple[int, str]]) -> None:
        rows = sorted(symbols, key=lambda one: one[0])
        self._addresses = [address for address, _ in rows]
        self._names = [name for _, name in rows]

    def at(self, address: int) -> tuple[str, int] | None:
        """Return the last symbol at or below an address, and the distance to it."""
        position = bisect_right(self._addresses, address) - 1
        if position < 0 or address - self._addresses[position] > _FAR:
            return None
        while position and self._addresses[position - 1] == self._addresses[position]:
            position -= 1
        return self._names[position], address - self._addresses[position]


class Image:
    """An image at the addresses of the guest.

    ``name`` is the module's, None for the kernel. ``text`` are its spans; ``tables`` the patch tables by the names of
    their sections; ``unknown`` the addresses of bytes that a relocation without a known target would set.
    """

    def __init__(
        self,
        name: str | None,
        pieces: Iterable[tuple[int, bytes]],
        text: list[Span],
        tables: dict[str, Table],
        symbol_at: Callable[[int], tuple[str, int] | None],
    ) -> None:
        self.name = name
        self._pieces = sorted(pieces, key=lambda one: one[0])
        self._starts = [start for start, _ in self._pieces]
        self.text = text
        self.tables = tables
        self.symbol_at = symbol_at
        self.unknown: set[int] = set()

    def read(self, address: int, length: int) -> bytes:
        """Return the bytes that the file has at an address; `GuestError` where it has none."""
        position = bisect_right(self._starts, address) - 1
        if position >= 0:
            start, data = self._pieces[position]
            if address + length <= start + len(data):
                return data[address - start : address - start + length]
        raise GuestError(f"the file has nothing at {address:#x}")

    def is_text(self, address: int) -> bool:
        """Return whether an address lies in what is executed."""
        return any(span.start <= address < span.end for span in self.text)

    def is_entry(self, address: int) -> bool:
        """Return whether a symbol lies at exactly this address of the text."""
        found = self.symbol_at(address)
        return found is not None and not found[1] and self.is_text(address)
