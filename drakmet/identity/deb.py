# SPDX-License-Identifier: GPL-2.0-or-later
"""What a Debian package says of itself, its ELF files and its changelog (deb(5): an ar archive of two tar archives)."""

from __future__ import annotations

import io
import lzma
import re
import tarfile
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from drakmet.errors import DrakmetError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC: Final = b"!<arch>\n"
MOST_BYTES: Final = 1 << 29  # of one file in a package
_MOST_CONTROL: Final = 1 << 20
# Debian Policy 12.7; a native package has one changelog only. A binary-only rebuild's entry is in a file of its own.
_CHANGELOG: Final = re.compile(r"/usr/share/doc/[^/]+/changelog(\.Debian)?\.gz")
_SOURCE: Final = re.compile(r"(\S+)(?: \((\S+)\))?")


class Package(NamedTuple):
    """A package's name, version and architecture, and the source package that it was built from.

    ``source_version`` is not ``version`` where only the binary package was built again (``5.2.15-2+b13``).
    """

    name: str
    version: str
    architecture: str
    source: str
    source_version: str


def read(data: bytes) -> tuple[Package, Iterator[tuple[str, bytes]]]:
    """Return the package and its ELF files and changelogs by their paths.

    Raises `UsageError` if it is cut off or not a package; the iterator does as well.
    """
    members = dict(_members(data))
    control = next((m for name, m in members.items() if name.startswith("control.tar")), None)
    content = next(((name, m) for name, m in members.items() if name.startswith("data.tar")), None)
    if control is None or content is None:
        raise UsageError("the package lacks its control or data archive")
    name = next(n for n in members if n.startswith("control.tar"))
    text = next((t for path, t in _files(name, control, _MOST_CONTROL) if path == "/control"), b"")
    fields = dict(
        line.split(": ", 1) for line in text.decode("utf-8", "replace").splitlines() if ": " in line and line[0] != " "
    )
    try:
        name, version = fields["Package"], fields["Version"]
        # deb-control(5): the field is there where name or version of the source package are others.
        said = _SOURCE.fullmatch(fields.get("Source", name).strip())
        source, source_version = said.groups() if said else (name, None)
        package = Package(name, version, fields["Architecture"], source, source_version or version)
    except KeyError as error:
        raise UsageError(f"the package does not say its {error.args[0]}") from error
    files = _files(*content, MOST_BYTES)
    return package, ((path, body) for path, body in files if body[:4] == b"\x7fELF" or is_changelog(path))


def is_changelog(path: str) -> bool:
    """Tell whether the file at this path of a package is Debian's changelog, or may be."""
    return _CHANGELOG.fullmatch(path) is not None


def _members(data: bytes) -> Iterator[tuple[str, bytes]]:
    if data[:8] != MAGIC:
        raise UsageError("not a Debian package")
    at = 8
    while at < len(data):
        header = data[at : at + 60]
        if len(header) < 60 or header[58:] != b"`\n" or not header[48:58].strip().isdigit():
            raise UsageError("the package is cut off or damaged")
        size = int(header[48:58])
        if at + 60 + size > len(data):
            raise UsageError("the package is cut off")
        yield header[:16].decode("ascii", "replace").strip().rstrip("/"), data[at + 60 : at + 60 + size]
        at += 60 + size + size % 2


def _files(name: str, data: bytes, most: int) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(fileobj=_plain(name, data), mode="r|*") as archive:
            for member in archive:
                body = archive.extractfile(member) if member.isreg() and member.size <= most else None
                if body is not None:
                    yield "/" + member.name.removeprefix("./").lstrip("/"), body.read()
    except DrakmetError:
        raise
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError) as error:
        raise UsageError(f"{name} in the package cannot be read: {error}") from error


def _plain(name: str, data: bytes) -> io.BufferedIOBase:
    if not name.endswith(".zst"):
        return io.BytesIO(data)
    try:
        import zstandard
    except ImportError as error:
        raise UsageError("the package is packed with zstd", hint="pip install 'drakmet[zstd]'") from error
    try:
        return io.BytesIO(zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read())
    except zstandard.ZstdError as error:
        raise UsageError(f"{name} in the package cannot be read: {error}") from error
