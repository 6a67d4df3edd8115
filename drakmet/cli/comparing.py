# SPDX-License-Identifier: GPL-2.0-or-later
"""Compares a session's applications with advisories: what ``drakmet holes`` and ``drakmet scan`` have in common."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from drakmet.errors import UsageError
from drakmet.holes.book import Account
from drakmet.holes.changelogs import Changelogs
from drakmet.holes.compare import applications, compare, wanted
from drakmet.holes.files import load
from drakmet.holes.opinion import Nothing, State
from drakmet.holes.records import HOLE_RECORDS
from drakmet.identity import Identities
from drakmet.records import Coverage, CoverageKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from drakmet.holes.compare import Ran
    from drakmet.holes.opinion import Advisories, Version
    from drakmet.records import Record

_MOST_TOLD = 20


def compare_with(
    session: int,
    ran: Iterable[Ran],
    put: Callable[[Record], None],
    identity: Path | None,
    paths: Sequence[Path],
    release: str | None,
) -> list[str]:
    """Put the holes of what ran in a session, and what they rest on; return what could not be understood.

    ``identity`` is a database of code pages with changelogs. A file that cannot be used is told like a part that
    cannot; `UsageError` if there is no other.
    """
    begun = time.time_ns()
    all_of = applications(ran)
    asked = wanted(all_of, release)
    with ExitStack() as stack:
        advisories: list[tuple[Account, Advisories]] = []
        for path in paths:
            try:
                advisories += load([path], asked)
            except UsageError as error:
                if len(paths) == 1 and identity is None:
                    raise
                account = Account(path.name, kind="not read")
                account.refuse(error.what)
                advisories.append((account, Nothing()))
        if identity is not None:
            identities = stack.enter_context(Identities.open(identity))
            account = Account(identity.name, digest=_digest(identity), date=identity.stat().st_mtime_ns)
            advisories.append((account, Changelogs(identities.lines_of, account)))
        spoken = {version.package for one in all_of for version in one.versions if _spoken(advisories, version)}
        for row in compare(session, all_of, advisories):
            put(row)
    told = [
        f"{account.name}: {reason}" + (f" ({count} times)" if count > 1 else "")
        for account, _ in advisories
        for reason, count in account.refused.most_common(_MOST_TOLD)
    ]
    _book(session, put, begun, told, sorted(asked.packages - spoken))
    return told


def _spoken(advisories: Sequence[tuple[Account, Advisories]], version: Version) -> bool:
    """Tell whether advisories that are no changelogs say anything of a version."""
    return any(
        opinion.state is not State.UNKNOWN for _, one in advisories if not one.weak for opinion in one.about(version)
    )


def _book(session: int, put: Callable[[Record], None], begun: int, told: list[str], silent: list[str]) -> None:
    """Write down that somebody looked for holes, and of which packages nobody speaks."""
    tables = [record.table for record in HOLE_RECORDS]
    now = time.time_ns()
    put(Coverage(session=session, plugin="holes", trap="advisories", tables=tables, begin=begun, end=now))
    gaps = told[:_MOST_TOLD]
    if silent:
        more = f" and {len(silent) - _MOST_TOLD} more" if len(silent) > _MOST_TOLD else ""
        gaps.append(f"no advisory but changelogs speaks of {', '.join(silent[:_MOST_TOLD])}{more}")
    if gaps:
        kind = CoverageKind.UNREADABLE.value
        put(
            Coverage(
                session=session,
                plugin="holes",
                trap="advisories",
                tables=tables,
                begin=begun,
                end=now,
                kind=kind,
                gap="; ".join(gaps),
            )
        )


def _digest(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
