# SPDX-License-Identifier: GPL-2.0-or-later
"""Fetchers for the commonest fields, for memory that is mapped in one piece; see `drakmet.guest.flat`.

Each gives the same as the long way (`Plan.bind` without it) and hands over to it wherever it sees something unusual:
an address outside the direct map and the kernel's own tables, a frame that is not there, a long string.
"""

from __future__ import annotations

import struct
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from drakmet.guest import flat
from drakmet.guest import types as t
from drakmet.guest.memory import PAGE_SHIFT, Unreadable
from drakmet.guest.quickpaths import OUT_OF_RANGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet.guest.decoders import Shape
    from drakmet.guest.linux import LinuxGuest

    Fetch = Callable[[Any], Any]

_NUMBERS: Final = {1: "b", 2: "h", 4: "i", 8: "q"}
_AT_FIRST: Final = 64  # bytes of a string that are read at once
_KERNEL: Final = 1 << 63


def make(guest: LinuxGuest, source: str, steps: tuple[int, ...], last: int, shape: Shape, slow: Fetch) -> Fetch | None:
    """Return a fetcher for a value without decoder, or None if there is no short way to it.

    ``source`` is a register; the other parameters are those of `drakmet.guest.fetch.Plan`.
    """
    views = flat.views(guest.memory)
    if views is None or any(step & 7 for step in steps) or shape.bits != (0, 0):
        return None
    kind = shape.type
    if shape.place and is_number(shape) and (len(steps) <= 1):
        return _number(guest, views, attrgetter(source), steps, last, shape, slow)
    if isinstance(kind, t.Pointer) and is_char(shape.types, kind.target):
        chain = (*steps, last) if shape.place else steps
        if len(chain) <= 2 and not last & 7:
            return _string(guest, views, attrgetter(source), chain, slow)
    return None


def is_char(types: t.Types, ref: t.Ref) -> bool:
    """Tell whether a type is a character, of any sign."""
    kind = types.resolve(ref)
    return isinstance(kind, t.Int) and kind.kind == "char"


def is_number(shape: Shape) -> bool:
    """Tell whether it comes as a plain number."""
    kind = shape.type
    if isinstance(kind, t.Pointer):
        return not is_char(shape.types, kind.target)
    return isinstance(kind, t.Int | t.Enum) and kind.size in _NUMBERS


def _number(
    guest: LinuxGuest, views: flat.Views, get: Fetch, steps: tuple[int, ...], last: int, shape: Shape, slow: Fetch
) -> Fetch:
    kind = shape.type
    signed = isinstance(kind, t.Int | t.Enum) and kind.signed
    size = kind.size if isinstance(kind, t.Int | t.Enum) else 8
    letter = _NUMBERS[size]
    unpack = struct.Struct("<" + (letter if signed else letter.upper())).unpack_from
    buffer, words, present, end = views
    page_offset, translate = guest.space.page_offset, guest.space.quick_translate
    assert translate is not None  # noqa: S101  # for mypy: it is there with the views

    if not steps:

        def direct(regs: Any) -> Any:  # registers are any object that has them
            address = get(regs) + last
            gpa = address - page_offset
            if not 0 <= gpa < end:
                if address < _KERNEL:
                    return slow(regs)
                # Structs on a kernel stack: not in the direct map.
                try:
                    gpa = translate(address)
                except Unreadable:
                    return slow(regs)
                if gpa >= end or gpa & 4095 > 4096 - size:
                    return slow(regs)
            (value,) = unpack(buffer, gpa)
            return value if value or present[gpa >> PAGE_SHIFT] else slow(regs)

        return direct

    distance = steps[0] - page_offset
    distance2 = last - page_offset

    def through(regs: Any) -> Any:
        gpa = get(regs) + distance
        if 0 <= gpa < end and not gpa & 7:
            gpa = words[gpa >> 3] + distance2
            if 0 <= gpa < end:
                (value,) = unpack(buffer, gpa)
                if value or present[gpa >> PAGE_SHIFT]:
                    return value
        return slow(regs)

    return through


def make_path(guest: LinuxGuest, source: str, offset: int, slow: Fetch) -> Fetch | None:
    """Return a fetcher for the path of the ``struct path`` at ``offset`` bytes from where a register points."""
    quick = guest.paths.quick
    if quick is None:
        return None
    get, find, unpack, buffer = attrgetter(source), quick.find, quick.unpack_path, quick.buffer
    distance = offset + quick.path_distance

    def path(regs: Any) -> Any:
        try:
            mnt, dentry = unpack(buffer, get(regs) + distance)
        except OUT_OF_RANGE:
            return slow(regs)
        return find(mnt, dentry) or slow(regs)

    return path


def _string(guest: LinuxGuest, views: flat.Views, get: Fetch, chain: tuple[int, ...], slow: Fetch) -> Fetch:
    unpack = struct.Struct(f"{_AT_FIRST}s").unpack_from
    buffer, words, _, end = views
    page_offset = guest.space.page_offset
    distances = [step - page_offset for step in chain]
    first = distances[0] if distances else 0
    follow = len(distances)
    second = distances[1] if follow == 2 else 0

    def string(regs: Any) -> Any:
        gpa = get(regs)
        if follow:
            gpa += first
            if not 0 <= gpa < end or gpa & 7:
                return slow(regs)
            gpa = words[gpa >> 3]
            if follow == 2:
                gpa += second
                if not 0 <= gpa < end or gpa & 7:
                    return slow(regs)
                gpa = words[gpa >> 3]
        gpa -= page_offset
        if not 0 <= gpa < end:
            return slow(regs)
        (raw,) = unpack(buffer, gpa)
        text, nul, _ = raw.partition(b"\0")
        # An empty one may be a frame that is not there.
        if not nul or not text:
            return slow(regs)
        try:
            return text.decode()
        except UnicodeDecodeError:
            return text.decode("utf-8", "surrogateescape")

    return string
