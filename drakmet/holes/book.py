# SPDX-License-Identifier: GPL-2.0-or-later
"""What advisory files have in common: whom they are asked about, and the account of what was read and refused."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

NAME: Final = re.compile(r"[A-Z][A-Za-z0-9]{1,15}-[0-9A-Za-z][0-9A-Za-z:.-]{0,63}")
"""The name of a hole: CVE-2026-35189, DSA-5532-1, TEMP-0000000-8EB9C2..."""
_BRANCH: Final = re.compile(r"[+~]deb(\d{1,2})u\d")
CODENAMES: Final = {
    8: "jessie", 9: "stretch", 10: "buster", 11: "bullseye", 12: "bookworm", 13: "trixie", 14: "forky", 15: "duke",
}  # fmt: skip
"""Debian's releases by their numbers, which versions of their updates bear (``~deb12u2``)."""
_REASONS: Final = 1000


@dataclass
class Account:
    """What was read of an advisory file. ``date`` is when it was made, in nanoseconds, as far as that is known."""

    name: str
    kind: str = ""
    digest: str = ""
    date: int | None = None
    statements: int = 0
    """Pairs of a hole and a package that was asked about."""
    refused: Counter[str] = field(default_factory=Counter)

    def refuse(self, reason: str) -> None:
        """Count a part that cannot be understood."""
        self.refused[reason if reason in self.refused or len(self.refused) < _REASONS else "other reasons"] += 1


@dataclass(frozen=True)
class Wanted:
    """The packages that are asked about, by the names of sources and binaries, and the guest's release if given."""

    sources: frozenset[str]
    packages: frozenset[str]
    release: str | None = None


def release_of(version: str) -> str | None:
    """Return the codename of the release whose update a version is; None if the version does not say so."""
    found = _BRANCH.search(version)
    return CODENAMES.get(int(found[1])) if found else None
