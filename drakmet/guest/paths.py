# SPDX-License-Identifier: GPL-2.0-or-later
"""Paths out of dentries and mounts, byte for byte as the kernel's own d_path (fs/d_path.c) would give them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drakmet.guest.layout import Slice, first
from drakmet.guest.memory import Unreadable
from drakmet.guest.pathtypes import GuestPath, PathKind, text
from drakmet.guest.quickpaths import QuickPaths

if TYPE_CHECKING:
    from drakmet.guest.kernel import Kernel

NAME_MAX: Final = 255
_MAX_COMPONENTS: Final = 4096  # PATH_MAX / 1: a path that the guest made by renaming may be longer than PATH_MAX
_MAX_MOUNTS: Final = 1024
_RETRIES: Final = 4
_U32: Final = 0xFFFF_FFFF

# What d_op->d_dname is for the file systems whose files have no path.
_SYNTHETIC: Final[dict[str, tuple[PathKind, str]]] = {
    "pipefs_dname": ("pipe", "pipe:[{ino}]"),
    "sockfs_dname": ("socket", "socket:[{ino}]"),
    "anon_inodefs_dname": ("anon", "anon_inode:{name}"),
    "ns_dname": ("namespace", "{name}:[{ino}]"),
    "simple_dname": ("memfd", "/{name}"),
    "dmabuffs_dname": ("anon", "/{name}:"),
    "pidfs_dname": ("anon", "anon_inode:[pidfd]"),
}


class Paths:
    """Reads paths of one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        types = kernel.profile.types
        self._kernel = kernel
        self._space = kernel.space
        inline = first(types, "dentry", "d_shortname", "d_iname")  # renamed in 6.14
        self._dentry = Slice(
            types, "dentry", "d_parent", "d_name.len", "d_name.name", inline, "d_hash.pprev", "d_inode", "d_op"
        )
        self._inline = types.offset("dentry", inline)
        self._inline_size = types.sizeof(types.field("dentry", inline).type)
        self._mount = Slice(types, "mount", "mnt_parent", "mnt_mountpoint", "mnt.mnt_root", "mnt_ns")
        self._vfsmount = types.offset("mount", "mnt")
        self._path = Slice(types, "path", "mnt", "dentry")
        self._d_dname = types.offset("dentry_operations", "d_dname")
        self._inode_number = types.offset("inode", "i_ino")
        self._superblock: tuple[int, ...] | None = None
        if types.has_field("mount", "mnt_instance"):  # up to 6.16
            self._superblock = (
                types.offset("dentry", "d_sb"), types.offset("super_block", "s_mounts"),
                types.offset("super_block", "s_root"), types.offset("task_struct", "nsproxy"),
                types.offset("nsproxy", "mnt_ns"), types.offset("mount", "mnt_instance"),
            )  # fmt: skip
        self._namespace_steps = (
            types.offset("inode", "i_private"), types.offset("ns_common", "ops"),
            types.offset("proc_ns_operations", "name"),
        )  # fmt: skip
        self._names: dict[int, str] = {}
        self._functions: dict[int, int] = {}
        self._mnt_root = types.offset("vfsmount", "mnt_root")
        self._memory_u64 = kernel.memory.read_u64
        self._locks = kernel.gpa(kernel.address("rename_lock")), kernel.gpa(kernel.address("mount_lock"))
        self.quick = QuickPaths.make(kernel, self._locks, inline)

    def path_at(self, address: int) -> GuestPath:
        """Return the path of the ``struct path`` at ``address``."""
        return self.path(*self._path.read(self._space, address))

    def text_at(self, address: int) -> str:
        """Return the path of the ``struct path`` at ``address`` as text alone."""
        if self.quick is not None:
            found = self.quick.text_at(address)
            if found is not None:
                return found
        return self._careful(*self._path.read(self._space, address)).text

    def path(self, mnt: int, dentry: int) -> GuestPath:
        """Return the path of ``dentry`` in the ``struct vfsmount`` at ``mnt``.

        Raises `Unreadable` if a part cannot be read, or if the guest kept renaming while it was read.
        """
        if self.quick is not None:
            found = self.quick.find(mnt, dentry)
            if found is not None:
                return GuestPath(found)
        return self._careful(mnt, dentry)

    def _careful(self, mnt: int, dentry: int) -> GuestPath:
        for _ in range(_RETRIES):
            before = self._sequences()
            if before[0] & 1 or before[1] & 1:
                continue  # another CPU is renaming or mounting right now
            try:
                found = self._walk(mnt, dentry)
            except Unreadable:
                if before == self._sequences():
                    raise
                continue
            # The kernel's own readers do the same: what they read is void if a rename or mount came in between.
            if before == self._sequences():
                if self.quick is not None and found.reachable:
                    self._learn(mnt, dentry, before)
                return found
        raise Unreadable("files were renamed or mounted just when the path was read")

    def _sequences(self) -> tuple[int, int]:
        """Return the counts of renames and of changes to mounts; odd while one is going on."""
        read = self._memory_u64
        return read(self._locks[0]) & _U32, read(self._locks[1]) & _U32

    def _learn(self, mnt: int, dentry: int, sequences: tuple[int, int]) -> None:
        """Let the short way know the directory that ``dentry`` is in."""
        assert self.quick is not None  # noqa: S101  # for mypy: the caller looked
        try:
            root = self._space.read_u64(mnt + self._mnt_root)
            parent = self._dentry.read(self._space, dentry)[0]
            path = self._walk(mnt, parent)
        except Unreadable:
            return
        if sequences == self._sequences():
            self.quick.learn(mnt, root, dentry, path, sequences)

    def _walk(self, mnt: int, dentry: int) -> GuestPath:
        space = self._space
        if not mnt or not dentry:
            raise Unreadable("no path: a null pointer")
        mount = mnt - self._vfsmount
        parent_mount, mountpoint, root, namespace = self._mount.read(space, mount)
        parent, length, name, inline, hashed, inode, operations = self._dentry.read(space, dentry)
        if operations and (dentry != root or parent != dentry):
            synthetic = self._synthetic(operations, dentry, length, name, inline, inode)
            if synthetic is not None:
                return synthetic
        deleted = not hashed and parent != dentry
        parts: list[bytes] = []
        mounts = 0
        while len(parts) < _MAX_COMPONENTS:
            if dentry == root:
                if parent_mount == mount or mounts >= _MAX_MOUNTS:
                    break
                mounts += 1
                mount, dentry = parent_mount, mountpoint
                parent_mount, mountpoint, root, namespace = self._mount.read(space, mount)
            elif parent == dentry:
                break  # not below the mount's root: bind mounts of what was moved away
            else:
                parts.append(self._name(dentry, length, name, inline))
                dentry = parent
            if dentry != root:
                parent, length, name, inline, _, _, _ = self._dentry.read(space, dentry)
        else:
            raise Unreadable("the path has too many components")
        parts.append(b"")
        reachable = bool(namespace) and dentry == root
        joined = b"/".join(reversed(parts)) if len(parts) > 1 else b"/"
        return GuestPath(text(joined), "file", deleted, reachable)

    def _namespace_kind(self, inode: int) -> str:
        """Return ``net``, ``mnt``...: what the ns_common behind a namespace's inode is called."""
        at = inode
        for offset in self._namespace_steps:
            at = self._space.read_u64(at + offset)
        return text(self._space.read_cstring(at, 32))

    def in_namespace(self, dentry: int, task: int) -> GuestPath:
        """Return the path of a dentry whose mount nobody tells: through a mount of its file system that ``task`` sees.

        Where the file system is mounted at several places, the one that shows most of it is taken.
        """
        space, members = self._space, self._superblock
        if members is None:
            raise Unreadable("this kernel keeps the mounts of a file system in a way that is not known")
        d_sb, s_mounts, s_root, nsproxy_at, mnt_ns_at, mnt_instance = members
        superblock = space.read_u64(dentry + d_sb)
        nsproxy = space.read_u64(task + nsproxy_at)
        wanted = space.read_u64(nsproxy + mnt_ns_at) if nsproxy else 0
        root = space.read_u64(superblock + s_root)
        ancestors = self._ancestors(dentry)
        head = superblock + s_mounts
        at, best = space.read_u64(head), 0
        for _ in range(_MAX_MOUNTS):
            if at == head:
                break
            mount = at - mnt_instance
            _, _, mnt_root, namespace = self._mount.read(space, mount)
            if namespace == wanted and mnt_root in ancestors and (not best or mnt_root == root):
                best = mount + self._vfsmount
            at = space.read_u64(at)
        if not best:
            raise Unreadable("its file system is not mounted where the process could see it")
        return self.path(best, dentry)

    def _ancestors(self, dentry: int) -> set[int]:
        found: set[int] = set()
        while dentry not in found and len(found) < _MAX_COMPONENTS:
            found.add(dentry)
            dentry = self._dentry.read(self._space, dentry)[0]
        return found

    def name(self, dentry: int) -> str:
        """Return the last component of ``dentry``'s path."""
        _, length, name, inline, _, _, _ = self._dentry.read(self._space, dentry)
        return text(self._name(dentry, length, name, inline))

    def _name(self, dentry: int, length: int, name: int, inline: bytes) -> bytes:
        if not 0 < length <= NAME_MAX:
            raise Unreadable(f"a name of {length} bytes")
        raw = (
            inline[:length]
            if name == dentry + self._inline and length <= self._inline_size
            else self._space.read(name, length)
        )
        if b"\0" in raw or b"/" in raw:
            raise Unreadable("a name that no file can have")
        return raw

    def _synthetic(
        self, operations: int, dentry: int, length: int, name: int, inline: bytes, inode: int
    ) -> GuestPath | None:
        function = self._functions.get(operations)
        if function is None:
            function = self._space.read_u64(operations + self._d_dname)
            if not function and self.quick is not None:
                self.quick.plain.add(operations)
            if self._space.image_start <= operations < self._space.image_end:  # a module's may go away
                self._functions[operations] = function
        if not function:
            return None
        symbol = self._names.get(function)
        if symbol is None:
            names = self._kernel.profile.symbols.names_at(function - self._kernel.slide)
            known = [one for one in names if one in _SYNTHETIC]
            symbol = self._names[function] = known[0] if known else ", ".join(names) or f"{function:#x}"
        if symbol not in _SYNTHETIC:
            raise Unreadable(f"a file that only {symbol} can name")
        kind, form = _SYNTHETIC[symbol]
        number = self._space.read_u64(inode + self._inode_number) if "{ino}" in form else 0
        shown = ""
        if "{name}" in form:
            if symbol == "ns_dname":
                return GuestPath(f"{self._namespace_kind(inode)}:[{number}]", kind)
            raw = inline[:length] if name == dentry + self._inline else self._space.read(name, min(length, NAME_MAX))
            shown = text(raw.split(b"\0")[0])
        return GuestPath(form.format(ino=number, name=shown), kind, deleted=symbol == "simple_dname")
