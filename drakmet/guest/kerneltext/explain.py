# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a byte of the text is not that of the file, if one of the kernel's own patch tables says so."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Final, NamedTuple

from drakmet.errors import GuestError
from drakmet.guest.kerneltext import values
from drakmet.guest.kerneltext.nops import JUMP8, JUMP32, only_nops, run_around

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from drakmet.guest.kerneltext.image import Image
    from drakmet.guest.kerneltext.tables import Alternative, Group, Tables
    from drakmet.guest.kerneltext.tracing import Tracing
    from drakmet.guest.kerneltext.values import Known

_LONGEST: Final = 7
_CONSTANT_LONGEST: Final = 8
_PARAVIRT_LONGEST: Final = 32
_U32: Final = (1 << 32) - 1
_MOST_TOGETHER: Final = 6


class Reason(NamedTuple):
    """What explains bytes up to ``end``; ``traced`` if something of the guest hooks there by the kernel's own means."""

    end: int
    kind: str
    traced: str | None = None
    handler: str | None = None


class Candidate(NamedTuple):
    """Bytes that may stand at a place: where each of them comes from in the file, for what may be patched there."""

    data: bytes
    copied_from: tuple[tuple[int, int, int], ...]
    """``(offset, length, address in the file)`` of the parts that were not there at first."""


class Explainer:
    """Explains the text of one image by its tables."""

    def __init__(
        self,
        image: Image,
        tables: Tables,
        known: Known,
        found: Callable[[int, int], bytes],
        tracing: Tracing,
        trampolines: frozenset[int] = frozenset(),
    ) -> None:
        self._image = image
        self._tables = tables
        self.known = known
        self._found = found
        self._tracing = tracing
        self._static = tables.static_calls | trampolines

    def at(self, address: int) -> Reason | None:
        """Return what explains the byte at an address, None if nothing does."""
        try:
            group = self._tables.group_at(address)
            if group is not None and self._alternative(group):
                return Reason(group.end, "alternative")
            return self.patched(address, 0) or self._tracing.other(address)
        except GuestError:
            return None  # it leads out of the file, or to what is not there

    def patched(self, origin: int, away: int) -> Reason | None:
        """Return what explains the byte of the file at ``origin``, which in memory is ``away`` bytes further on."""
        for start, length, kind, check in self._places(origin):
            expected = self._image.read(start, length)
            found = self._found(start + away, length)
            size = check(expected, start, found, start + away)
            if size and start + size > origin:
                return Reason(start + size, kind)
            if kind == "ftrace nop" and found[0] == values.CALL:
                return self._tracing.call(start + away, found)
        return None

    def _places(self, origin: int) -> Iterator[tuple[int, int, str, Callable[[bytes, int, bytes, int], int]]]:
        tables, known = self._tables, self.known
        if origin in tables.locks:
            yield origin, 1, "lock prefix", lambda e, _o, f, _a: values.lock(e, f)
        for back in range(_LONGEST):
            start = origin - back
            if start in tables.mcount:
                yield start, 5, "ftrace nop", lambda _e, _o, f, _a: values.mcount(f)
            if start in tables.returns:
                yield start, 5, "return thunk", lambda _e, _o, f, a: known.return_site(f, a)
            if start in tables.retpolines:
                yield start, 7, "retpoline", known.retpoline
            if start in self._static:
                yield start, 6, "static call", lambda e, _o, f, a: known.static_call(e, f, a)
            if start in tables.jumps:
                to = tables.jumps[start]
                yield start, 5, "jump label", lambda e, o, f, a, to=to: known.jump_label(e, f, a, to + a - o)  # type: ignore[misc]
            if start in tables.seals:
                yield start, 4, "endbr", lambda _e, _o, f, _a: values.sealed(f)
        for back in range(_CONSTANT_LONGEST if tables.constants else 0):
            width, name = tables.constants.get(origin - back, (0, ""))
            if width > back:
                yield (
                    origin - back, width, "runtime constant",
                    lambda _e, _o, f, _a, w=width, n=name: known.constant(f, w, n),  # type: ignore[misc]
                )  # fmt: skip
        for back in range(_PARAVIRT_LONGEST if tables.paravirt else 0):
            length = tables.paravirt.get(origin - back, 0)
            if length > back:
                yield (
                    origin - back, length, "paravirt",
                    lambda _e, _o, f, a, n=length: known.paravirt(f, a, n),  # type: ignore[misc]
                )  # fmt: skip

    def _alternative(self, group: Group) -> bool:
        found = self._found(group.start, group.end - group.start)
        for one in group.entries:
            whole = one.address == group.start and one.length == len(found)
            if one.direct_call and whole and self.known.direct_call(found, one.address, one.length):
                return True
        return any(self.matches(found, group.start, one) for one in self._candidates(group))

    def _candidates(self, group: Group) -> Iterator[Candidate]:
        original = self._image.read(group.start, group.end - group.start)
        yield Candidate(original, ((0, len(original), group.start),))
        entries = group.entries[:_MOST_TOGETHER]
        for count in (1, 2):
            for chosen in combinations(entries, count):
                yield self._replaced(group, original, chosen)

    def _replaced(self, group: Group, original: bytes, chosen: tuple[Alternative, ...]) -> Candidate:
        data = bytearray(original)
        origins = [(0, len(original), group.start)]
        for one in chosen:
            at = one.address - group.start
            if one.replacement_length > one.length:
                continue
            new = self._image.read(one.replacement, one.replacement_length) if one.replacement_length else b""
            data[at : at + one.length] = new.ljust(one.length, b"\x90")
            origins.insert(0, (at, len(new), one.replacement))
        return Candidate(bytes(data), tuple(origins))

    def matches(self, found: bytes, address: int, candidate: Candidate, free: tuple[range, ...] = ()) -> bool:
        """Return whether bytes in memory are a candidate's, but for what may be patched in it, moved, or ``free``."""
        expected, at = candidate.data, 0
        while at < len(expected):
            if expected[at] == found[at]:
                at += 1
                continue
            end = next((part.stop for part in free if at in part), 0) or self._step(found, address, candidate, at)
            if end <= at:
                return False
            at = end
        return True

    def _step(self, found: bytes, address: int, candidate: Candidate, at: int) -> int:
        """Return up to where a difference at ``at`` is explained, 0 if it is not."""
        expected = candidate.data
        origin = next((there + at - start for start, length, there in candidate.copied_from
                       if start <= at < start + length), None)  # fmt: skip
        if origin is not None:
            away = address + at - origin
            reason = self.patched(origin, away)
            if reason is not None and reason.traced is None:
                return reason.end + away - address
            if away:
                for start in range(max(0, at - 3), at + 1):
                    if start + 4 <= len(expected):
                        was = int.from_bytes(expected[start : start + 4], "little")
                        if was - away & _U32 == int.from_bytes(found[start : start + 4], "little"):
                            return start + 4
            if expected[at] == JUMP32 and found[at] == JUMP8 and at + 5 <= len(found):
                there = values.target(expected[at:], origin)
                short = address + at + 2 + int.from_bytes(found[at + 1 : at + 2], "little", signed=True)
                rest = found[at + 2 : at + 5]
                if short == there and (only_nops(rest) or set(rest) == {values.INT3}):
                    return at + 5
        return run_around(expected, found, at) or 0
