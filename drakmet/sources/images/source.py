# SPDX-License-Identifier: GPL-2.0-or-later
"""A file of a guest's memory as a source: ``image:FILE``."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from drakmet.errors import GuestError, UsageError
from drakmet.guest import kernel as kernels
from drakmet.guest.memory import PAGE_SHIFT, PAGE_SIZE, ImageMemory, SparseMemory
from drakmet.guest.profile import ProfileCache
from drakmet.sources.base import About
from drakmet.sources.images import elf, lime, xensave
from drakmet.sources.images.layout import MAX_ADDRESS, File, Layout, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from drakmet.guest.kernel import Kernel
    from drakmet.guest.memory import PhysicalMemory
    from drakmet.guest.profile import Profile

_FORMATS: Final[tuple[tuple[bytes, Callable[[File], Layout]], ...]] = (
    (elf.MAGIC, elf.layout),
    (lime.MAGIC, lime.layout),
    *((magic, xensave.layout) for magic in xensave.MAGICS),
)
_OTHERS: Final = (
    (b"PAGEDU64", "a crash dump of Windows", None),
    (b"PAGEDUMP", "a crash dump of Windows", None),
    (b"hibr", "a hibernation file of Windows", None),
    (
        b"KDUMP   ",
        "a compressed kdump",
        "dump-guest-memory without -z, or makedumpfile -E, writes one that can be read",
    ),
    (b"makedumpfile\0", "a compressed kdump", "dump-guest-memory without -z writes one that can be read"),
    (b"QFI\xfb", "a disk image", "give one of the guest's memory"),
    (b"SQLite format 3\0", "a database", "give one of the guest's memory"),
    (b"DRAKREC", "a recording", "drakmet replay shows it"),
    (b"\x1f\x8b", "compressed", "unpack it first"),
    (b"\xfd7zXZ", "compressed", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed", "unpack it first"),
    (b"BZh", "compressed", "unpack it first"),
    (b"PK\x03\x04", "compressed", "unpack it first"),
)
_LEAST: Final = 1 << 20
_FOUR_GIB: Final = 1 << 32


class ImageSource:
    """A guest's memory in a file; ``format`` says of which kind, ``problems`` what of it cannot be had."""

    def __init__(self, name: str, uri: str | None = None) -> None:
        path = Path(name)
        self.uri = uri or f"image:{name}"
        self.memory, layout = open_image(path)
        self.format = layout.format
        self.problems = layout.problems
        self.about = About(host=os.uname().nodename, guest=path.name)
        self.profiles: Sequence[Profile] = ()
        self._path = path

    def kernel(self, memory: PhysicalMemory | None = None) -> Kernel:
        """Return the guest's kernel; `GuestError` says what else the image may be of."""
        try:
            found = kernels.find(self.memory, profiles=self.profiles, cache=ProfileCache())
            if self.format == "raw" and self._has_hole(found):
                found = kernels.find(self.memory, profiles=self.profiles, cache=ProfileCache())
        except GuestError as error:
            from drakmet.guest import unknown

            told = unknown.explained(self.memory, error, self.uri)
            told.what = "; ".join([told.what, *self.problems[:1]])
            raise told from error
        if memory is None:
            return found
        return kernels.Kernel(found.profile, memory, found.base, found.slide, found.levels)

    def _has_hole(self, kernel: Kernel) -> bool:
        """Look whether RAM goes on above 4 GiB without a hole in the file, as in QEMU's RAM files; put it there if so.

        The kernel knows where RAM ends (max_pfn); what the file is too short by is the hole below 4 GiB.
        """
        symbol = kernel.find("max_pfn")
        end = kernel.space.read_u64(symbol) << PAGE_SHIFT if symbol is not None else 0
        below = self.memory.size - (end - _FOUR_GIB)
        if not _FOUR_GIB < end < MAX_ADDRESS or end <= self.memory.size or not 0 < below < _FOUR_GIB:
            return False
        assert isinstance(self.memory, ImageMemory)  # noqa: S101 - raw images are
        self.memory.close()
        self.memory = ImageMemory.with_hole(self._path, below)
        return True

    def close(self) -> None:
        """Let the file go."""
        if isinstance(self.memory, ImageMemory):
            self.memory.close()


def open_image(path: Path) -> tuple[ImageMemory | SparseMemory, Layout]:
    """Return the memory in a file and how it lies there; `UsageError` for what is no memory image."""
    where = str(path)
    try:
        with path.open("rb") as stream:
            head = stream.read(64)
            if head.startswith(SparseMemory.MAGIC):
                return SparseMemory.load(path), Layout("pages that were kept", [])
            _refuse(head, path)
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot open the memory image: {reason}", where=where) from error
    with data:
        file = File(data, where)
        for magic, layout in _FORMATS:
            if head.startswith(magic):
                found = settle(file, layout(file))
                break
        else:
            found = _raw(file)
    return ImageMemory(path, found.regions), found


def _refuse(head: bytes, path: Path) -> None:
    for magic, what, hint in _OTHERS:
        if head.startswith(magic):
            raise UsageError(f"the file is no memory image: it is {what}", where=str(path), hint=hint)
    if path.stat().st_size < _LEAST and not head.startswith(tuple(magic for magic, _ in _FORMATS)):
        raise UsageError("the file is no memory image: it is smaller than any guest", where=str(path))


def _raw(file: File) -> Layout:
    whole = file.size // PAGE_SIZE * PAGE_SIZE
    rest = file.size - whole
    problems = [f"the last {rest} bytes are no whole page, and are left out"] if rest else []
    return Layout("raw", [(0, 0, whole)], problems)
