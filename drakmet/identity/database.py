# SPDX-License-Identifier: GPL-2.0-or-later
"""A database of code pages: built from packages and files, asked with many hashes at once."""

from __future__ import annotations

import enum
import os
import sqlite3
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from drakmet.errors import StoreError, UsageError
from drakmet.identity import changelog, changes, deb, elf
from drakmet.pages import page_hash

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

VERSION: Final = 2
_BATCH: Final = 500
_APPLICATION: Final = 0x64726B69  # "drki"
_SCHEMA: Final = """
CREATE TABLE file (id INTEGER PRIMARY KEY, package TEXT, version TEXT, architecture TEXT, path TEXT NOT NULL,
                   build_id TEXT, source TEXT, source_version TEXT, UNIQUE (package, version, architecture, path));
CREATE TABLE page (hash BLOB, file INTEGER, number INTEGER, PRIMARY KEY (hash, file, number)) WITHOUT ROWID;
"""
"""The tables of pages; `drakmet.identity.changes` adds its own."""


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
    they agree with.
    """

    verdict: Verdict
    files: tuple[Match, ...]
    known: int
    differing: tuple[int, ...]


class Identities:
    """An open database. Close it, or use it in ``with``."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, path: Path, *, create: bool = False) -> Self:
        """Open a database, or make one; `StoreError` if it is none or of another version."""
        if not path.exists():
            if not create:
                raise StoreError("there is no such file", where=str(path), hint="make one: drakmet identity build")
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        connection = sqlite3.connect(path)
        try:
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if create and not application and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                connection.executescript(
                    f"{_SCHEMA} {changes.SCHEMA}"
                    f" PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {VERSION};"
                )
                application, version = _APPLICATION, VERSION
        except sqlite3.Error as error:
            connection.close()
            raise StoreError(f"not an identity database: {error}", where=str(path)) from error
        if application != _APPLICATION or version != VERSION:
            connection.close()
            what = "not an identity database" if application != _APPLICATION else f"a database of version {version}"
            raise StoreError(what, where=str(path), hint=f"this drakmet reads version {VERSION}; build it anew")
        return cls(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def add(self, source: Path) -> int:
        """Add a package or an ELF file, whole or not at all; return its number of executable pages."""
        try:
            data = source.read_bytes()
        except OSError as error:
            raise UsageError(f"cannot be read: {error.strerror}", where=str(source)) from error
        try:
            with self._connection:
                if data[:8] == deb.MAGIC:
                    return self._add_package(*deb.read(data))
                return self._add(None, str(source.resolve()), data)
        except UsageError as error:
            raise UsageError(error.what, where=str(source), hint=error.hint) from error

    def _add_package(self, package: deb.Package, files: Iterable[tuple[str, bytes]]) -> int:
        pages = 0
        for path, body in files:
            if deb.is_changelog(path):
                changes.add(self._connection, changelog.parse(body, package.source))
            else:
                pages += self._add(package, path, body)
        return pages

    def _add(self, package: deb.Package | None, path: str, data: bytes) -> int:
        build_id, pages = elf.read(data)
        path = path.encode("utf-8", "backslashreplace").decode()
        if not pages:
            return 0
        named: tuple[str | None, ...] = tuple(package) if package else (None,) * 5
        key = (*named[:3], path)
        run = self._connection.execute
        where = "package IS ? AND version IS ? AND architecture IS ? AND path = ?"
        for (old,) in run(f"SELECT id FROM file WHERE {where}", key).fetchall():  # noqa: S608 - a constant
            run("DELETE FROM page WHERE file = ?", (old,))
            run("DELETE FROM file WHERE id = ?", (old,))
        row = run("INSERT INTO file VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", (*key, build_id, *named[3:])).lastrowid
        self._connection.executemany(
            "INSERT INTO page VALUES (?, ?, ?)", ((page_hash(page), row, number) for number, page in pages)
        )
        return len(pages)

    def lookup(self, hashes: Iterable[bytes]) -> dict[bytes, list[Match]]:
        """Return the places that each hash is known from; hashes that are not known are not in the answer."""
        wanted = list(set(hashes))
        found: dict[bytes, list[Match]] = {}
        for start in range(0, len(wanted), _BATCH):
            batch = wanted[start : start + _BATCH]
            marks = ",".join("?" * len(batch))
            columns = "hash, package, version, architecture, path, build_id, number, source, source_version"
            query = f"SELECT {columns} FROM page JOIN file ON file.id = page.file WHERE hash IN ({marks})"  # noqa: S608
            for row in self._connection.execute(query, batch):
                found.setdefault(row[0], []).append(Match(*row[1:]))
        return found

    def narrow(self, hashes: Sequence[bytes]) -> Answer:
        """Judge pages that are mapped from one file by the versions that each of them is known from."""
        if not hashes:
            return Answer(Verdict.UNVERIFIABLE, frozenset(), 0, 0)
        found = self.lookup(hashes)
        sets = [frozenset((m.package, m.version) for m in found[one]) for one in hashes if one in found]
        if not sets:
            return Answer(Verdict.UNKNOWN, frozenset(), 0, len(hashes))
        versions = frozenset.intersection(*sets)
        whole = len(sets) == len(hashes) and bool(versions)
        return Answer(Verdict.VERIFIED if whole else Verdict.MODIFIED, versions, len(sets), len(hashes))

    def judge(self, pages: Sequence[tuple[int, bytes]]) -> Judgement:
        """Judge pages of one file, given as number in the file and hash, by the files that have them at that place."""
        if not pages:
            return Judgement(Verdict.UNVERIFIABLE, (), 0, ())
        found = self.lookup(digest for _, digest in pages)
        having: dict[Match, set[int]] = {}
        for number, digest in pages:
            for match in found.get(digest, ()):
                if match.number == number:
                    having.setdefault(match._replace(number=0), set()).add(number)
        known = max(map(len, having.values()), default=0)
        # Fewer than half: another build shares pages with this one, and says nothing of what it is.
        if 2 * known < len(pages):
            return Judgement(Verdict.UNKNOWN, (), known, ())
        files = {match: numbers for match, numbers in having.items() if len(numbers) == known}
        named = tuple(sorted(files, key=str))
        if known == len(pages):
            return Judgement(Verdict.VERIFIED, named, known, ())
        least = set[int]().union(*files.values())
        return Judgement(Verdict.MODIFIED, named, known, tuple(n for n, _ in pages if n not in least))

    def lines_of(self, source: str) -> changes.Lines:
        """Return what the changelogs of a source package's versions tell."""
        return changes.load(self._connection, source)

    def packages(self) -> Iterator[dict[str, str | int | None]]:
        """Yield package, version, architecture and the numbers of files and pages, in the order of the alphabet."""
        query = (
            # One pass over all pages: to look them up by file would take an index, at a third of the database's size.
            "WITH counted AS (SELECT file, count(*) AS pages FROM page GROUP BY file)"
            " SELECT package, version, architecture, count(*), total(pages) FROM file"
            " LEFT JOIN counted ON counted.file = file.id"
            " GROUP BY package, version, architecture ORDER BY package, version, architecture"
        )
        for package, version, architecture, files, pages in self._connection.execute(query):
            yield {
                "package": package,
                "version": version,
                "architecture": architecture,
                "files": files,
                "pages": int(pages),
            }

    def stats(self) -> dict[str, int]:
        """Return the numbers of packages in their versions, files, distinct pages, and bytes of the database."""
        one = self._connection.execute
        query = "SELECT count(*) FROM (SELECT DISTINCT package, version FROM file WHERE package IS NOT NULL)"
        return {
            "packages": one(query).fetchone()[0],
            "files": one("SELECT count(*) FROM file").fetchone()[0],
            "pages": one("SELECT count(DISTINCT hash) FROM page").fetchone()[0],
            "bytes": one("PRAGMA page_count").fetchone()[0] * one("PRAGMA page_size").fetchone()[0],
        }


def sources(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the packages and ELF files below directories, and what is named itself."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for below in sorted(path.rglob("*")):
            if below.is_file() and not below.is_symlink():
                with below.open("rb") as file:
                    start = file.read(21)
                # Static libraries are ar archives too.
                if start[:4] == elf.MAGIC or start == deb.MAGIC + b"debian-binary":
                    yield below
