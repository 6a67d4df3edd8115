# SPDX-License-Identifier: GPL-2.0-or-later
"""The short way to a path, for memory that is mapped in one piece; whatever is unusual is left to `Paths`.

Of a directory, the path is kept together with where it was read: names and parents of all dentries up to the
mount's root, and the kernel's counts of renames (rename_lock) and of changes to mounts (mount_lock). All of them are
read again each time, in one go, and only if nothing differs is the path taken. The counts alone would not do: the
dentry of a removed directory comes back under another name without a rename. Nor must the mounts' own dentries be
looked at: a mount pins its mountpoint and all above it.
"""

from __future__ import annotations

import struct
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from drakmet.guest import flat
from drakmet.guest.layout import Slice

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet.guest.kernel import Kernel
    from drakmet.guest.pathtypes import GuestPath

_MAX_ANCESTORS: Final = 24
_MAX_KEPT: Final = 4096
OUT_OF_RANGE: Final = (struct.error, IndexError, OverflowError)


def _members(inline: str) -> tuple[str, ...]:
    return "d_hash.pprev", "d_parent", "d_name.len", "d_name.name", inline, "d_op"


class QuickPaths:
    """Reads the paths of plain files whose names lie in their dentries; ``inline`` is the member that holds them."""

    def __init__(self, kernel: Kernel, views: flat.Views, locks: tuple[int, int], inline: str) -> None:
        types = kernel.profile.types
        page_offset = kernel.space.page_offset
        self.buffer, self._words, _, self._end = views
        last = Slice(types, "dentry", *_members(inline))
        self._unpack = last.unpack_from
        self._distance = last.start - page_offset
        path = Slice(types, "path", "mnt", "dentry")
        self.unpack_path, self.path_distance = path.unpack_from, path.start - page_offset
        self._parent = types.offset("dentry", "d_parent") - page_offset
        self._hash = types.offset("dentry", "d_name.hash") - page_offset
        self._pointer = types.offset("dentry", "d_name.name") - page_offset
        self._name = types.offset("dentry", inline) - page_offset
        self._inline = types.offset("dentry", inline)
        self._inline_size = types.sizeof(types.field("dentry", inline).type)
        self._locks = [lock >> 3 for lock in locks]
        self._directories: dict[int, tuple[int, Callable[[Any], Any], Any, str]] = {}
        self._image = range(kernel.space.image_start, kernel.space.image_end)
        self._mounts = -1
        self.plain: set[int] = {0}
        """Tables of dentry operations whose files have no names of their own making."""
        self.find = self._finder()

    @classmethod
    def make(cls, kernel: Kernel, locks: tuple[int, int], inline: str) -> QuickPaths | None:
        """Return the short way, if there is one through this memory and these structs."""
        views = flat.views(kernel.memory)
        if views is None or locks[0] & 7 or locks[1] & 7 or max(locks) >= views.end:
            return None
        quick = cls(kernel, views, locks, inline)
        if (quick._parent | quick._hash | quick._pointer | quick._name | kernel.space.page_offset) & 7:
            return None
        order = Slice(kernel.profile.types, "dentry", *_members(inline)).names
        return quick if order == _members(inline) else None

    def text_at(self, address: int) -> str | None:
        """Return the path of the ``struct path`` at ``address``, None if the long way must be taken."""
        try:
            mnt, dentry = self.unpack_path(self.buffer, address + self.path_distance)
        except OUT_OF_RANGE:
            return None
        return self.find(mnt, dentry)

    def _finder(self) -> Callable[[int, int], str | None]:
        # A closure: its names are half as dear as attributes.
        unpack, buffer, words, distance = self._unpack, self.buffer, self._words, self._distance
        plain, inline_size, directory, inline = self.plain, self._inline_size, self._directories.get, self._inline

        def find(mnt: int, dentry: int) -> str | None:
            """Return the path of ``dentry`` in ``mnt``, None if the long way must be taken."""
            try:
                linked, parent, length, pointer, name, operations = unpack(buffer, dentry + distance)
                # Names that fit are in the dentry itself (fs/dcache.c, __d_alloc and copy_name).
                if not linked or operations not in plain or not 0 < length < inline_size or pointer != dentry + inline:
                    return None
                known = directory(parent)
                if known is None or known[0] != mnt or known[1](words) != known[2]:
                    return None
            except OUT_OF_RANGE:
                return None
            name = name[:length]
            # A root is its own parent; what no file can be called is for the long way to refuse.
            if b"/" in name or b"\0" in name or parent == dentry:
                return None
            try:
                return known[3] + name.decode()  # type: ignore[no-any-return]  # struct gives Any
            except UnicodeDecodeError:
                return known[3] + name.decode("utf-8", "surrogateescape")  # type: ignore[no-any-return]

        return find

    def learn(self, mnt: int, root: int, dentry: int, path: GuestPath, sequences: tuple[int, int]) -> None:
        """Keep the path of the directory that ``dentry`` is in; ``path`` is that directory's.

        ``root`` is the root of the mount; the kernel's counts were ``sequences`` before and after it was read.
        """
        if sequences[1] != self._mounts:
            # Operations of a module may have gone with it, and its memory be another's: not without a new mount.
            self._mounts = sequences[1]
            self.plain.intersection_update([one for one in self.plain if not one or one in self._image])
        try:
            _, at, *_ = self._unpack(self.buffer, dentry + self._distance)
            directory = at
            places: list[int] = []
            while at != root:
                _, parent, length, pointer, _, _ = self._unpack(self.buffer, at + self._distance)
                if not 0 < length < self._inline_size or at & 7 or len(places) > 5 * _MAX_ANCESTORS:
                    return
                if pointer != at + self._inline:
                    return
                places += [at + self._parent >> 3, at + self._hash >> 3, at + self._pointer >> 3]
                places += range(at + self._name >> 3, (at + self._name + length + 7) >> 3)
                at = parent
            if dentry == root or path.kind != "file" or path.deleted:
                return
            # The counts come last: whatever changes before they are read shows in them.
            gather = itemgetter(*places, *self._locks)
            expected = gather(self._words)
        except OUT_OF_RANGE:
            return
        if tuple(count & 0xFFFF_FFFF for count in expected[-2:]) != sequences:
            return
        if len(self._directories) >= _MAX_KEPT:
            self._directories.clear()
        prefix = path.text if path.text.endswith("/") else path.text + "/"
        self._directories[directory] = mnt, gather, expected, prefix
