# SPDX-License-Identifier: GPL-2.0-or-later
"""A database of code pages, asked with many hashes at once. `drakmet.identity.filling` puts pages in."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, Final, Self

from drakmet.errors import StoreError
from drakmet.identity import changes, schema
from drakmet.identity.narrowing import Answer, Judgement, Match, Narrowing, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

_BATCH: Final = 500
_MOST_CODES: Final = 1 << 16


Place = tuple[int, int]
"""A code that has a page, by its number in the database, and the page's number in the file."""


class Identities:
    """An open database. Close it, or use it in ``with``."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.connection = connection
        self.path = path
        self._files: dict[int, tuple[Match, ...]] = {}

    @classmethod
    def open(cls, path: Path, *, create: bool = False) -> Self:
        """Open a database, or make one; `StoreError` if it is none or of another version."""
        return cls(schema.connect(path, create=create), path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def add(self, source: Path) -> int:
        """Add a package or a program's file, whole or not at all; return its number of executable pages."""
        from drakmet.identity.filling import Filler

        return Filler(self).add_file(source)

    def forget(self) -> None:
        """Drop what is remembered of files, after some were changed."""
        self._files.clear()

    def places(self, hashes: Iterable[bytes]) -> dict[bytes, list[Place]]:
        """Return where each hash is known from; hashes that are not known are not in the answer."""
        # In their order, so that one page of the file is read after the other.
        wanted = sorted(set(hashes))
        found: dict[bytes, list[Place]] = {}
        get = found.get
        for start in range(0, len(wanted), _BATCH):
            batch = wanted[start : start + _BATCH]
            marks = ",".join("?" * len(batch))
            query = f"SELECT hash, code, number FROM page WHERE hash IN ({marks})"  # noqa: S608 - question marks
            for digest, code, number in self._all(query, batch):
                known = get(digest)
                if known is None:
                    found[digest] = [(code, number)]
                else:
                    known.append((code, number))
        return found

    def files(self, code: int) -> tuple[Match, ...]:
        """Return the files that a code is of, each with the page number 0."""
        known = self._files.get(code)
        if known is None:
            query = (
                "SELECT name, version, architecture, path, build_id, 0, source, source_version"
                " FROM file JOIN code ON code.id = file.code"
                " LEFT JOIN package ON package.id = file.package WHERE file.code = ?"
            )
            # Once each, however many sources have the file.
            known = tuple(sorted({Match(*row) for row in self._rows(query, (code,))}, key=str))
            if len(self._files) >= _MOST_CODES:
                self._files.clear()
            self._files[code] = known
        return known

    def lookup(self, hashes: Iterable[bytes]) -> dict[bytes, list[Match]]:
        """Return the files that each hash is known from; hashes that are not known are not in the answer."""
        of, known = self.files, self._files.get
        # No _replace: it takes longer than all the rest.
        return {
            digest: [
                Match(*match[:5], number, *match[6:]) for code, number in places for match in known(code) or of(code)
            ]
            for digest, places in self.places(hashes).items()
        }

    def narrow(self, hashes: Sequence[bytes]) -> Answer:
        """Judge pages that are mapped from one file by the versions that each of them is known from."""
        if not hashes:
            return Answer(Verdict.UNVERIFIABLE, frozenset(), 0, 0)
        found = self.places(hashes)
        sets = [self._versions({code for code, _ in found[one]}) for one in hashes if one in found]
        if not sets:
            return Answer(Verdict.UNKNOWN, frozenset(), 0, len(hashes))
        versions = frozenset.intersection(*sets)
        whole = len(sets) == len(hashes) and bool(versions)
        return Answer(Verdict.VERIFIED if whole else Verdict.MODIFIED, versions, len(sets), len(hashes))

    def judge(self, pages: Sequence[tuple[int, bytes]]) -> Judgement:
        """Judge pages of one file, given as number in the file and hash, by the files that have them at that place."""
        narrowing = Narrowing()
        narrowing.add(pages, self.places(digest for _, digest in pages))
        return narrowing.judge(self.files)

    def lines_of(self, source: str) -> changes.Lines:
        """Return what the changelogs of a source package's versions tell."""
        return changes.load(self.connection, source)

    def packages(self) -> Iterator[dict[str, str | int | None]]:
        """Yield package, version, architecture and the numbers of files and pages, in the order of the alphabet."""
        query = (
            "SELECT name, version, architecture, count(*), total(pages) FROM file JOIN code ON code.id = file.code"
            " LEFT JOIN package ON package.id = file.package"
            " GROUP BY package.id ORDER BY name, version, architecture"
        )
        for package, version, architecture, files, pages in self._rows(query):
            yield {
                "package": package,
                "version": version,
                "architecture": architecture,
                "files": files,
                "pages": int(pages),
            }

    def stats(self) -> dict[str, int]:
        """Return the numbers of packages in their versions, files, distinct pages, and bytes of the database."""

        def one(query: str) -> int:
            return int(next(iter(self._rows(query)))[0])

        used = "SELECT DISTINCT name, version FROM package JOIN file ON file.package = package.id"
        return {
            "sources": one("SELECT count(*) FROM origin"),
            "packages": one(f"SELECT count(*) FROM ({used})"),  # noqa: S608 - a constant
            "files": one("SELECT count(*) FROM file"),
            "pages": one("SELECT count(DISTINCT hash) FROM page"),
            "bytes": (one("PRAGMA page_count") - one("PRAGMA freelist_count")) * one("PRAGMA page_size"),
        }

    def _versions(self, codes: Iterable[int]) -> frozenset[tuple[str | None, str | None]]:
        return frozenset((match.package, match.version) for code in codes for match in self.files(code))

    def _all(self, query: str, values: Sequence[object]) -> list[Any]:
        try:
            return self.connection.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._unreadable(error) from error

    def _rows(self, query: str, values: Sequence[object] = ()) -> Iterator[Any]:
        try:
            yield from self.connection.execute(query, values)
        except sqlite3.DatabaseError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: sqlite3.DatabaseError) -> StoreError:
        return StoreError(f"the identity database cannot be read: {error}", where=str(self.path), hint="build it anew")
