# SPDX-License-Identifier: GPL-2.0-or-later
"""A profile: one kernel's symbols and types under its build id, and the files they are kept in.

The file is made to be mapped, not parsed: sorted columns that are searched where they lie. Loading one costs
a few page reads, whatever the size of the kernel.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from drakmet.errors import GuestError, UsageError
from drakmet.guest.btf import Btf, Index
from drakmet.guest.symbols import Columns, Symbols

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from drakmet.guest.types import Types

_MAGIC: Final = b"DRAKPROF"
_VERSION: Final = 1
# magic, version, bytes of the JSON head; then the head, and from the next multiple of 8 on the sections.
_HEADER: Final = struct.Struct("<8sII")
_SECTIONS: Final = (
    "addresses", "kinds", "starts", "hashes", "order", "names", "btf_starts", "btf_hashes", "btf_ids", "btf",
)  # fmt: skip
_BUILD_ID: Final = re.compile(r"[0-9a-f]{8,64}")
_MAX_HEAD: Final = 1 << 20


class _Head(msgspec.Struct):
    build_id: str
    banner: str
    sections: dict[str, tuple[int, int]]


class Profile:
    """Symbols (at link-time addresses) and types of the kernel with this build id (lower-case hex)."""

    def __init__(self, build_id: str, banner: str, symbols: Symbols, types: Types) -> None:
        self.build_id = build_id
        self.banner = banner
        self.symbols = symbols
        self.types = types

    @property
    def release(self) -> str:
        """The kernel's release, as ``uname -r`` prints it."""
        words = self.banner.split()
        return words[2] if len(words) > 2 else ""

    @classmethod
    def from_isf(cls, path: Path) -> Profile:
        """Read an ISF file; its build id is that of its metadata, or empty."""
        from drakmet.guest import isf

        return cls.from_json(isf.load(path), str(path))

    @classmethod
    def from_json(cls, data: dict[str, Any], where: str = "ISF") -> Profile:
        """Make a profile of ISF data."""
        from drakmet.guest import isf  # few kernels need it, and each scan begins by loading this module

        isf.check(data, where)
        known = data.get("metadata", {}).get("build_id", "")
        build_id = known if isinstance(known, str) and _BUILD_ID.fullmatch(known) else ""
        return cls(build_id, isf.banner(data), isf.symbols(data), isf.IsfTypes(data))

    def subset(self) -> dict[str, Any]:
        """Return, as ISF, only what was asked of this profile so far: for recordings and fixtures."""
        from drakmet.guest import isf

        data = isf.write(self.types, self.symbols, self.banner)
        data["metadata"]["build_id"] = self.build_id
        return data

    def save(self, path: Path) -> None:
        """Write the profile to ``path`` in one step; `GuestError` for one whose types are not BTF."""
        if not isinstance(self.types, Btf):
            raise GuestError("only profiles made of BTF are kept; keep the ISF file instead", where=str(path))
        columns, index = self.symbols.columns, self.types.index
        held: list[bytes] = [
            _bytes(columns.addresses), bytes(columns.kinds), _bytes(columns.starts), _bytes(columns.hashes),
            _bytes(columns.order), bytes(columns.names), _bytes(index.starts), _bytes(index.hashes), _bytes(index.ids),
            bytes(self.types.data),
        ]  # fmt: skip
        sections = {}
        at = 0
        for name, data in zip(_SECTIONS, held, strict=True):
            sections[name] = (at, len(data))
            at += _align(len(data))
        head = msgspec.json.encode(_Head(self.build_id, self.banner, sections))
        parts = [_HEADER.pack(_MAGIC, _VERSION, len(head)), head, bytes(-(_HEADER.size + len(head)) % 8)]
        for data in held:
            parts += [data, bytes(-len(data) % 8)]
        _write_whole(path, b"".join(parts))

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Map what `save` wrote; `UsageError` for a file that is not it."""
        try:
            with path.open("rb") as file:
                view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            magic, version, size = _HEADER.unpack_from(view)
            if magic != _MAGIC or version != _VERSION or size > _MAX_HEAD:
                raise UsageError("not a profile that this version reads", where=str(path), hint="remove the file")
            head = msgspec.json.decode(view[_HEADER.size : _HEADER.size + size], type=_Head)
            start = _align(_HEADER.size + size)

            def section(name: str) -> memoryview:
                at, length = head.sections[name]
                if at < 0 or at % 8 or length < 0 or start + at + length > len(view):
                    raise UsageError("the profile is cut short", where=str(path), hint="remove the file")
                return view[start + at : start + at + length]

            symbols = Symbols(
                Columns(
                    section("addresses").cast("Q"),
                    section("kinds"),
                    section("names"),
                    section("starts").cast("I"),
                    section("hashes").cast("I"),
                    section("order").cast("I"),
                )
            )
            index = Index(*(section(name).cast("I") for name in ("btf_starts", "btf_hashes", "btf_ids")))
            return cls(head.build_id, head.banner, symbols, Btf(section("btf"), index=index))
        except (OSError, ValueError, TypeError, KeyError, struct.error, msgspec.MsgspecError, GuestError) as error:
            raise UsageError(f"cannot read the profile: {error}", where=str(path), hint="remove the file") from error


class ProfileCache:
    """The directory of profiles, one file a build id; by default ``$XDG_CACHE_HOME/drakmet/profiles``."""

    def __init__(self, directory: Path | None = None) -> None:
        if directory is None:
            home = os.environ.get("XDG_CACHE_HOME", "")
            directory = (Path(home) if Path(home).is_absolute() else Path.home() / ".cache") / "drakmet" / "profiles"
        self.directory = directory

    def path(self, build_id: str) -> Path:
        """Return where the profile of ``build_id`` is, or would be."""
        if not _BUILD_ID.fullmatch(build_id):
            raise GuestError(f"not a build id: {build_id[:80]!r}")
        return self.directory / f"{build_id}.profile"

    def get(self, build_id: str) -> Profile | None:
        """Return the profile of ``build_id`` if it is kept and readable."""
        try:
            return Profile.load(self.path(build_id))
        except UsageError:  # a damaged file is made anew
            return None

    def put(self, profile: Profile) -> Path:
        """Keep ``profile``; return its file."""
        path = self.path(profile.build_id)
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        profile.save(path)
        return path

    def __iter__(self) -> Iterator[Profile]:
        """Yield the profiles that are kept, the last used first; unreadable files are passed over."""
        try:
            paths = sorted(self.directory.glob("*.profile"), key=lambda path: path.stat().st_mtime, reverse=True)
        except OSError:
            return
        for path in paths:
            try:
                yield Profile.load(path)
            except UsageError:
                continue


def _align(size: int) -> int:
    return size + 7 & ~7


def _bytes(values: Sequence[int]) -> bytes:
    return values.tobytes()  # type: ignore[attr-defined, no-any-return]  # array and memoryview both have it


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file that another process sees either whole or not at all."""
    import secrets

    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.touch(mode=0o600)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise GuestError(f"cannot write the profile: {error.strerror}", where=str(path)) from error
