# SPDX-License-Identifier: GPL-2.0-or-later
"""Compares the text of an image with memory, page by page, and has each difference explained."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Final

import msgspec

from drakmet.errors import GuestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from drakmet.guest.kerneltext.explain import Explainer
    from drakmet.guest.kerneltext.image import Image, Span

_PAGE: Final = 4096
_DIFFERING: Final = re.compile(rb"[^\0]")
_TOGETHER: Final = 16
"""Bytes between two differences that are told as one."""
MOST_UNEXPLAINED: Final = 1 << 16
MOST_TOLD: Final = 256


class Difference(msgspec.Struct, frozen=True):
    """Bytes of the text that are not the file's: ``kind`` is modified, or by what of the kernel's they were written."""

    address: int
    expected: bytes
    found: bytes
    kind: str
    symbol: str | None
    offset: int | None
    target: str | None = None
    handler: str | None = None
    length: int = 0


class Comparison(msgspec.Struct):
    """How a comparison went: pages, bytes that differed by what explains them, differences that are to be told."""

    name: str | None
    pages: int = 0
    not_read: int = 0
    explained: Counter[str] = msgspec.field(default_factory=Counter)
    modified: int = 0
    unknown: int = 0
    hooks: int = 0
    differences: list[Difference] = []
    untold: int = 0


def compare(image: Image, explainer: Explainer, found: Callable[[int, int], bytes]) -> Comparison:
    """Compare all text of an image with what ``found`` reads of memory."""
    result = Comparison(image.name)
    for span in image.text:
        _Span(image, span, explainer, found, result).compare()
    return result


class _Span:
    def __init__(
        self,
        image: Image,
        span: Span,
        explainer: Explainer,
        found: Callable[[int, int], bytes],
        result: Comparison,
    ) -> None:
        self._image, self._span, self._explainer, self._found, self._result = image, span, explainer, found, result
        self._done = 0
        self._odd: list[tuple[int, int]] = []

    def compare(self) -> None:
        start, end = self._span.start, self._span.end
        at = start
        while at < end:
            stop = min(end, (at | _PAGE - 1) + 1)
            expected = self._image.read(at, stop - at)
            self._result.pages += 1
            try:
                found = self._found(at, stop - at)
            except GuestError:
                self._result.not_read += 1
                found = expected
            if found != expected:
                self._page(at, expected, found)
            at = stop
        self._tell()

    def _page(self, base: int, expected: bytes, found: bytes) -> None:
        mixed = int.from_bytes(expected, "little") ^ int.from_bytes(found, "little")
        differing = mixed.to_bytes(len(expected), "little")
        result = self._result
        one = _DIFFERING.search(differing, max(0, self._done - base))
        while one is not None:
            at = one.start()
            address = base + at
            if address in self._image.unknown:
                result.unknown += 1
                end = address + 1
            elif result.modified > MOST_UNEXPLAINED:
                result.modified += 1
                end = address + 1
            else:
                end = self._explain(address)
            self._done = end
            one = _DIFFERING.search(differing, end - base)

    def _explain(self, address: int) -> int:
        result = self._result
        reason = self._explainer.at(address)
        if reason is None or reason.end <= address:
            result.modified += 1
            if self._odd and address - self._odd[-1][1] < _TOGETHER:
                self._odd[-1] = (self._odd[-1][0], address + 1)
            else:
                self._odd.append((address, address + 1))
            return address + 1
        result.explained[reason.kind] += reason.end - address
        if reason.traced is not None:
            result.hooks += 1
            self._add(address, reason.end, reason.kind, reason.traced, reason.handler)
        return reason.end

    def _tell(self) -> None:
        for start, end in self._odd:
            self._add(start, end, "modified", None, None)

    def _add(self, start: int, end: int, kind: str, target: str | None, handler: str | None) -> None:
        result = self._result
        if len(result.differences) >= MOST_TOLD:
            result.untold += 1
            return
        size = min(end - start, 64)
        symbol, offset = self._image.symbol_at(start) or (None, None)
        expected, found = self._image.read(start, size), self._found(start, size)
        result.differences.append(
            Difference(start, expected, found, kind, symbol, offset, target, handler, end - start)
        )


def lines(result: Comparison) -> Iterator[str]:
    """Yield what explained how many bytes, for people and for a column."""
    for kind, count in sorted(result.explained.items()):
        yield f"{kind}: {count}"
