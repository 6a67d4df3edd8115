# SPDX-License-Identifier: GPL-2.0-or-later
"""How packages, programs, folders, roots and disk images get into a database of code pages, and are kept up to date."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

from drakmet.errors import StoreError, UsageError
from drakmet.identity import changelog, changes, code, deb, disk, dpkg, elf, pe
from drakmet.identity.trees import Disk, Folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from drakmet.identity.database import Identities
    from drakmet.identity.deb import Package
    from drakmet.identity.trees import Entry, Tree

_HEAD: Final = 2048
_DEB: Final = deb.MAGIC + b"debian-binary"  # static libraries are ar archives too
_COMMIT_EVERY: Final = 20_000  # pages
DEB, PROGRAM, FOLDER, ROOT, IMAGE = "deb", "program", "folder", "root", "image"
_TREES: Final = (FOLDER, ROOT, IMAGE)


@dataclass
class Filled:
    """What was done with sources: files and packages read, broken, dropped as they are gone, and as they were."""

    added: int = 0
    failed: int = 0
    dropped: int = 0
    unchanged: int = 0
    changed: int = 0
    """Files at the path of a package's file that are not as the package has them; they are kept without its name."""
    broken: int = 0
    """Programs in packages that cannot be read; the packages are added without them."""
    pages: int = 0
    problems: list[str] = field(default_factory=list)


class _Source(NamedTuple):
    id: int
    size: int
    mtime: int
    digest: bytes | None


