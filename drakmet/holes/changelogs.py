# SPDX-License-Identifier: GPL-2.0-or-later
"""What packages' own changelogs, kept in a database of code pages, say of holes in a version.

They tell what was closed and when, never when a hole came in: of an older version on the same line it is certain only
if both are of the same upstream version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from drakmet.holes import versions
from drakmet.holes.opinion import Opinion, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from drakmet.holes.book import Account
    from drakmet.holes.opinion import Version
    from drakmet.identity.changes import Lines


class Changelogs:
    """Changelogs of source packages, given by a function that finds them."""

    weak = True

    def __init__(self, lines_of: Callable[[str], Lines], account: Account) -> None:
        account.kind = "changelogs"
        self._lines_of, self._account = lines_of, account
        self._known: dict[str, Lines] = {}

    def about(self, version: Version) -> Iterator[Opinion]:
        """Yield what the changelogs say of a version."""
        lines = self._lines(version.source)
        own = list(lines.down(version.source_version))
        closed = _closed(lines, own)
        later = _later(lines, version.source_version, set(own))
        for hole in sorted(closed.keys() | later.keys()):
            at = closed.get(hole)
            if at is None:
                yield self._open(hole, version.source_version, *later[hole])
                continue
            done, rest = later.get(hole, (None, False))
            if rest and hole in lines.completes.get(done or "", ()):
                why = f"{at} closed it in part, {done} the rest"
                yield Opinion(hole, State.MAYBE, done, why, basis=self._basis(done))
            else:
                yield Opinion(hole, State.FIXED, at, basis=self._basis(at))

    def _open(self, hole: str, ours: str, fixed_in: str, descended: bool) -> Opinion:
        if not descended:
            why = f"{fixed_in}, which is of another line, closes it"
            return Opinion(hole, State.UNKNOWN, fixed_in, why, basis=self._basis(fixed_in))
        if versions.upstream(ours) == versions.upstream(fixed_in):
            return Opinion(hole, State.AFFECTED, fixed_in, basis=self._basis(fixed_in))
        why = f"{fixed_in} closes it; whether it was in the older upstream version is not said"
        return Opinion(hole, State.MAYBE, fixed_in, why, basis=self._basis(fixed_in))

    def _basis(self, version: str | None) -> str:
        return f"{self._account.name}: changelog of {version}"

    def _lines(self, source: str) -> Lines:
        if source not in self._known:
            self._known[source] = self._lines_of(source)
            self._account.statements += sum(map(len, self._known[source].fixes.values()))
        return self._known[source]


def _closed(lines: Lines, own: list[str]) -> dict[str, str]:
    """Return where each hole was closed first, or wholly, on the way to a version."""
    closed: dict[str, str] = {}
    whole: set[str] = set()
    for version in own:  # newest first
        for hole in lines.fixes.get(version, ()):
            if hole not in whole:
                closed[hole] = version
        whole |= lines.completes.get(version, frozenset())
    return closed


def _later(lines: Lines, version: str, own: set[str]) -> dict[str, tuple[str, bool]]:
    """Return the first version above this one that closes each hole, and whether it came out of this one."""
    after: dict[str | None, list[str]] = {}
    for one, before in lines.previous.items():
        after.setdefault(before, []).append(one)
    ours = versions.key(version)
    if ours is None:
        return {}
    descended: set[str] = set()
    waiting = [version] if version in lines.previous else []
    while waiting:
        for child in after.get(waiting.pop(), ()):
            if child not in descended and child not in own:
                descended.add(child)
                waiting.append(child)
    found: dict[str, tuple[str, bool]] = {}
    keyed = sorted((key, one) for one in lines.fixes if one not in own and (key := versions.key(one)) is not None)
    for key, one in keyed:
        if key > ours:
            for hole in lines.fixes[one]:
                # A version that came out of this one says more than any other.
                if hole not in found or (one in descended and not found[hole][1]):
                    found[hole] = (one, one in descended)
    return found
