# SPDX-License-Identifier: GPL-2.0-or-later
"""Trees of files that code is read from: a folder, or the file systems in a raw disk image."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from drakmet.errors import UsageError
from drakmet.identity import disk
from drakmet.identity.deb import MOST_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from drakmet.identity.ext import ExtFiles, Inode

_NOT_FILES: Final = frozenset({"proc", "sys", "dev", "run"})  # of a root that runs


class Entry(NamedTuple):
    """A regular file: its path from the root of the tree, size in bytes, time of its last change in nanoseconds."""

    path: str
    size: int
    mtime: int


class Tree(Protocol):
    """Regular files by their paths, which begin with a slash; symbolic links are not followed."""

    def files(self) -> Iterator[Entry]:
        """Yield the files in the order of their paths."""

    def read(self, path: str, most: int = MOST_BYTES) -> bytes:
        """Return the first ``most`` bytes of a file; `UsageError` if it cannot be read."""

    def has(self, path: str) -> bool:
        """Return whether there is such a file."""


class Folder:
    """A folder of this machine; one with ``/proc`` and the like in it is read without them."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def files(self) -> Iterator[Entry]:
        """Yield the files in the order of their paths."""
        for where, folders, names in os.walk(self._root):
            if where == str(self._root):
                folders[:] = [name for name in folders if name not in _NOT_FILES]
            folders.sort()
            for name in sorted(names):
                at = os.path.join(where, name)  # noqa: PTH118 - half the time of Path, for a million files
                try:
                    about = os.lstat(at)
                except OSError:
                    continue  # gone meanwhile
                if stat.S_ISREG(about.st_mode):
                    yield Entry(at.removeprefix(str(self._root).rstrip("/")), about.st_size, about.st_mtime_ns)

    def read(self, path: str, most: int = MOST_BYTES) -> bytes:
        """Return the first ``most`` bytes of a file; `UsageError` if it cannot be read."""
        at = self._root / path.lstrip("/")
        try:
            # A root that someone else made may have links that lead out of it.
            if not at.parent.resolve().is_relative_to(self._root.resolve()):
                raise UsageError("it lies outside of the folder", where=str(at))
            fd = os.open(at, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with open(fd, "rb") as file:  # noqa: PTH123 - the descriptor must be of what was checked
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise UsageError("it is no file", where=str(at))
                return file.read(most)
        except OSError as error:
            raise UsageError(f"cannot be read: {error.strerror}", where=str(at)) from error

    def has(self, path: str) -> bool:
        """Return whether there is such a file."""
        try:
            return stat.S_ISREG(os.lstat(self._root / path.lstrip("/")).st_mode)
        except OSError:
            return False


class Disk:
    """The ext file systems of a raw image, one over the other; where two have a path, the first one's counts."""

    def __init__(self, image: Path) -> None:
        try:
            self._fd = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UsageError(f"cannot be read: {error.strerror}", where=str(image)) from error
        try:
            self._files: dict[str, tuple[ExtFiles, Inode]] = {}
            for system in disk.file_systems(self._fd):
                for path, inode in system.walk():
                    self._files.setdefault(path, (system, inode))
        except BaseException:
            os.close(self._fd)
            raise

    def close(self) -> None:
        """Let go of the image."""
        os.close(self._fd)

    def files(self) -> Iterator[Entry]:
        """Yield the files in the order of their paths."""
        for path, (_, inode) in sorted(self._files.items()):
            yield Entry(path, inode.size, inode.mtime)

    def read(self, path: str, most: int = MOST_BYTES) -> bytes:
        """Return the first ``most`` bytes of a file; `UsageError` if it cannot be read."""
        if path not in self._files:
            raise UsageError("there is no such file in the image", where=path)
        system, inode = self._files[path]
        return system.read(inode, most)

    def has(self, path: str) -> bool:
        """Return whether there is such a file."""
        return path in self._files