class Filler:
    """Puts sources into a database. ``tell`` gets what went wrong, ``progress`` the number of files read so far."""

    def __init__(
        self,
        identities: Identities,
        tell: Callable[[str], object] = lambda _: None,
        progress: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._identities = identities
        self._tell = tell
        self._progress = progress
        self.filled = Filled()
        self._waiting = 0
        self._begun = False
        self._loose = False

    # whole sources

    def add(self, path: Path) -> None:
        """Add a package, a program, a folder, an unpacked root or a raw disk image; what is broken is told, counted."""
        self._guarded(lambda: self._add(path.resolve()), str(path))

    def add_file(self, path: Path) -> int:
        """Add one package or program, whole or not at all; return its number of pages. `UsageError` if it is broken."""
        before = self.filled.pages
        try:
            self._put_file(path.resolve())
        finally:
            self.finish()
        return self.filled.pages - before

    def update(self) -> None:
        """Read again what changed since it was read, drop what is gone, and look for what is new in folders."""
        rows = self._run("SELECT location FROM origin WHERE tree IS NULL ORDER BY location").fetchall()
        for (location,) in rows:
            path = Path(location)
            if path.exists():
                self.add(path)
            else:
                self._drop(location)

    def finish(self) -> None:
        """Store what is not stored yet, and drop the pages that no file has any more."""
        if self._loose:
            unused = "SELECT id FROM code WHERE id NOT IN (SELECT code FROM file)"
            if self._run(unused).fetchone():
                self._run(f"DELETE FROM page WHERE code IN ({unused})")  # noqa: S608 - a constant
                self._run(f"DELETE FROM code WHERE id IN ({unused})")  # noqa: S608 - a constant
            self._run("DELETE FROM package WHERE id NOT IN (SELECT package FROM file WHERE package IS NOT NULL)")
            self._loose = False
        self._commit()
        self._identities.forget()

    def compact(self) -> None:
        """Write the database anew in its order, which makes it as small as it can be."""
        self.finish()
        self._run("VACUUM")

    def _add(self, path: Path) -> None:
        if path.is_dir():
            folder = Folder(path)
            owners = dpkg.Dpkg.of(folder)
            self._put_tree(str(path), ROOT if owners else FOLDER, folder, owners)
            return
        with self._open(path) as file:
            head = file.read(_HEAD)
        if head[:4] == elf.MAGIC or head[:2] == pe.MAGIC or head.startswith(deb.MAGIC):
            self._put_file(path)
        elif disk.is_image(head):
            self._put_image(path)
        else:
            raise UsageError("neither a package, nor a program, nor a raw disk image")

    def _put_image(self, path: Path) -> None:
        about = path.stat()
        old = self._source(str(path))
        if old and (old.size, old.mtime) == (about.st_size, about.st_mtime_ns):
            self.filled.unchanged += 1
            return
        image = Disk(path)
        try:
            owners = dpkg.Dpkg.of(image)
            self._put_tree(str(path), IMAGE, image, owners, about.st_size, about.st_mtime_ns)
        finally:
            image.close()

    def _put_tree(
        self, location: str, kind: str, tree: Tree, owners: dpkg.Dpkg | None, size: int = 0, mtime: int = 0
    ) -> None:
        digest = _digest(tree.read(dpkg.STATUS)) if owners else None
        old = self._source(location)
        fresh = old is None or old.digest != digest
        self._begin()
        number = self._note(location, kind, None, size, mtime, digest)
        known = {
            row[0]: _Source(*row[1:])
            for row in self._run("SELECT location, id, size, mtime, digest FROM origin WHERE tree = ?", (number,))
        }
        there = set[str]()
        for entry in tree.files():
            place = location.rstrip("/") + entry.path
            was = known.get(_text(place))
            if was and not fresh and (was.size, was.mtime) == (entry.size, entry.mtime):
                there.add(_text(place))
                self.filled.unchanged += 1
                continue
            if self._guarded(lambda entry=entry: self._put_entry(entry, tree, owners, location, number), place):  # type: ignore[misc]
                there.add(_text(place))
        for gone in known.keys() - there:
            self._drop(gone)

    def _put_entry(self, entry: Entry, tree: Tree, owners: dpkg.Dpkg | None, location: str, number: int) -> bool:
        """Put in a file of a tree; False if it is of no kind that has code."""
        if entry.size < 4:
            return False
        if owners is not None and deb.is_changelog(entry.path):
            return self._put_changelog(entry, tree, owners)
        head = tree.read(entry.path, _HEAD)
        package_file = owners is None and head.startswith(_DEB)
        if not package_file and not code.begins(head):
            return False
        data = tree.read(entry.path)
        place = location.rstrip("/") + entry.path
        if package_file:
            self._put(place, DEB, number, entry.size, entry.mtime, data, None)
            return True
        package = None
        if owners is not None:
            package = owners.owner(entry.path, _md5(data))
            if package is None and owners.claimed(entry.path):
                self.filled.changed += 1
                self._say(f"{place}: not as its package has it; kept without the package's name")
        self._put(place, PROGRAM, number, entry.size, entry.mtime, data, package, entry.path if owners else None)
        return True

    def _put_changelog(self, entry: Entry, tree: Tree, owners: dpkg.Dpkg) -> bool:
        data = tree.read(entry.path, changelog.MOST_BYTES)
        package = owners.owner(entry.path, _md5(data))
        if package is not None:
            with self._at_once():
                changes.add(self._identities.connection, changelog.parse(data, package.source))
        return False

    def _put_file(self, path: Path) -> None:
        try:
            about = path.stat()
        except OSError as error:
            raise UsageError(f"cannot be read: {error.strerror}", where=str(path)) from error
        old = self._source(str(path))
        if old and (old.size, old.mtime) == (about.st_size, about.st_mtime_ns):
            self.filled.unchanged += 1
            return
        with self._open(path) as file:
            data = file.read(deb.MOST_BYTES + 1)
        if len(data) > deb.MOST_BYTES:
            raise UsageError("it is too large", where=str(path))
        kind = DEB if data.startswith(deb.MAGIC) else PROGRAM
        try:
            self._put(str(path), kind, None, about.st_size, about.st_mtime_ns, data, None)
        except UsageError as error:
            raise UsageError(error.what, where=error.where or str(path), hint=error.hint) from error

    @contextmanager
    def _open(self, path: Path) -> Iterator[BinaryIO]:
        try:
            with path.open("rb") as file:
                yield file
        except OSError as error:
            raise UsageError(f"cannot be read: {error.strerror}", where=str(path)) from error

    # one source at a time, whole or not at all

    def _put(
        self,
        location: str,
        kind: str,
        tree: int | None,
        size: int,
        mtime: int,
        data: bytes,
        package: Package | None,
        path: str | None = None,
    ) -> None:
        digest = _digest(data)
        old = self._source(location)
        if old and old.digest == digest and self._as_before(old.id, kind, package):
            self._run("UPDATE origin SET size = ?, mtime = ?, tree = ? WHERE id = ?", (size, mtime, tree, old.id))
            self.filled.unchanged += 1
            return
        with self._at_once():
            number = self._note(location, kind, tree, size, mtime, digest)
            self._loose |= self._run("DELETE FROM file WHERE origin = ?", (number,)).rowcount > 0
            pages = 0
            if kind == DEB:
                package, files = deb.read(data)
                for name, body in files:
                    pages += self._put_member(number, package, name, body, location)
            else:
                read = code.read(data)
                pages += self._put_code(number, package or read.about, path or location, read)
        self.filled.added += 1
        self.filled.pages += pages
        self._waiting += pages
        self._progress(self.filled.added)
        if self._waiting > _COMMIT_EVERY:
            self._commit()
            self._begin()

    def _as_before(self, source: int, kind: str, package: Package | None) -> bool:
        if kind == DEB:
            return True
        row = self._run(
            "SELECT name, version, architecture FROM file LEFT JOIN package ON package.id = file.package"
            " WHERE origin = ?",
            (source,),
        ).fetchone()
        # What a file of no package says of itself cannot have changed with its digest the same.
        return row is None or package is None or tuple(row) == tuple(package)[:3]

    def _put_member(self, source: int, package: Package, path: str, body: bytes, location: str) -> int:
        """Put in a program or changelog of a package. Some hold broken ones, as tests: the other files are kept."""
        try:
            if deb.is_changelog(path):
                changes.add(self._identities.connection, changelog.parse(body, package.source))
                return 0
            if not code.begins(body):
                return 0
            return self._put_code(source, package, path, code.read(body))
        except UsageError as error:
            self.filled.broken += 1
            self._say(f"{location}: {path}: {error.what}; the package's other files are kept")
            return 0

    def _put_code(self, source: int, package: Package | None, path: str, read: code.Code) -> int:
        if not read.pages:
            return 0
        digest = read.digest()
        known = self._run("SELECT id FROM code WHERE digest = ?", (digest,)).fetchone()
        if known is None:
            number = self._run(
                "INSERT INTO code VALUES (NULL, ?, ?, ?)", (digest, read.build_id, len(read.pages))
            ).lastrowid
            self._identities.connection.executemany(
                "INSERT INTO page VALUES (?, ?, ?)", ((one, number, at) for at, one in read.pages)
            )
        else:
            number = known[0]
        owner = None
        if package is not None:
            values = tuple(map(_text, package))
            self._run("INSERT OR IGNORE INTO package VALUES (NULL, ?, ?, ?, ?, ?)", values)
            find = "SELECT id FROM package WHERE name = ? AND version = ? AND architecture = ?"
            owner = self._run(find, values[:3]).fetchone()[0]
        self._run("INSERT INTO file VALUES (NULL, ?, ?, ?, ?)", (source, owner, number, _text(path)))
        return len(read.pages)

    def _note(self, location: str, kind: str, tree: int | None, size: int, mtime: int, digest: bytes | None) -> int:
        self._run(
            "INSERT INTO origin VALUES (NULL, ?, ?, ?, ?, ?, ?) ON CONFLICT (location) DO UPDATE SET"
            " tree = excluded.tree, kind = excluded.kind, size = excluded.size, mtime = excluded.mtime,"
            " digest = excluded.digest",
            (tree, kind, _text(location), size, mtime, digest),
        )
        return int(self._run("SELECT id FROM origin WHERE location = ?", (_text(location),)).fetchone()[0])

    def _source(self, location: str) -> _Source | None:
        row = self._run("SELECT id, size, mtime, digest FROM origin WHERE location = ?", (_text(location),)).fetchone()
        return _Source(*row) if row else None

    def _drop(self, location: str) -> None:
        self._begin()
        old = self._source(location)
        if old is None:
            return
        below = "SELECT id FROM origin WHERE id = ? OR tree = ?"
        self._run(f"DELETE FROM file WHERE origin IN ({below})", (old.id, old.id))  # noqa: S608 - a constant
        dropped = self._run("DELETE FROM origin WHERE id = ? OR tree = ?", (old.id, old.id)).rowcount
        self.filled.dropped += dropped
        self._loose = True

    # transactions

    def _run(self, sql: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        try:
            return self._identities.connection.execute(sql, values)
        except sqlite3.Error as error:
            raise self._cannot(error) from error

    def _cannot(self, error: sqlite3.Error) -> StoreError:
        hint = "is the disk full, or does another drakmet write to it? What was stored before is sound"
        return StoreError(f"it cannot be written: {error}", where=str(self._identities.path), hint=hint)

    def _guarded(self, step: Callable[[], object], where: str) -> bool:
        """Run a step; a broken source is told and counted. False if it was of no kind that is kept."""
        try:
            return step() is not False
        except UsageError as error:
            self.filled.failed += 1
            self._say(str(UsageError(error.what, where=error.where or where, hint=error.hint)))
            return True  # what was kept of it, if it was sound before, stays

    def _say(self, text: str) -> None:
        self.filled.problems.append(text)
        self._tell(text)

    def _begin(self) -> None:
        if not self._begun:
            self._run("BEGIN IMMEDIATE")
            self._begun = True

    def _commit(self) -> None:
        if self._begun:
            self._run("COMMIT")
        self._begun, self._waiting = False, 0

    @contextmanager
    def _at_once(self) -> Iterator[None]:
        """Keep what is done inside whole, or nothing of it."""
        self._begin()
        self._run("SAVEPOINT source")
        try:
            yield
        except BaseException as error:
            if self._identities.connection.in_transaction:  # a full disk ends it
                self._run("ROLLBACK TO source")
                self._run("RELEASE source")
            else:
                self._begun = False
            if isinstance(error, sqlite3.Error):
                raise self._cannot(error) from error
            raise
        self._run("RELEASE source")


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _text(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()
