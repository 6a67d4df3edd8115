# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of kernels that were handed in: Debian packages, unpacked trees, or a vmlinuz or vmlinux alone.

They are found by build id: that of the guest's kernel must be that of the file. A package is read as a stream and only
once for all that a guest needs of it; what is broken is told with its path.
"""

from __future__ import annotations

import lzma
import tarfile
import zlib
from typing import TYPE_CHECKING, BinaryIO, Final

from drakmet.errors import DrakmetError, GuestError, UsageError
from drakmet.guest import vmlinux
from drakmet.guest.kerneltext.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

_AR: Final = b"!<arch>\n"
_ELF: Final = b"\x7fELF"
_MOST: Final = 1 << 29
_XZ: Final = b"\xfd7zXZ\0"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"


class KernelFiles:
    """What ``--kernel`` names. ``note`` tells what takes time."""

    def __init__(self, paths: Iterable[Path], note: Callable[[str], object] = lambda _: None) -> None:
        self._sources: list[_Source] = []
        self._note = note
        for path in paths:
            self._sources += _sources(path)
        if not self._sources:
            raise UsageError(
                "there is no kernel in what was given", hint="a linux-image .deb, a vmlinuz, or a directory"
            )
        self._known: dict[str, tuple[_Source, Reference]] = {}
        self._tried: set[int] = set()

    def find(self, build_id: str, release: str | None = None) -> Reference | None:
        """Return the kernel with this build id; sources whose name has the ``release`` in it are tried first."""
        order = sorted(range(len(self._sources)), key=lambda one: not (release and release in self._sources[one].name))
        for number in order:
            if build_id in self._known:
                break
            if number in self._tried:
                continue
            self._tried.add(number)
            source = self._sources[number]
            self._note(f"reading the kernel of {source.name}")
            for data in source.kernels():
                try:
                    reference = Reference(data if data.startswith(_ELF) else vmlinux.unpack(data))
                except GuestError as error:
                    raise UsageError(f"cannot use this kernel: {error.what}", where=source.name) from error
                self._known[reference.build_id] = source, reference
        found = self._known.get(build_id)
        return found[1] if found else None

    def modules(self, build_id: str, names: Iterable[str]) -> dict[str, bytes]:
        """Return the files of modules by their names, those that the kernel's package has."""
        source, _ = self._known[build_id]
        self._note(f"reading the modules of {source.name}")
        return source.modules({_plain(name) for name in names})

    def source_of(self, build_id: str) -> str:
        """Return what the kernel with this build id came from."""
        return self._known[build_id][0].name


class _Source:
    """One kernel with its modules, or several in one tree."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name

    def kernels(self) -> Iterator[bytes]:
        """Yield each vmlinuz or vmlinux."""
        for name, data in self.files(lambda name: name.split("/")[-1].startswith(("vmlinuz", "vmlinux"))):
            if len(data) > 4096:
                yield data
            else:
                raise UsageError("the kernel's file is cut off", where=f"{self.name}: {name}")

    def modules(self, wanted: set[str]) -> dict[str, bytes]:
        """Return modules by their plain names."""
        found: dict[str, bytes] = {}
        for name, data in self.files(lambda name: ".ko" in name and _plain(name.split("/")[-1]) in wanted):
            found[_plain(name.split("/")[-1])] = _unpacked(data, f"{self.name}: {name}")
        return found

    def files(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        """Yield path and content of the files whose path is wanted."""
        for path in [self.path] if self.path.is_file() else sorted(self.path.rglob("*")):
            if path.is_file() and wanted(str(path)):
                yield str(path), _read(path)


class _Package(_Source):
    """A linux-image package (deb(5): an ar archive of two tar archives)."""

    def files(self, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
        """Yield path and content of the files in the package whose path is wanted."""
        try:
            with self.path.open("rb") as file, self._content(file) as archive:
                for member in archive:
                    if member.isreg() and member.size <= _MOST and wanted(member.name):
                        body = archive.extractfile(member)
                        if body is not None:
                            yield member.name, body.read()
        except DrakmetError:
            raise
        except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError) as error:
            raise UsageError(f"the package cannot be read: {error}", where=str(self.path)) from error

    def _content(self, file: BinaryIO) -> tarfile.TarFile:
        end = file.seek(0, 2)
        file.seek(len(_AR))
        while True:
            header = file.read(60)
            if len(header) < 60 or header[58:] != b"`\n" or not header[48:58].strip().isdigit():
                raise UsageError("the package is cut off or damaged", where=str(self.path))
            size, name = int(header[48:58]), header[:16].decode("ascii", "replace").strip().rstrip("/")
            if file.tell() + size > end:
                raise UsageError("the package is cut off", where=str(self.path))
            if name.startswith("data.tar"):
                return tarfile.open(fileobj=_plain_stream(file, name), mode="r|*")
            file.seek(size + size % 2, 1)


def _plain_stream(file: BinaryIO, name: str) -> BinaryIO:
    if not name.endswith(".zst"):
        return file
    try:
        import zstandard
    except ImportError as error:
        raise UsageError("the package is packed with zstd", hint="pip install 'drakmet[zstd]'") from error
    stream: BinaryIO = zstandard.ZstdDecompressor().stream_reader(file)
    return stream


def _sources(path: Path) -> Iterator[_Source]:
    if path.is_dir():
        packages = sorted(path.glob("*.deb"))
        yield from map(_Package, packages)
        if not packages:
            yield _Source(path)
    elif path.is_file():
        yield _Package(path) if _start(path) == _AR else _File(path)
    else:
        raise UsageError("there is no such file", where=str(path))


class _File(_Source):
    """A kernel's file without its modules."""

    def kernels(self) -> Iterator[bytes]:
        """Yield it."""
        yield _read(self.path)

    def modules(self, wanted: set[str]) -> dict[str, bytes]:  # noqa: ARG002 - as of all sources
        """Return nothing."""
        return {}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path)) from error


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(len(_AR))
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path)) from error


def _plain(name: str) -> str:
    return name.split(".ko", 1)[0].replace("-", "_")


def _unpacked(data: bytes, where: str) -> bytes:
    try:
        if data.startswith(_XZ):
            return lzma.LZMADecompressor().decompress(data, _MOST)
        if data.startswith(_ZSTD):
            import zstandard

            plain: bytes = zstandard.ZstdDecompressor().decompressobj().decompress(data)
            return plain
        if data.startswith(b"\x1f\x8b"):
            return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, _MOST)
    except ImportError:
        raise UsageError("the module is packed with zstd", where=where, hint="pip install 'drakmet[zstd]'") from None
    except Exception as error:  # each library has errors of its own
        raise UsageError(f"the module is damaged: {error}", where=where) from error
    return data
