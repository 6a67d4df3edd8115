# SPDX-License-Identifier: GPL-2.0-or-later
"""What a Debian package says of itself, its programs and its changelog (deb(5): an ar archive of two tar archives)."""

from __future__ import annotations

import io
import lzma
import re
import tarfile
import zlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from drakmet.errors import DrakmetError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAGIC: Final = b"!<arch>\n"
MOST_BYTES: Final = 1 << 29  # of one file in a package
MOST_TOTAL: Final = 1 << 34  # of all files of a package: some bytes can be packed into very few
_MOST_CONTROL: Final = 1 << 20
# Debian Policy 12.7; a native package has one changelog only. A binary-only rebuild's entry is in a file of its own.
_CHANGELOG: Final = re.compile(r"/usr/share/doc/[^/]+/changelog(\.Debian)?\.gz")
_SOURCE: Final = re.compile(r"(\S+)(?: \((\S+)\))?")
_PROGRAMS: Final = (b"\x7fELF", b"MZ")


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
    """Return the package and its files that are changelogs or may be programs (ELF, PE), by their paths.

    `UsageError` if it is cut off or not a package; for what is packed, while the files are taken.
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
        package = named(fields)
    except KeyError as error:
        raise UsageError(f"the package does not say its {error.args[0]}") from error
    files = _files(*content, MOST_BYTES)
    return package, ((path, body) for path, body in files if body.startswith(_PROGRAMS) or is_changelog(path))


def named(fields: Mapping[str, str]) -> Package:
    """Return the package that a control paragraph is of; `KeyError` if it lacks a field."""
    name, version = fields["Package"], fields["Version"]
    # deb-control(5): the field is there where name or version of the source package are others.
    said = _SOURCE.fullmatch(fields.get("Source", name).strip())
    source, source_version = said.groups() if said else (name, None)
    return Package(name, version, fields["Architecture"], source, source_version or version)


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
    total = 0
    try:
        with tarfile.open(fileobj=_plain(name, data), mode="r|*") as archive:
            for member in archive:
                total += member.size
                if total > MOST_TOTAL:
                    raise UsageError(f"{name} in the package claims to hold more than {MOST_TOTAL >> 30} GiB")
                body = archive.extractfile(member) if member.isreg() and member.size <= most else None
                if body is not None:
                    yield "/" + member.name.removeprefix("./").lstrip("/"), body.read()
    except DrakmetError:
        raise
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError) as error:
        raise UsageError(f"{name} in the package cannot be read: {error}") from error


def _plain(name: str, data: bytes) -> io.BytesIO | io.RawIOBase:
    if not name.endswith(".zst"):
        return io.BytesIO(data)
    try:
        import zstandard
    except ImportError as error:
        raise UsageError("the package is packed with zstd", hint="pip install 'drakmet[zstd]'") from error
    return _Zstd(zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)), zstandard.ZstdError)


class _Zstd(io.RawIOBase):
    """A zstd stream whose errors are OSErrors, as those of other archives."""

    def __init__(self, stream: Any, error: type[Exception]) -> None:
        self._stream, self._error = stream, error

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes."""
        try:
            return bytes(self._stream.read(size))
        except self._error as error:
            raise OSError(str(error)) from error
