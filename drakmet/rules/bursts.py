# SPDX-License-Identifier: GPL-2.0-or-later
"""One finding of a burst: what ``once`` in a rule asks for, whatever order the results come in."""

from __future__ import annotations

import bisect
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drakmet.records import Finding

_KEYS = 100_000
_BURSTS_OF_A_KEY = 1_000


@dataclass(slots=True)
class _Burst:
    begin: int
    end: int
    order: tuple[Any, ...]
    first: Finding


class Bursts:
    """The bursts of a rule's results by the values they have in common.

    Two results with the same values belong to one burst if less than ``quiet`` nanoseconds lie between them, or between
    each of them and others of the burst. What is remembered is bounded: the values that were used least recently go.
    """

    def __init__(self, quiet: int) -> None:
        self._quiet = quiet
        self._by_key: OrderedDict[tuple[Any, ...], list[_Burst]] = OrderedDict()
        self._ended: list[Finding] = []

    def add(self, key: tuple[Any, ...], finding: Finding, order: tuple[Any, ...]) -> bool:
        """Take a result, and tell whether it begins a burst that was not there; ``order`` decides at equal times."""
        bursts = self._by_key.setdefault(key, [])
        self._by_key.move_to_end(key)
        moment = finding.time
        place = bisect.bisect_left(bursts, moment - self._quiet + 1, key=lambda burst: burst.end)
        touched = place
        while touched < len(bursts) and bursts[touched].begin - moment < self._quiet:
            touched += 1
        joined = bursts[place:touched]
        new = _Burst(moment, moment, (moment, *order), finding)
        for burst in joined:
            new.begin, new.end = min(new.begin, burst.begin), max(new.end, burst.end)
            if burst.order <= new.order:
                new.order, new.first = burst.order, burst.first
        bursts[place:touched] = [new]
        self._bound(bursts)
        return not joined

    def firsts(self) -> list[Finding]:
        """Return the earliest result of each burst, and forget them."""
        found = self._ended + [burst.first for bursts in self._by_key.values() for burst in bursts]
        self._by_key.clear()
        self._ended = []
        return found

    def _bound(self, bursts: list[_Burst]) -> None:
        if len(bursts) > _BURSTS_OF_A_KEY:
            self._ended.append(bursts.pop(0).first)
        if len(self._by_key) > _KEYS:
            _, old = self._by_key.popitem(last=False)
            self._ended += [burst.first for burst in old]
