# SPDX-License-Identifier: GPL-2.0-or-later
"""What advisories say of one hole in one version, and how several of them are put together."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from drakmet.holes import versions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class State(enum.StrEnum):
    """Whether a version has a hole, as far as anybody said."""

    AFFECTED = "affected"
    MAYBE = "may be affected"
    UNKNOWN = "not known"
    FIXED = "fixed"
    NOT_AFFECTED = "not affected"


_OPEN = (State.AFFECTED, State.MAYBE)
_CLOSED = (State.FIXED, State.NOT_AFFECTED)


class Version(NamedTuple):
    """A version of a binary package, and the one of its source package, by which most advisories go."""

    package: str
    version: str
    source: str
    source_version: str


class Opinion(NamedTuple):
    """What one advisory says of a hole in a version; ``fixed_in`` is the version that closes it."""

    hole: str
    state: State
    fixed_in: str | None = None
    why: str | None = None
    urgency: str | None = None
    basis: str = ""


class Advisories(Protocol):
    """Advisories of one kind and origin, that can be asked about a version."""

    weak: bool
    """Whether anything else that is sure goes before it."""

    def about(self, version: Version) -> Iterable[Opinion]:
        """Yield what is said of a version, at most once a hole; nothing about a hole is not the same as none."""


class Nothing:
    """Advisories that say nothing: those of a file that could not be read."""

    weak = False

    def about(self, version: Version) -> Iterable[Opinion]:  # noqa: ARG002 - as the protocol has it
        """Yield nothing."""
        return ()


def by_hole(advisories: Sequence[Advisories], version: Version) -> dict[str, Opinion]:
    """Return what all advisories together say of a version."""
    strong: dict[str, list[Opinion]] = {}
    weak: dict[str, list[Opinion]] = {}
    for one in advisories:
        into = weak if one.weak else strong
        for opinion in one.about(version):
            into.setdefault(opinion.hole, []).append(opinion)
    return {hole: _together(strong.get(hole, []), weak.get(hole, [])) for hole in strong.keys() | weak.keys()}


def _together(strong: list[Opinion], weak: list[Opinion]) -> Opinion:
    for some in (strong, weak):
        sure = [opinion for opinion in some if opinion.state not in (State.MAYBE, State.UNKNOWN)]
        states = {opinion.state in _CLOSED for opinion in sure}
        if len(states) == 2:
            why = "the advisories do not agree: " + "; ".join(_said(opinion) for opinion in sure)
            return _merged(sure)._replace(state=State.MAYBE, why=why)
        if sure:
            return _merged(sure)
    doubts = [*strong, *weak]
    doubts.sort(key=lambda opinion: opinion.state is not State.MAYBE)
    return _merged(doubts)


def _merged(opinions: list[Opinion]) -> Opinion:
    """Return the first opinion with what the others know beside it."""
    first = opinions[0]
    same = [opinion for opinion in opinions if opinion.state is first.state]
    return first._replace(
        fixed_in=_highest(opinion.fixed_in for opinion in opinions),
        why=next((opinion.why for opinion in same if opinion.why), None),
        urgency=next((opinion.urgency for opinion in opinions if opinion.urgency), None),
        basis="; ".join(dict.fromkeys(opinion.basis for opinion in opinions)),
    )


def _said(opinion: Opinion) -> str:
    return f"{opinion.state.value} ({opinion.basis})"


def _highest(found: Iterable[str | None]) -> str | None:
    known = [version for version in found if version is not None]
    return max(known, key=lambda version: versions.key(version) or versions.LEAST, default=None)


def of_candidates(each: Sequence[dict[str, Opinion]]) -> Iterator[Opinion]:
    """Yield what is said of code that is one of several versions: a hole is in it for sure if it is in all of them."""
    for hole in sorted(set().union(*each)):
        opinions = [known.get(hole) or Opinion(hole, State.UNKNOWN) for known in each]
        states = {opinion.state for opinion in opinions}
        merged = _merged(sorted(opinions, key=lambda opinion: opinion.state not in _OPEN))
        if len(states) == 1:
            yield merged
        elif states <= set(_CLOSED):
            yield merged._replace(state=State.FIXED)
        else:
            have = sum(opinion.state in _OPEN for opinion in opinions)
            state = State.MAYBE if have else State.UNKNOWN
            why = f"{have} of the {len(each)} versions that it may be have it, or may have it"
            yield merged._replace(state=state, why=why)


def doubted(opinion: Opinion, doubt: str) -> Opinion:
    """Return what is left of an opinion if the code may not be that of the version."""
    states = {State.AFFECTED: State.MAYBE, State.FIXED: State.UNKNOWN, State.NOT_AFFECTED: State.UNKNOWN}
    if opinion.state not in states:
        return opinion
    return opinion._replace(state=states[opinion.state], why=f"{opinion.state.value} as packaged, but {doubt}")
