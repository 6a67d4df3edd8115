# SPDX-License-Identifier: GPL-2.0-or-later
"""Holes in the Open Source Vulnerability format (OSV schema 1.7), of the ecosystem Debian: by source packages."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from drakmet.holes import versions
from drakmet.holes.book import CODENAMES, NAME, release_of
from drakmet.holes.opinion import Opinion, State
from drakmet.identity.changelog import HOLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.holes.book import Account, Wanted
    from drakmet.holes.opinion import Version

_MOST_EVENTS: Final = 10_000
_MOST_NAMES: Final = 1_000


class _Package(msgspec.Struct):
    ecosystem: str = ""
    name: str = ""


class _Range(msgspec.Struct):
    type: str
    events: list[dict[str, str]] = []


class _Affected(msgspec.Struct):
    package: _Package | None = None
    ranges: list[_Range] = []
    versions: list[str] = []
    ecosystem_specific: dict[str, Any] | None = None


class _Report(msgspec.Struct):
    id: str
    affected: list[msgspec.Raw] = []
    modified: str | None = None
    withdrawn: str | None = None
    aliases: list[str] = []
    upstream: list[str] = []


class Osv:
    """Reports, as far as they are about the packages that are wanted. Give each to `add`."""

    weak = False

    def __init__(self, wanted: Wanted, account: Account) -> None:
        account.kind = "OSV"
        self._wanted, self._account = wanted, account
        self._found: dict[str, list[tuple[list[str], str, str | None, _Affected]]] = {}

    def add(self, data: bytes | msgspec.Raw) -> None:
        """Add a report; one that cannot be understood is refused, and what can be of it is kept."""
        try:
            report = msgspec.json.decode(data, type=_Report)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            self._account.refuse(str(error))
            return
        names = _names(report)
        if not names:
            self._account.refuse("a report whose id is no name of a hole")
            return
        if report.withdrawn:
            return
        for raw in report.affected:
            self._one(report, names, raw)

    def about(self, version: Version) -> Iterator[Opinion]:
        """Yield what the reports say of a version."""
        ours = versions.key(version.source_version)
        if ours is None:
            return
        release = self._wanted.release or release_of(version.source_version)
        said: dict[str, list[tuple[str, Opinion]]] = {}
        for holes, report, codename, affected in self._found.get(version.source, ()):
            if codename is None or release is None or codename == release:
                for hole in holes:
                    basis = f"{self._account.name}: {report}" + (f" for {codename}" if codename else "")
                    said.setdefault(hole, []).append(
                        (codename or "", _judge(hole, affected, version.source_version, ours, basis))
                    )
        for each in said.values():
            yield _agreed([opinion for _, opinion in each], releases=len({codename for codename, _ in each}))

    def _one(self, report: _Report, names: list[str], raw: msgspec.Raw) -> None:
        try:
            affected = msgspec.json.decode(raw, type=_Affected)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            self._account.refuse(f"a package of a report: {error}")
            return
        package = affected.package
        if package is None or package.name not in self._wanted.sources:
            return
        ecosystem, _, number = package.ecosystem.partition(":")
        if ecosystem != "Debian":
            return
        if sum(len(one.events) for one in affected.ranges) > _MOST_EVENTS:
            self._account.refuse("a package of a report: too many events")
            return
        codename = CODENAMES.get(int(number)) if number.isascii() and number.isdigit() and len(number) < 4 else None
        self._found.setdefault(package.name, []).append((names, report.id, codename, affected))
        self._account.statements += len(names)
        if (made := _time(report.modified)) is not None:
            self._account.date = max(self._account.date or 0, made)


def _names(report: _Report) -> list[str]:
    """Return the holes that a report is about: CVE names where it has any, for others use these."""
    if len(report.aliases) + len(report.upstream) > _MOST_NAMES:
        return []
    found = [hole for text in (report.id, *report.aliases, *report.upstream) for hole in HOLE.findall(text[:100])]
    return list(dict.fromkeys(found)) or ([report.id] if NAME.fullmatch(report.id) else [])


def _judge(hole: str, affected: _Affected, version: str, ours: versions.Key, basis: str) -> Opinion:
    said = (affected.ecosystem_specific or {}).get("urgency")
    urgency = said if isinstance(said, str) and said != "not yet assigned" else None
    fixed_in: list[str] = []
    inside = version in affected.versions
    before = bool(affected.ranges)
    ordered = False
    for one in affected.ranges:
        if one.type != "ECOSYSTEM":
            continue
        ordered = True
        events = []
        for event in one.events:
            for what, at in event.items():
                place = versions.LEAST if at == "0" else versions.key(at)
                if place is None:
                    return Opinion(hole, State.UNKNOWN, None, "a version in it is none", urgency, basis)
                # Of what happens at one version, the end of a range comes first.
                events.append((place, what == "introduced", what, at))
        open_ = False
        for place, _, what, at in sorted(events):
            if what == "introduced" and place <= ours:
                open_, before = True, False
            elif what in ("fixed", "limit"):
                fixed_in += [at] if what == "fixed" else []
                open_ = open_ and place > ours
            elif what == "last_affected":
                open_ = open_ and place >= ours
        inside = inside or open_
    later = [at for at in fixed_in if (versions.key(at) or versions.LEAST) > ours]
    if inside:
        least = min(later, key=lambda at: versions.key(at) or versions.LEAST, default=None)
        return Opinion(hole, State.AFFECTED, least, None, urgency, basis)
    if not ordered:
        return Opinion(hole, State.UNKNOWN, None, "it does not say in which versions", urgency, basis)
    if before:
        return Opinion(hole, State.NOT_AFFECTED, None, "it came in with a later version", urgency, basis)
    closed = [at for at in fixed_in if at not in later]
    most = max(closed, key=lambda at: versions.key(at) or versions.LEAST, default=None)
    return Opinion(hole, State.FIXED, most, None, urgency, basis)


def _agreed(each: list[Opinion], *, releases: int) -> Opinion:
    """Put together what several reports, or one for several releases, say of a hole."""
    closed = (State.FIXED, State.NOT_AFFECTED)
    sure = [opinion for opinion in each if opinion.state is not State.UNKNOWN] or each
    if len({opinion.state in closed for opinion in sure}) == 1:
        return sure[0]
    first = next(opinion for opinion in sure if opinion.state is State.AFFECTED)
    why = "it depends on the release, which is not known" if releases > 1 else "the reports do not agree"
    told = ": " + "; ".join(f"{opinion.state.value} ({opinion.basis.rpartition(': ')[2]})" for opinion in sure)
    return first._replace(state=State.MAYBE, why=why + told)


def _time(text: str | None) -> int | None:
    try:
        return int(datetime.fromisoformat(text or "").timestamp()) * 10**9
    except (ValueError, OverflowError, OSError):
        return None
