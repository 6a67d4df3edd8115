# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own symbol table, kallsyms, out of raw memory or a decompressed kernel (scripts/kallsyms.c).

Up to Linux 6.3 the tables lie in this order: offsets, relative base, count, names, markers, (names' order, from
6.2 and in 6.1.y), token table, token index. From 6.4 on: count, names, markers, token table, token index,
offsets, relative base, names' order. All are 8-aligned; offsets, markers and counts are 32 bits wide.
"""

from __future__ import annotations

import re
import struct
from array import array
from dataclasses import dataclass
from itertools import islice
from operator import le
from typing import TYPE_CHECKING, Final, NamedTuple

from drakmet.errors import GuestError
from drakmet.guest.symbols import Symbols

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TOKENS: Final = 256
MIN_SYMBOLS: Final = 5_000
MAX_SYMBOLS: Final = 2_000_000
KERNEL_HALF: Final = 0xFFFF_FFFF_8000_0000

# The tokens of the characters 0 to 9 are these characters: they stand in many names, so none is given away.
_DIGITS: Final = b"".join(b"%d\0" % digit for digit in range(10))
_BEFORE_DIGITS: Final = ord("0")
_MAX_TOKEN_TABLE: Final = 16 << 10
_REACH: Final = 12 << 20  # the tables of a kernel with 200,000 symbols span 4 MiB
_MARKER_EVERY: Final = 256
_U64: Final = (1 << 64) - 1
_CHECKED_MARKERS: Final = 8
# An 8-aligned word in the kernel's half and page-aligned, followed by a plausible 32-bit count and its padding.
_PAGE_ALIGNED_BASE: Final = rb"\x00[" + b"".join(rb"\x%x0" % nibble for nibble in range(16)) + rb"]..\xff{4}"
_BASE: Final = re.compile(_PAGE_ALIGNED_BASE, re.DOTALL)
_BASE_THEN_COUNT: Final = re.compile(_PAGE_ALIGNED_BASE + rb"...\x00{5}", re.DOTALL)


class Symbol(NamedTuple):
    """One symbol: its address as the table says it, nm's type letter, its name."""

    address: int
    kind: str
    name: str


@dataclass(slots=True)
class Table:
    """A decoded table. ``names`` holds the names in table order (that of addresses), each ended by a NUL."""

    base: int
    addresses: Sequence[int]
    kinds: bytes
    names: bytes
    token_table: int
    """Where in the searched bytes the token table starts: tells copies of a kernel apart."""
    extent: tuple[int, int]
    """Where in the searched bytes all its tables lie."""

    def symbols(self) -> Symbols:
        """Return the symbols for look-ups, at the addresses that the table says."""
        if all(map(le, self.addresses, islice(self.addresses, 1, None))):
            return Symbols.of_columns(self.addresses, self.kinds, self.names)
        return Symbols.of(self)

    def __iter__(self) -> Iterator[Symbol]:
        for address, kind, name in zip(self.addresses, self.kinds, self.names.split(b"\0"), strict=False):
            yield Symbol(address, chr(kind), name.decode("utf-8", "surrogateescape"))


def token_tables(data: bytes) -> Iterator[int]:
    """Yield where token tables start in ``data``."""
    at = data.find(_DIGITS)
    while at >= 0:
        rest = data[at : at + _MAX_TOKEN_TABLE].split(b"\0", TOKENS - _BEFORE_DIGITS)
        end = at + sum(len(token) + 1 for token in rest[: TOKENS - _BEFORE_DIGITS])
        for index in range(end, end + 8):
            # The index tells how far the table's start lies before the token of "0".
            start = at - int.from_bytes(data[index + 2 * _BEFORE_DIGITS : index + 2 * _BEFORE_DIGITS + 2], "little")
            if start >= 0 and _token_index(data, start) is not None:
                yield start
                break
        at = data.find(_DIGITS, at + 1)


def _token_index(data: bytes, start: int) -> tuple[list[bytes], int] | None:
    """Return the tokens and where their index ends, if a token table followed by its index is at ``start``."""
    tokens = data[start : start + _MAX_TOKEN_TABLE].split(b"\0", TOKENS)
    if len(tokens) <= TOKENS:
        return None
    del tokens[TOKENS:]
    offset = 0
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token) + 1
    index = struct.pack(f"<{TOKENS}H", *offsets) if offset < 1 << 16 else b""
    for at in range(start + offset, start + offset + 8):  # the alignment in memory is not that of ``data``
        if index and data.startswith(index, at):
            return tokens, at + len(index)
    return None


