# SPDX-License-Identifier: GPL-2.0-or-later
"""Compares applications that ran with advisories."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from drakmet.holes import versions
from drakmet.holes.book import Wanted
from drakmet.holes.opinion import Opinion, Version, by_hole, doubted, of_candidates
from drakmet.holes.records import Advisory, Hole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from drakmet.holes.book import Account
    from drakmet.holes.opinion import Advisories
    from drakmet.records import Record

MOST_HOLES: Final = 200_000
"""Rows of one session."""
_MOST_PATHS: Final = 20


class Ran(NamedTuple):
    """An application as one of its processes had it: what the table ``application`` says of it."""

    process: int | None
    path: str | None
    verdict: str | None
    candidates: tuple[str, ...]
    """``package version architecture path``, a dash for what is not known."""
    sources: tuple[str, ...]
    """``source version`` of each candidate; empty where an older drakmet stored it."""


@dataclass
class Application:
    """All that ran of one package in one version, or of versions that could not be told apart."""

    versions: tuple[Version, ...]
    doubt: str | None
    """Why it may be of none of them."""
    processes: set[int] = field(default_factory=set)
    paths: dict[str, None] = field(default_factory=dict)


def applications(ran: Iterable[Ran]) -> list[Application]:
    """Put together what ran of the same packages; what is of no package has no holes that anybody names."""
    found: dict[tuple[tuple[Version, ...], str | None], Application] = {}
    for one in ran:
        each = [_version(one, place) for place in range(len(one.candidates))]
        known = tuple(sorted({version for version in each if version is not None}))
        if not known:
            continue
        doubt = "its code in memory differs from the package's" if one.verdict == "modified" else None
        if None in each:
            doubt = "its pages are those of a file of no package, too"
        key = (known, doubt)
        application = found.setdefault(key, Application(*key))
        if one.process is not None:
            application.processes.add(one.process)
        if one.path is not None:
            application.paths[one.path] = None
    return list(found.values())


def wanted(all_of: Iterable[Application], release: str | None) -> Wanted:
    """Return whom to ask advisories about."""
    each = [version for one in all_of for version in one.versions]
    return Wanted(frozenset(v.source for v in each), frozenset(v.package for v in each), release)


def compare(
    session: int, ran: Sequence[Application], advisories: Sequence[tuple[Account, Advisories]], now: int | None = None
) -> Iterator[Record]:
    """Yield a row for each hole that advisories speak of in what ran, and one for each of the advisories."""
    now = time.time_ns() if now is None else now
    asked = [one for _, one in advisories]
    known = {version: by_hole(asked, version) for one in ran for version in one.versions}
    rows = 0
    for one in ran:
        for opinion in of_candidates([known[version] for version in one.versions]):
            rows += 1
            if rows <= MOST_HOLES:
                yield _row(session, now, one, opinion if one.doubt is None else doubted(opinion, one.doubt))
    for account, _ in advisories:
        if rows > MOST_HOLES:
            account.refuse(f"holes beyond the first {MOST_HOLES}")
        yield Advisory(
            session=session,
            time=now,
            name=account.name,
            kind=account.kind,
            digest=account.digest,
            date=account.date,
            statements=account.statements,
            refused=account.refused.total(),
            why="; ".join(f"{reason} ({count})" for reason, count in account.refused.most_common(5)) or None,
        )


def _row(session: int, now: int, one: Application, said: Opinion) -> Hole:
    packages = {version.package for version in one.versions}
    texts = {version.version for version in one.versions}
    sure = len(texts) == 1 and one.doubt is None
    sources = {version.source for version in one.versions}
    return Hole(
        session=session,
        time=now,
        process=min(one.processes, default=None),
        hole=said.hole,
        state=said.state.value,
        package=packages.pop() if len(packages) == 1 else None,
        version=texts.pop() if sure else None,
        versions=[f"{version.package} {version.version}" for version in one.versions],
        source=sources.pop() if len(sources) == 1 else None,
        fixed_in=said.fixed_in,
        urgency=said.urgency,
        processes=len(one.processes),
        paths=list(one.paths)[:_MOST_PATHS],
        rests_on=said.basis or None,
        why=said.why,
    )


def _version(one: Ran, place: int) -> Version | None:
    """Return a candidate; None for a file of no package."""
    package, version, *_ = (*one.candidates[place].split(" ", 3), "-", "-")
    if package in ("-", "") or version in ("-", ""):
        return None
    source, _, source_version = (one.sources[place] if place < len(one.sources) else "").partition(" ")
    if source in ("-", ""):
        source, source_version = package, versions.source_version(version)
    return Version(package, version, source, source_version)
