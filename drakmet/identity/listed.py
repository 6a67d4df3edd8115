# SPDX-License-Identifier: GPL-2.0-or-later
"""Lists of hashes that somebody hands in: of pages, which can be looked for in memory, and of files, which cannot.

A line is a hash and, after a blank, comma or semicolon, what it is: ``page:HASH NAME`` for a page
(`drakmet.pages.page_hash`), else MD5, SHA-1 or SHA-256 of a file, as ``sha256sum`` and feeds in CSV have it. Lines that
begin with ``#`` are remarks.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from drakmet.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_MOST_BYTES: Final = 1 << 30
_MOST_NAMES: Final = 8
"""Names that are kept for one page."""
_LINE: Final = re.compile(r'\s*"?(?:(page|md5|sha1|sha256):)?([0-9A-Fa-f]{32,64})"?(?:[\s,;*]+(.*))?')
_KINDS: Final = {32: "md5", 40: "sha1", 64: "sha256"}


@dataclass
class Listed:
    """What lists name: pages with their names, files by their digests in hex."""

    pages: dict[bytes, list[str]] = field(default_factory=dict)
    sizes: Counter[str] = field(default_factory=Counter)
    """Pages that are listed under a name."""
    files: dict[str, str] = field(default_factory=dict)
    refused: int = 0
    """Lines that are no hash."""

    def add(self, digest: bytes, name: str) -> None:
        """Add a page."""
        names = self.pages.setdefault(digest, [])
        if name not in names and len(names) < _MOST_NAMES:
            names.append(name)
            self.sizes[name] += 1

    def of_file(self, data: bytes) -> str | None:
        """Return what a file's content is listed as; None if it is not."""
        kinds = {len(digest) for digest in self.files}
        for size, kind in _KINDS.items():
            if size in kinds:
                found = self.files.get(hashlib.new(kind, data, usedforsecurity=False).hexdigest())
                if found is not None:
                    return found
        return None


def load(paths: Iterable[Path]) -> Listed:
    """Read lists; `UsageError` for one that cannot be read, or in which no line is a hash."""
    listed = Listed()
    for path in paths:
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise UsageError(f"it has more than {_MOST_BYTES >> 30} GiB", where=str(path))
            with path.open(encoding="utf-8", errors="replace") as file:
                found = _take(file, path.name, listed)
        except OSError as error:
            raise UsageError(f"cannot be read: {error.strerror}", where=str(path)) from error
        if not found:
            raise UsageError("no line of it is a hash", where=str(path), hint="a line is HASH NAME, or page:HASH NAME")
    return listed


def _take(lines: Iterable[str], file: str, listed: Listed) -> int:
    found = 0
    for line in lines:
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        seen = _LINE.fullmatch(line) if len(line) < 4096 else None
        kind, digest, rest = seen.groups() if seen else (None, "", None)
        if not (len(digest) == 32 if kind == "page" else kind in (None, _KINDS.get(len(digest))) and seen):
            listed.refused += 1
            continue
        name = (rest or "").strip().strip('"') or file
        if kind == "page":
            listed.add(bytes.fromhex(digest), name)
        elif len(digest) in _KINDS:
            listed.files.setdefault(digest.lower(), name)
        else:
            listed.refused += 1
            continue
        found += 1
    return found


def pages_of(data: bytes, name: str) -> Iterator[str]:
    """Yield the lines of a list for a program's pages of code; `UsageError` if the file is no program.

    Pages of one byte over and over say nothing of what has them, and are left out.
    """
    from drakmet.identity import code
    from drakmet.pages import page_hash

    blank = {page_hash(bytes([byte]) * 4096) for byte in (0x00, 0x90, 0xCC, 0xFF)}
    name = name.encode("utf-8", "backslashreplace").decode()
    name = "".join(c if c.isprintable() else "?" for c in name)
    for _, digest in code.read(data).pages:
        if digest not in blank:
            yield f"page:{digest.hex()}  {name}"
