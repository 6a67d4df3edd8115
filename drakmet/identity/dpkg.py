# SPDX-License-Identifier: GPL-2.0-or-later
"""Which package a file of an unpacked root is of, by the root's own dpkg database (/var/lib/dpkg).

A file is a package's only if it has the checksum that the package has for it: one that was replaced is nobody's. The
database lies in the same root, so whoever could change a program there could change this as well: packages themselves
are the better source.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from drakmet.errors import UsageError
from drakmet.identity.deb import named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.identity.deb import Package
    from drakmet.identity.trees import Tree

STATUS: Final = "/var/lib/dpkg/status"
_INFO: Final = "/var/lib/dpkg/info"
_DIVERSIONS: Final = "/var/lib/dpkg/diversions"
_MOST_LIST: Final = 1 << 26
# Since Debian merged /usr, dpkg knows files by names of before, and by those of now.
_MERGED: Final = re.compile(r"^/usr(?=/(?:bin|sbin|lib(?:32|64|x32|o32)?)/)")


class Owned(NamedTuple):
    """A package that has a file at this path, and the MD5 sum it says the file has."""

    package: Package
    md5: str


class Dpkg:
    """The installed packages of a root and their files with checksums."""

    def __init__(self, packages: int, files: dict[str, list[Owned]], moved: dict[str, str]) -> None:
        self.packages = packages
        self._files = files
        self._moved = moved

    @classmethod
    def of(cls, tree: Tree) -> Self | None:
        """Read the database of a root; None if it has none."""
        if not tree.has(STATUS):
            return None
        files: dict[str, list[Owned]] = {}
        packages = 0
        for package in _installed(_text(tree, STATUS)):
            packages += 1
            for name in (package.name, f"{package.name}:{package.architecture}"):
                path = f"{_INFO}/{name}.md5sums"
                if tree.has(path):
                    for line in _text(tree, path).splitlines():
                        md5, _, file = line.partition("  ")
                        files.setdefault(_plain("/" + file.lstrip("/")), []).append(Owned(package, md5))
                    break
        lines = _text(tree, _DIVERSIONS).splitlines() if tree.has(_DIVERSIONS) else []
        # Three lines each: the path in the package, where dpkg put it instead, for which other package.
        moved = {_plain(now): _plain(original) for original, now in zip(lines[::3], lines[1::3], strict=False)}
        return cls(packages, files, moved)

    def owner(self, path: str, md5: str) -> Package | None:
        """Return the package that has this file, with this checksum, here or where dpkg diverted it from."""
        return next((owned.package for owned in self._claims(path) if owned.md5 == md5), None)

    def claimed(self, path: str) -> bool:
        """Return whether a package has a file at this path, whatever its checksum."""
        return bool(self._claims(path))

    def _claims(self, path: str) -> list[Owned]:
        path = _plain(path)
        original = self._moved.get(path)
        return self._files.get(path, []) + (self._files.get(original, []) if original else [])


def _text(tree: Tree, path: str) -> str:
    return tree.read(path, _MOST_LIST).decode("utf-8", "surrogateescape")


def _plain(path: str) -> str:
    return _MERGED.sub("", path)


def _installed(status: str) -> Iterator[Package]:
    for paragraph in status.split("\n\n"):
        fields: dict[str, str] = {}
        for line in paragraph.splitlines():
            if line[:1] not in (" ", "\t") and ": " in line:
                name, _, value = line.partition(": ")
                fields.setdefault(name, value.strip())
        if fields.get("Status", "").split()[2:] != ["installed"]:
            continue
        try:
            yield named(fields)
        except KeyError as error:
            raise UsageError(f"the dpkg database has a package without its {error.args[0]}") from error
