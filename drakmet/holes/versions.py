# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's order of versions (deb-version(7)), as keys that compare like dpkg does."""

from __future__ import annotations

import functools
import re
from typing import Final

_LONGEST: Final = 256
_VERSION: Final = re.compile(r"(?:(\d{1,9}):)?([0-9A-Za-z.+~-]*?[0-9A-Za-z.+~])(?:-([0-9A-Za-z.+~]+))?", re.ASCII)
_PART: Final = re.compile(r"(\D*)(\d*)")
_REBUILT: Final = re.compile(r"\+b\d+$")

Key = tuple[int, tuple[tuple[tuple[int, ...], int], ...], tuple[tuple[tuple[int, ...], int], ...]]
_NOTHING: Final = ((0,), 0)
LEAST: Final[Key] = (-1, (), ())
"""A key below those of all versions."""


@functools.lru_cache(1 << 16)
def key(version: str) -> Key | None:
    """Return what a version is ordered by; ``None`` for a text that is none."""
    found = _VERSION.fullmatch(version) if len(version) <= _LONGEST else None
    if found is None:
        return None
    epoch, upstream, revision = found.groups()
    return int(epoch or 0), _parts(upstream), _parts(revision or "")


def upstream(version: str) -> str:
    """Return the version without epoch and revision: what the source code's authors call it."""
    rest = version.rpartition(":")[2]
    return rest.rpartition("-")[0] or rest


def source_version(version: str) -> str:
    """Return the version of the source of a package that was only built again: without ``+b1``."""
    return _REBUILT.sub("", version)


def _parts(text: str) -> tuple[tuple[tuple[int, ...], int], ...]:
    """Split into letters and numbers by turns; what is missing at the end counts as nothing and as 0."""
    parts = [
        ((*map(_order, letters), 0), int(digits or 0)) for letters, digits in _PART.findall(text) if letters or digits
    ]
    while parts and parts[-1] == _NOTHING:
        parts.pop()
    return (*parts, _NOTHING)


def _order(character: str) -> int:
    # The end of the letters is 0: a tilde comes before it, all others after, letters first.
    return -1 if character == "~" else ord(character) if character.isalpha() else ord(character) + 256