def parse(data: bytes, token_table: int) -> Table:
    """Decode the table whose token table starts at ``token_table`` in ``data``; `GuestError` if it is not one."""
    found = _token_index(data, token_table)
    if found is None:
        raise GuestError("no kallsyms token table here")
    tokens, after = found
    for count, names, base, offsets in _candidates(data, token_table, after):
        if offsets + 4 * count > len(data):
            continue
        kinds, text = _names(data, names, count, tokens, token_table)
        if kinds is None:
            continue
        raw = array("i")
        raw.frombytes(data[offsets : offsets + 4 * count])
        # CONFIG_KALLSYMS_ABSOLUTE_PERCPU: negative offsets count from the base, others are absolute.
        if any(offset < 0 for offset in raw[:: max(1, count // 64)]):
            addresses = array("Q", [base - 1 - o & _U64 if o < 0 else o for o in raw])
        else:
            addresses = array("Q", [base + (o & 0xFFFF_FFFF) & _U64 for o in raw])
        extent = min(offsets, names - 8), max(after, offsets + 4 * count + 16)
        return Table(base, addresses, kinds, text, token_table, extent)
    raise GuestError("kallsyms: the tables around the token table are of no known layout")


def _candidates(data: bytes, token_table: int, after: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield ``(count, where names, relative base, where offsets)`` that the layouts allow."""
    low = max(0, token_table - _REACH)
    phase = token_table % 8
    # Up to 6.3: ... offsets, base, count, names ... token table. The nearest before it is ours.
    old = [m.start() for m in _BASE_THEN_COUNT.finditer(data, low, token_table) if m.start() % 8 == phase]
    for at in reversed(old):
        base, count = struct.unpack_from("<QI", data, at)
        offsets = at - _align(4 * count)
        if MIN_SYMBOLS <= count <= MAX_SYMBOLS and offsets >= 0:
            yield count, at + 16, base, offsets
    # From 6.4 on: count, names ... token table, index, offsets, base.
    offsets = after + (phase - after) % 8
    for match in _BASE.finditer(data, offsets, offsets + _REACH):
        at = match.start()
        if (at - offsets) % 8:
            continue
        base = int.from_bytes(data[at : at + 8], "little")
        for count in ((at - offsets) // 4, (at - offsets) // 4 - 1):
            if not MIN_SYMBOLS <= count <= MAX_SYMBOLS:
                continue
            names = data.rfind(struct.pack("<Q", count), low, token_table)
            while names >= 0:
                if names % 8 == phase:
                    yield count, names + 8, base, offsets
                names = data.rfind(struct.pack("<Q", count), low, names)


def _align(size: int) -> int:
    return size + 7 & ~7


def _names(data: bytes, start: int, count: int, tokens: list[bytes], end: int) -> tuple[bytes | None, bytes]:
    """Return the kinds and the NUL-ended names, or None if ``start`` is not where ``count`` names are."""
    parts: list[bytes] = []
    markers: list[int] = []
    at = start
    for i in range(count):
        if i % _MARKER_EVERY == 0:
            markers.append(at - start)
            if i == _CHECKED_MARKERS * _MARKER_EVERY and not _has_markers(data, markers, at, end):
                return None, b""
        if at >= end:
            return None, b""
        length = data[at]
        at += 1
        if length & 0x80:  # from 6.1 on: names of more than 127 tokens have a second byte
            length = length & 0x7F | data[at] << 7
            at += 1
        if length == 0 or at + length > end:
            return None, b""
        parts.append(b"".join([tokens[token] for token in data[at : at + length]]))
        at += length
    if not _has_markers(data, markers, at, min(end, at + 8 + 4 * len(markers))):
        return None, b""
    kinds = bytes([part[0] if part else 63 for part in parts])
    return kinds, b"".join([part[1:].replace(b"\0", b"") + b"\0" for part in parts])


def _has_markers(data: bytes, markers: list[int], start: int, end: int) -> bool:
    return data.find(struct.pack(f"<{len(markers)}I", *markers), start, end) >= 0
