# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest kernel's symbols, looked up by name and by address without reading all of them."""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_left, bisect_right
from functools import cached_property
from itertools import accumulate
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from drakmet.errors import GuestError
from drakmet.guest.types import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

KERNEL_HALF = 0xFFFF_FFFF_8000_0000
"""Addresses from here on belong to the kernel's image or a module; lower ones are per-CPU offsets or absolute."""

_MAX_DUPLICATES = 4096


class Columns(NamedTuple):
    """The symbols as columns, ordered by address: what a profile's file holds.

    ``names`` are NUL-ended and ``starts`` says where each starts; ``hashes`` are the sorted CRC-32 of the names
    and ``order`` the symbol of each hash.
    """

    addresses: Sequence[int]
    kinds: Sequence[int]
    names: bytes | memoryview
    starts: Sequence[int]
    hashes: Sequence[int]
    order: Sequence[int]


class Symbols:
    """Symbols at the addresses the kernel was linked at."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        count = len(columns.addresses)
        if not count == len(columns.kinds) == len(columns.starts) == len(columns.hashes) == len(columns.order):
            raise GuestError("the columns of the symbol table differ in length")
        self.touched: set[str] = set()

    @classmethod
    def of(cls, symbols: Iterable[tuple[int, str, str]]) -> Symbols:
        """Make the columns of ``(address, kind, name)``."""
        rows = sorted(symbols, key=itemgetter(0))
        names = b"".join([row[2].encode("utf-8", "surrogateescape") + b"\0" for row in rows])
        kinds = bytes([ord(row[1][:1] or "?") & 0x7F for row in rows])
        return cls.of_columns(array("Q", [row[0] for row in rows]), kinds, names)

    @classmethod
    def of_columns(cls, addresses: Sequence[int], kinds: bytes, names: bytes) -> Symbols:
        """Make the columns of three that are ordered by address already; ``names`` are each ended by a NUL."""
        parts = names.split(b"\0")
        parts.pop()
        starts = array("I", [0])
        starts.extend(accumulate([len(part) + 1 for part in parts]))
        starts.pop()
        hashes = list(map(zlib.crc32, parts))
        order = sorted(range(len(hashes)), key=hashes.__getitem__)
        hashes.sort()
        return cls(Columns(addresses, kinds, names, starts, array("I", hashes), array("I", order)))

    def moved(self, distance: int) -> Symbols:
        """Return the same symbols with those of the kernel's half ``distance`` lower."""
        if not distance:
            return self
        lower = [a - distance if a >= KERNEL_HALF else a for a in self.columns.addresses]
        return Symbols(self.columns._replace(addresses=array("Q", lower)))

    def __len__(self) -> int:
        return len(self.columns.addresses)

    @cached_property
    def _names(self) -> bytes:
        """All names, out of the file that they may be mapped from: to find one by its hash takes a few pages of it."""
        return bytes(self.columns.names)

    def _name(self, position: int) -> str:
        start = self.columns.starts[position]
        end = self._names.find(b"\0", start)
        return self._names[start:end].decode("utf-8", "surrogateescape")

    def every(self, name: str) -> list[int]:
        """Return the addresses of all symbols called ``name``: static functions may share one."""
        raw = name.encode("utf-8", "surrogateescape")
        wanted = zlib.crc32(raw)
        hashes, order, names, starts = self.columns.hashes, self.columns.order, self.columns.names, self.columns.starts
        at = bisect_left(hashes, wanted)
        found: list[int] = []
        while at < len(hashes) and hashes[at] == wanted and len(found) < _MAX_DUPLICATES:
            position = order[at]
            start = starts[position]
            if names[start : start + len(raw) + 1] == raw + b"\0":
                found.append(self.columns.addresses[position])
            at += 1
        if found:
            self.touched.add(name)
        return found

    def get(self, name: str) -> int | None:
        """Return the address of ``name``, the lowest if there are several, or None."""
        found = self.every(name)
        return min(found) if found else None

    def __getitem__(self, name: str) -> int:
        address = self.get(name)
        if address is None:
            raise GuestError(f"the kernel has no symbol {name}", hint=self.nearest(name))
        return address

    def __contains__(self, name: str) -> bool:
        return bool(self.every(name))

    def at(self, address: int) -> tuple[str, int] | None:
        """Return the last symbol at or below ``address`` and the distance to it."""
        position = bisect_right(self.columns.addresses, address) - 1
        if position < 0:
            return None
        name = self._name(position)
        self.touched.add(name)
        return name, address - self.columns.addresses[position]

    def names_at(self, address: int) -> list[str]:
        """Return the names of all symbols that lie at exactly ``address``."""
        low = bisect_left(self.columns.addresses, address)
        names: list[str] = []
        while low < len(self) and self.columns.addresses[low] == address and len(names) < _MAX_DUPLICATES:
            names.append(self._name(low))
            low += 1
        self.touched.update(names)
        return names

    def variants(self, name: str) -> list[str]:
        """Return what the compiler made of a function beside or instead of it: ``name.isra.0`` and the like.

        Parts that are not entered at the function's own entry (``.cold``, ``.part``) are left out.
        """
        raw = b"\0" + name.encode("utf-8", "surrogateescape") + b"."
        names = self._names
        found: list[str] = []
        at = names.find(raw)
        while at >= 0 and len(found) < _MAX_DUPLICATES:
            end = names.find(b"\0", at + 1)
            suffix = names[at + len(raw) : end]
            if not suffix.startswith((b"cold", b"part")):
                found.append(names[at + 1 : end].decode("utf-8", "surrogateescape"))
            at = names.find(raw, end)
        self.touched.update(found)
        return found

    def nearest(self, name: str) -> str | None:
        """Return ``did you mean ...?`` for a name that is not there; slow."""
        half = name[: max(3, len(name) // 2)]
        return nearest(name, (one for one in self.names() if half in one))

    def names(self) -> Iterator[str]:
        """Yield all names in the order of addresses."""
        for raw in self._names.split(b"\0")[:-1]:
            yield raw.decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[tuple[int, str, str]]:
        for position, name in enumerate(self.names()):
            yield self.columns.addresses[position], chr(self.columns.kinds[position]), name
