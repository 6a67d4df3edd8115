# SPDX-License-Identifier: GPL-2.0-or-later
"""The record of a named application, of a scan or a watch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from drakmet.identity import Judgement, Verdict
from drakmet.records import EventRecord

if TYPE_CHECKING:
    from collections.abc import Iterable


class Application(EventRecord):
    """A program or library, named by the pages of its code that are in memory (scan) or were executed (watch).

    Only where a database of code pages was given (``drakmet identity``). A scan writes a row for each process that has
    mapped the file; a watch one when the first pages of a file ran, and one whenever more pages change what is known.
    """

    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("process",), ("path",))

    path: Annotated[str | None, "the file; [vdso], [jit], [anonymous], [heap] or [stack] for code without one"] = None
    verdict: Annotated[str | None, "verified, modified (a known file but for some pages), unknown, unverifiable"] = None
    why: Annotated[str | None, "why nothing can be verified"] = None
    package: Annotated[str | None, "the package, if all files that agree are of one"] = None
    version: Annotated[str | None, "its version, if the pages leave one only"] = None
    candidates: Annotated[list[str] | None, "package, version, architecture and path of all files that agree"] = None
    sources: Annotated[list[str] | None, "source package of each of them and its version, by which holes go"] = None
    build_id: Annotated[str | None, "the file's build-id in hex, if all that agree have one"] = None
    pages: Annotated[int | None, "pages of code that were read: what the verdict rests on"] = None
    known: Annotated[int | None, "those of them that the candidates have at the same place"] = None
    differing: Annotated[list[int] | None, "numbers, in the file, of pages that are not as in the candidates"] = None
    subject: Annotated[
        int | None, "of a watch: the file's number in its session; of rows with the same the last one counts"
    ] = None
    first: Annotated[int | None, "of a watch: when its first page ran, nanoseconds since 1970-01-01 UTC"] = None


LAST = (
    "(subject IS NULL OR id IN (SELECT max(id) FROM application WHERE subject IS NOT NULL GROUP BY session, subject))"
)
"""SQL over the table ``application``: the rows that count, where a watch has told of a file several times."""


def told(said: Judgement) -> dict[str, Any]:
    """Return what a judgement says, as columns of an `Application`; a version only where the pages leave one."""
    sure = said.verdict is Verdict.VERIFIED
    versions = {(match.package, match.version) for match in said.files}
    return {
        "verdict": said.verdict.value,
        "package": _only(match.package for match in said.files),
        "version": next(iter(versions))[1] if sure and len(versions) == 1 else None,
        "candidates": [" ".join(part or "-" for part in match[:4]) for match in said.files] or None,
        "sources": [f"{match.source or '-'} {match.source_version or '-'}" for match in said.files] or None,
        "build_id": _only(match.build_id for match in said.files) if sure else None,
        "known": said.known,
        "differing": list(said.differing) or None,
    }


def _only(values: Iterable[str | None]) -> str | None:
    found = set(values)
    return found.pop() if len(found) == 1 else None
