# SPDX-License-Identifier: GPL-2.0-or-later
"""What pages say of the file they are mapped from: a set of files and versions that each further page narrows."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from drakmet.identity.database import Place


class Verdict(enum.Enum):
    """What can be said of the pages of a file."""

    VERIFIED = "verified"
    MODIFIED = "modified"
    UNKNOWN = "unknown"
    UNVERIFIABLE = "unverifiable"


class Match(NamedTuple):
    """A place that a page is known from; package and version are ``None`` for a file outside packages."""

    package: str | None
    version: str | None
    architecture: str | None
    path: str
    build_id: str | None
    number: int
    source: str | None = None
    source_version: str | None = None


class Answer(NamedTuple):
    """A verdict, the versions that agree with every known page, and the number of known pages and of all."""

    verdict: Verdict
    versions: frozenset[tuple[str | None, str | None]]
    known: int
    pages: int


class Judgement(NamedTuple):
    """What pages say that are mapped from one file, each at its own place in it.

    ``files`` agree with every page (verified), or with more than any other file and at least half of the pages
    (modified: all but the pages ``differing``, by their number in the file). ``known`` is the number of pages that
    they agree with, of ``pages`` that were seen.
    """

    verdict: Verdict
    files: tuple[Match, ...]
    known: int
    differing: tuple[int, ...]
    pages: int = 0

    @property
    def versions(self) -> frozenset[tuple[str | None, str | None]]:
        """The versions of the files, by package."""
        return frozenset((match.package, match.version) for match in self.files)


class Narrowing:
    """The pages seen so far of one mapped file, and the codes that agree with them.

    A page whose place in the file is not known is given the number -1: it counts for each code that has it anywhere.
    Of a place that shows one page now and another later, both are counted.
    """

    def __init__(self) -> None:
        self._seen: set[tuple[int, bytes]] = set()
        self._agreeing: dict[int, set[tuple[int, bytes]]] = {}

    @property
    def pages(self) -> int:
        """The number of pages that were seen, at different places or with different content."""
        return len(self._seen)

    def add(self, pages: Iterable[tuple[int, bytes]], found: Mapping[bytes, Sequence[Place]]) -> bool:
        """Count pages, given as number in the file and hash, and where each hash is known from; True if any is new."""
        new = False
        for page in pages:
            if page in self._seen:
                continue
            new = True
            self._seen.add(page)
            number, digest = page
            for code, at in found.get(digest, ()):
                if number in (at, -1):
                    self._agreeing.setdefault(code, set()).add(page)
        return new

    def judge(self, files: Callable[[int], tuple[Match, ...]]) -> Judgement:
        """Return what the pages say; ``files`` tells the files that a code is of."""
        if not self._seen:
            return Judgement(Verdict.UNVERIFIABLE, (), 0, (), 0)
        known = max(map(len, self._agreeing.values()), default=0)
        # Fewer than half: another build shares pages with this one, and says nothing of what it is.
        if 2 * known < len(self._seen):
            return Judgement(Verdict.UNKNOWN, (), known, (), len(self._seen))
        codes = {code: pages for code, pages in self._agreeing.items() if len(pages) == known}
        named = tuple(sorted({match for code in codes for match in files(code)}, key=str))
        if known == len(self._seen):
            return Judgement(Verdict.VERIFIED, named, known, (), len(self._seen))
        least = set[tuple[int, bytes]]().union(*codes.values())
        differing = sorted({number for number, digest in self._seen if (number, digest) not in least and number >= 0})
        return Judgement(Verdict.MODIFIED, named, known, tuple(differing), len(self._seen))
