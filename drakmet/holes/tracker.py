# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON of Debian's security tracker: holes by source packages and releases.

``{source: {hole: {"releases": {codename: {"status": "open" | "resolved" | "undetermined", "fixed_version": ...,
"repositories": {suite: version}, "urgency": ...}}}}}``. A ``fixed_version`` of 0 means that the release never had it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from drakmet.errors import UsageError
from drakmet.holes import versions
from drakmet.holes.book import NAME, release_of
from drakmet.holes.opinion import Opinion, State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.holes.book import Account, Wanted
    from drakmet.holes.opinion import Version

_MOST_RELEASES: Final = 64
_NEVER: Final = "0"
_Raws = dict[str, msgspec.Raw]


class _Release(msgspec.Struct, frozen=True):
    status: str
    fixed_version: str | None = None
    urgency: str | None = None
    repositories: dict[str, str] = {}
    nodsa: str | None = None


class _Hole(msgspec.Struct):
    releases: _Raws


class Tracker:
    """A file of the tracker's, as far as it is about the packages that are wanted."""

    weak = False

    def __init__(self, data: bytes, wanted: Wanted, account: Account) -> None:
        account.kind = "Debian security tracker"
        self._wanted, self._account = wanted, account
        self._packages: dict[str, dict[str, dict[str, _Release]]] = {}
        try:
            all_of = msgspec.json.decode(data, type=_Raws)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise UsageError(f"the JSON is broken: {error}", where=account.name) from error
        for source in wanted.sources & all_of.keys():
            self._packages[source] = dict(self._holes(source, all_of[source]))
            account.statements += len(self._packages[source])

    def about(self, version: Version) -> Iterator[Opinion]:
        """Yield what the tracker says of a version."""
        holes = self._packages.get(version.source, {})
        ours = versions.key(version.source_version)
        if ours is None:
            return
        chosen = self._releases(version.source_version, ours, holes)
        for hole, releases in holes.items():
            each = [
                _judge(hole, name, release, ours, self._account.name)
                for name, release in releases.items()
                if chosen is None or name in chosen
            ]
            if each:
                yield _agreed(each)

    def _holes(self, source: str, raw: msgspec.Raw) -> Iterator[tuple[str, dict[str, _Release]]]:
        try:
            holes = msgspec.json.decode(raw, type=_Raws)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            self._account.refuse(f"{source}: {error}")
            return
        for name, body in holes.items():
            try:
                found = msgspec.json.decode(body, type=_Hole).releases
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
                self._account.refuse(f"a hole of {source}: {error}")
                continue
            if not NAME.fullmatch(name) or len(found) > _MOST_RELEASES:
                self._account.refuse(f"a hole of {source}: no name of a hole, or too many releases")
                continue
            releases = dict(self._understood(source, found))
            if releases:
                yield name, releases

    def _understood(self, source: str, found: _Raws) -> Iterator[tuple[str, _Release]]:
        for codename, body in found.items():
            try:
                release = msgspec.json.decode(body, type=_Release)
            except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
                self._account.refuse(f"a release in a hole of {source}: {error}")
                continue
            if release.status not in ("open", "resolved", "undetermined"):
                self._account.refuse(f"a release in a hole of {source}: a status that is not known")
            elif release.status == "resolved" and versions.key(release.fixed_version or "") is None:
                self._account.refuse(f"a release in a hole of {source}: a version that is none")
            else:
                yield codename, release

    def _releases(
        self, version: str, ours: versions.Key, holes: dict[str, dict[str, _Release]]
    ) -> frozenset[str] | None:
        """Return the releases that a version may be of; None if it may be of any."""
        if named := self._wanted.release or release_of(version):
            return frozenset((named,))
        newest: dict[str, versions.Key] = {}
        of: set[str] = set()
        for releases in holes.values():
            for name, release in releases.items():
                for one in release.repositories.values():
                    if one == version:
                        of.add(name)
                    newest[name] = max(newest.get(name, versions.LEAST), versions.key(one) or versions.LEAST)
        # A release whose newest version is older never had this one.
        return frozenset(of or {name for name, highest in newest.items() if highest >= ours}) or None


def _judge(hole: str, name: str, release: _Release, ours: versions.Key, file: str) -> Opinion:
    basis = f"{file}: {release.status} in {name}"
    urgency = None if release.urgency in (None, "not yet assigned") else release.urgency
    why = release.nodsa
    if release.status == "undetermined":
        return Opinion(hole, State.UNKNOWN, None, "the tracker has not determined it", urgency, basis)
    if release.status == "open":
        known = [found for one in release.repositories.values() if (found := versions.key(one)) is not None]
        if known and ours > max(known):
            return Opinion(hole, State.MAYBE, None, "the version is newer than the file knows", urgency, basis)
        return Opinion(hole, State.AFFECTED, None, why, urgency, basis)
    fixed_in = release.fixed_version or _NEVER
    if fixed_in == _NEVER:
        return Opinion(hole, State.NOT_AFFECTED, None, f"{name} never had it", urgency, basis)
    fixed = (versions.key(fixed_in) or versions.LEAST) <= ours
    return Opinion(hole, State.FIXED if fixed else State.AFFECTED, fixed_in, None, urgency, basis)


def _agreed(each: list[Opinion]) -> Opinion:
    states = {opinion.state for opinion in each}
    if len(states) == 1:
        return each[0]
    if states <= {State.FIXED, State.NOT_AFFECTED}:
        return next(opinion for opinion in each if opinion.state is State.FIXED)
    open_ = [opinion for opinion in each if opinion.state in (State.AFFECTED, State.MAYBE)]
    why = "it depends on the release, which is not known: " + "; ".join(o.basis.rpartition(": ")[2] for o in each)
    first = (open_ or each)[0]
    return first._replace(state=State.MAYBE if open_ else State.UNKNOWN, why=why)
