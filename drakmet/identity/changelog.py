# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's changelogs: the versions of a source package, newest first, and the holes each says it closes.

The form is that of deb-changelog(5). What is not of that form is skipped: changelogs are prose by many hands.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from drakmet.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_BYTES: Final = 1 << 25
_MOST_ENTRIES: Final = 20_000
_MOST_HOLES: Final = 100_000
_HEADING: Final = re.compile(r"(\S+) \(([^()\s]{1,200})\)[^;]*;")
_ITEM: Final = re.compile(r"\s+[*+-]\s")
HOLE: Final = re.compile(r"\bCVE-\d{4}-\d{4,19}\b")
"""A hole's name."""
# Items that name a hole and close none.
_NO_FIX: Final = re.compile(
    r"\brever(?:t|ts|ted|ting)\b|\bnot (?:yet )?(?:affected|vulnerable|fixed)\b|\bunaffected\b|"
    r"\b(?:not|n't) (?:affect|fix)\b|\bregressions?\b|"
    r"\b(?:drop|remov|disabl)\w*\b.*\bpatch",
    re.IGNORECASE,
)
_COMPLETES: Final = re.compile(r"\bincomplete\b|\bpartial(?:ly)?\b|\bcomplete the fix\b", re.IGNORECASE)


class Entry(NamedTuple):
    """A version, the holes that it closes, and those of them that a version before had closed in part."""

    source: str
    version: str
    fixes: frozenset[str]
    completes: frozenset[str]


def parse(packed: bytes, source: str) -> list[Entry]:
    """Return the entries of a compressed changelog, newest first; `UsageError` if it cannot be unpacked.

    A file whose headings name another source package, or that has none (an upstream changelog), has no entries.
    """
    try:
        unpack = zlib.decompressobj(wbits=31)
        data = unpack.decompress(packed, MOST_BYTES)
    except zlib.error as error:
        raise UsageError(f"the changelog cannot be unpacked: {error}") from error
    if not unpack.eof and not unpack.unconsumed_tail:
        raise UsageError("the changelog is cut off")
    entries: list[Entry] = []
    holes = 0
    for name, version, items in _sections(data.decode("utf-8", "replace")):
        # A source package that got another name has its history under the old one.
        if not entries and name != source:
            return []
        fixes: set[str] = set()
        completes: set[str] = set()
        for item in items:
            if not _NO_FIX.search(item):
                found = HOLE.findall(item)
                fixes.update(found)
                if _COMPLETES.search(item):
                    completes.update(found)
        holes += len(fixes)
        if len(entries) >= _MOST_ENTRIES or holes > _MOST_HOLES:
            break
        entries.append(Entry(source, version, frozenset(fixes), frozenset(completes)))
    return entries


def _sections(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield name, version and items of each entry; an item's lines are joined."""
    heading: tuple[str, str] | None = None
    items: list[list[str]] = []
    for line in text.splitlines():
        if found := _HEADING.match(line):
            if heading:
                yield *heading, [" ".join(item) for item in items]
            heading, items = (found[1], found[2]), []
        elif heading and line[:1] in (" ", "\t"):
            if line.startswith(" -- "):
                continue
            if _ITEM.match(line) or not items:
                items.append([])
            items[-1].append(line.strip())
    if heading:
        yield *heading, [" ".join(item) for item in items]
