# SPDX-License-Identifier: GPL-2.0-or-later
"""What is written down of holes in running applications, and of the advisories that tell of them."""

from __future__ import annotations

from typing import Annotated, ClassVar

from drakmet.records import EventRecord, Record


class Advisory(Record):
    """An advisory file, or changelogs, that running applications were compared with; a row each time."""

    session: Annotated[int, "session.id of the run that saw the applications"]
    time: Annotated[int, "when they were compared: nanoseconds since 1970-01-01 UTC; hole.time is the same"]
    name: Annotated[str, "the file's name"]
    kind: Annotated[str, "Debian security tracker, OSV, debsecan data, debsecan report, or changelogs"]
    digest: Annotated[str, "its SHA-256 in hex; of a directory that over the digests of its files"]
    date: Annotated[int | None, "when it was made, as far as that is known: nanoseconds since 1970-01-01 UTC"] = None
    statements: Annotated[int, "what it says of the packages that ran: pairs of a hole and a package"] = 0
    refused: Annotated[int, "parts that could not be understood"] = 0
    why: Annotated[str | None, "why they could not"] = None


class Hole(EventRecord):
    """A known hole, and whether an application that ran in some version has it. What is not here is not known.

    ``time`` is when it was compared, so that of several comparisons the last one counts; ``process`` is one of those
    that ran the application.
    """

    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("package", "state"),)

    hole: Annotated[str, "its name, such as CVE-2026-35189"]
    state: Annotated[str, "affected, may be affected, not known, fixed or not affected"]
    package: Annotated[str | None, "the package that ran"] = None
    version: Annotated[str | None, "the version that ran, if its pages leave one only"] = None
    versions: Annotated[list[str], "each package and version that it may be"]
    source: Annotated[str | None, "the package's source, by which most advisories go"] = None
    fixed_in: Annotated[str | None, "the source's version that closes it; of the guest's release if that is known"] = (
        None
    )
    urgency: Annotated[str | None, "how urgent the distribution calls it"] = None
    processes: Annotated[int, "processes that ran the application"] = 0
    paths: Annotated[list[str], "the files of it that ran, some of them"]
    rests_on: Annotated[str | None, "the advisories that say so"] = None
    why: Annotated[str | None, "what is doubtful, or what the distribution remarks"] = None


HOLE_RECORDS: tuple[type[Record], ...] = (Advisory, Hole)
"""The tables of this room."""
