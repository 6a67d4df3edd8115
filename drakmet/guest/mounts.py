# SPDX-License-Identifier: GPL-2.0-or-later
"""Mounts of a mount namespace, in the words of ``/proc/PID/mountinfo``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from drakmet.guest.layout import Slice
from drakmet.guest.lists import Trees, linked
from drakmet.guest.memory import Unreadable
from drakmet.guest.pathtypes import GuestPath, bounded, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.guest.kernel import Kernel
    from drakmet.guest.paths import Paths

_MAX_STRING: Final = 4096
_MAX_DEPTH: Final = 4096
# include/linux/mount.h; the cursor is what a reader of /proc/mounts puts into the list.
_NOSUID, _NODEV, _NOEXEC, _READONLY, _CURSOR = 1, 2, 4, 0x40, 0x1000_0000
_SB_RDONLY: Final = 1  # include/linux/fs.h


class Mount(msgspec.Struct, frozen=True):
    """A mount: ``root`` of the file system ``type`` on ``device`` (``source`` by name) is shown at ``path``."""

    id: int
    parent: int
    path: GuestPath
    root: str
    source: str
    device: str
    type: str
    options: list[str]


class Mounts:
    """Reads the mounts of one kernel."""

    def __init__(self, kernel: Kernel, paths: Paths) -> None:
        types = kernel.profile.types
        space = self._space = kernel.space
        self._paths = paths
        self._nsproxy = types.offset("task_struct", "nsproxy")
        self._namespace = types.offset("nsproxy", "mnt_ns")
        self._inum = types.offset("mnt_namespace", "ns.inum")
        self._mount = Slice(
            types, "mount", "mnt_id", "mnt_parent", "mnt.mnt_root", "mnt.mnt_sb", "mnt.mnt_flags", "mnt_devname"
        )
        self._vfsmount = types.offset("mount", "mnt")
        self._id = types.offset("mount", "mnt_id")
        self._superblock = Slice(types, "super_block", "s_dev", "s_flags", "s_type", "s_subtype")
        self._type_name = types.offset("file_system_type", "name")
        self._parent = types.offset("dentry", "d_parent")
        self._trees = Trees(space, types)
        self._listed = types.has_field("mnt_namespace", "list")
        if self._listed:  # up to Linux 6.7
            self._head, self._node = types.offset("mnt_namespace", "list"), types.offset("mount", "mnt_list")
        else:
            self._head, self._node = types.offset("mnt_namespace", "mounts"), types.offset("mount", "mnt_node")

    def namespace(self, task: int) -> int:
        """Return the address of a task's ``struct mnt_namespace``, 0 for one that has exited."""
        nsproxy = self._space.read_u64(task + self._nsproxy)
        return self._space.read_u64(nsproxy + self._namespace) if nsproxy else 0

    def number(self, namespace: int) -> int:
        """Return the inode number of a namespace."""
        return self._space.read_uint(namespace + self._inum, 4)

    def of(self, namespace: int) -> Iterator[int]:
        """Yield the addresses of a namespace's ``struct mount``."""
        if self._listed:
            nodes = linked(self._space, namespace + self._head)
        else:
            nodes = self._trees.nodes(self._space.read_u64(namespace + self._head))
        for node in nodes:
            yield node - self._node

    def mount(self, address: int) -> Mount | None:
        """Return the ``struct mount`` at ``address``; None for a reader's mark in the list."""
        space = self._space
        number, parent, root, superblock, flags, source = self._mount.read(space, address)
        if flags & _CURSOR:
            return None
        device, sb_flags, kind, subtype = self._superblock.read(space, superblock)
        name = space.read_cstring(space.read_u64(kind + self._type_name), 64)
        if subtype:
            name += b"." + space.read_cstring(subtype, 64)
        options = ["ro" if flags & _READONLY or sb_flags & _SB_RDONLY else "rw"]
        options += [
            option
            for bit, option in ((_NOSUID, "nosuid"), (_NODEV, "nodev"), (_NOEXEC, "noexec"))
            if flags & bit
        ]  # fmt: skip
        return Mount(
            id=number,
            parent=space.read_uint(parent + self._id, 4),
            path=self._paths.path(address + self._vfsmount, root),
            root=self._inside(root),
            source=bounded(space.read_cstring(source, _MAX_STRING), _MAX_STRING) if source else "none",
            device=f"{device >> 20}:{device & 0xFFFFF}",
            type=text(name),
            options=options,
        )

    def _inside(self, dentry: int) -> str:
        """Return a dentry's path in its file system."""
        parts: list[str] = []
        while len(parts) < _MAX_DEPTH:
            parent = self._space.read_u64(dentry + self._parent)
            if parent == dentry:
                return "/" + "/".join(reversed(parts))
            parts.append(self._paths.name(dentry))
            dentry = parent
        raise Unreadable("a path that does not end")
