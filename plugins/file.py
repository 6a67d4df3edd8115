# SPDX-License-Identifier: GPL-2.0-or-later
"""Which files are opened, written, renamed, removed, changed in mode or owner, and mapped to be executed."""

import errno
import os
from collections import OrderedDict
from typing import Annotated

from drakmet import Address, EventRecord, Hit, Trap, hookimpl


class FileOpen(EventRecord):
    """A file was opened, or could not be."""

    path: Annotated[str | None, "the file that was opened, from the root of the mount namespace; null if none was"]
    requested: Annotated[str | None, "the name as it was given"]
    access: Annotated[str | None, "r, w or rw; path for a handle that can only be passed on (O_PATH)"]
    flags: Annotated[int | None, "flags of open(2)"]
    create: Annotated[bool | None, "whether it was to be made if it was not there (O_CREAT)"]
    created: Annotated[bool | None, "whether this open made it"]
    execute: Annotated[bool | None, "whether the kernel opened it to execute it (execve), not the program itself"]
    mode: Annotated[int | None, "permission bits to make it with; null without O_CREAT"]
    result: Annotated[int | None, "0, or the negative error number"]


class FileWrite(EventRecord):
    """A regular file was written to for the first time since it was opened."""

    indexes = (("path",), ("process", "time"))

    path: Annotated[str | None, "the file, from the root of the mount namespace"]
    file: Annotated[Address | None, "address of the kernel's struct file: the same in the file_close that ends it"]


class FileClose(EventRecord):
    """A regular file that was written to was closed for the last time."""

    path: Annotated[str | None, "the file, from the root of the mount namespace"]
    file: Annotated[Address | None, "address of the kernel's struct file"]
    bytes_written: Annotated[
        int | None, "bytes it was asked to take; null also if writev, sendfile or copy_file_range wrote any of them"
    ]


class FileRename(EventRecord):
    """A file or directory was renamed, or was found and could not be."""

    indexes = (("process", "time"),)

    path: Annotated[str | None, "its name before, from the root of the mount namespace"]
    new_path: Annotated[str | None, "its new name"]
    result: Annotated[int | None, "0, or the negative error number"]


class FileRemove(EventRecord):
    """A name was removed (unlink, rmdir), or was found and could not be."""

    indexes = (("process", "time"),)

    path: Annotated[str | None, "the name, from the root of the mount namespace"]
    directory: Annotated[bool | None, "whether it is a directory"]
    result: Annotated[int | None, "0, or the negative error number"]


class FileChmod(EventRecord):
    """A file's mode was changed, or could not be."""

    path: Annotated[str | None, "the file, from the root of the mount namespace"]
    mode: Annotated[int | None, "the new mode bits"]
    result: Annotated[int | None, "0, or the negative error number"]


class FileChown(EventRecord):
    """A file's owner or group was changed, or could not be."""

    path: Annotated[str | None, "the file, from the root of the mount namespace"]
    uid: Annotated[int | None, "the new owner; null if it stays"]
    gid: Annotated[int | None, "the new group; null if it stays"]
    result: Annotated[int | None, "0, or the negative error number"]


class FileMap(EventRecord):
    """A file is about to be mapped into memory to be executed: a program, a library."""

    path: Annotated[str | None, "the file, from the root of the mount namespace"]


_ACCESS = ("r", "w", "rw", "rw")
_FMODE_EXEC = 0x20  # include/linux/fs.h: in open_flags.open_flag for execve's own opens
_FMODE_CREATED = 0x100000
_FMODE_WRITE = 0x2
_LOOKUP_CACHED = 0x200000  # include/linux/namei.h, from 5.12 on
_PROT_EXEC = 4
_S_IFMT, _S_IFREG = 0o170000, 0o100000
_KEEP_ID = 0xFFFFFFFF
_MOST_OPEN = 65536


@hookimpl
def drakmet_records() -> list[type[EventRecord]]:
    """Return this plugin's records."""
    return [FileOpen, FileWrite, FileClose, FileRename, FileRemove, FileChmod, FileChown, FileMap]


@hookimpl
def drakmet_traps() -> list[Trap]:
    """Return this plugin's traps."""
    written = Written()
    unlinks, rmdirs, renames = Named(), Named(), Named()
    result = {"result": "$return|errno"}
    task = {"task": "$current"}
    return [
        Trap(
            function="do_filp_open",
            name="open",
            fetch={
                "requested": "pathname->name",
                "flags": "op->open_flag",
                "mode": "op->mode",
                "lookup": "op->lookup_flags",
            },
            returns={"opened": "$return|path", "fmode": "$return->f_mode", "result": "$return|errno"},
            record=FileOpen,
            handler=on_open,
        ),
        *(
            Trap(
                function=function,
                fetch={
                    "file": file,
                    "inode": f"{file}->f_inode",
                    "kind": f"{file}->f_inode->i_mode",
                    "fmode": f"{file}->f_mode",
                    "path": f"{file}|path",
                    **count,
                },
                record=FileWrite,
                handler=written.on_write,
            )
            for function, file, count in (
                ("vfs_write", "file", {"count": "count"}),
                # How many bytes a vector has is only known further in, and cp lets a file be copied "to its end".
                ("vfs_writev", "file", {}),
                ("vfs_copy_file_range", "file_out", {}),
                ("iter_file_splice_write", "out", {}),
            )
        ),
        Trap(
            function="__fput",
            name="close",
            fetch={"file": "file", "inode": "file->f_inode"},
            record=FileClose,
            handler=written.on_close,
        ),
        # Not vfs_unlink and its like: a file system on top of others calls those again for what lies below, and in some
        # kernels they are part of their caller. Their callers know how it ended, these what it was about.
        *(
            Trap(function=f"security_path_{what}", fetch={**task, **names}, record=record, handler=named.begin)
            for what, named, names, record in (
                ("unlink", unlinks, {"path": "dentry|path(dir->mnt)"}, FileRemove),
                ("rmdir", rmdirs, {"path": "dentry|path(dir->mnt)"}, FileRemove),
                (
                    "rename",
                    renames,
                    {"path": "old_dentry|path(old_dir->mnt)", "new_path": "new_dentry|path(new_dir->mnt)"},
                    FileRename,
                ),
            )
        ),
        Trap(function="do_unlinkat", name="unlink", fetch=task, returns=result, record=FileRemove,
             handler=unlinks.on_unlink),
        Trap(function="do_rmdir", name="rmdir", fetch=task, returns=result, record=FileRemove, handler=rmdirs.on_rmdir),
        Trap(function="do_renameat2", name="rename", fetch=task, returns=result, record=FileRename,
             handler=renames.on_rename),
        Trap(
            function="chmod_common",
            name="chmod",
            fetch={"path": "path|path", "mode": "mode"},
            returns=result,
            record=FileChmod,
        ),
        Trap(
            function="chown_common",
            name="chown",
            fetch={"path": "path|path", "uid": "user", "gid": "group"},
            returns=result,
            record=FileChown,
            handler=on_chown,
        ),
        Trap(
            function="security_mmap_file",
            name="map",
            fetch={"file": "file", "prot": "prot", "path": "file|path"},
            record=FileMap,
            handler=on_map,
        ),
    ]  # fmt: skip


def on_open(hit: Hit) -> FileOpen | None:
    """An open has ended."""
    flags, result = hit.flags, hit.result
    if result == -errno.EAGAIN and hit.lookup is not None and hit.lookup & _LOOKUP_CACHED:
        return None  # io_uring's first try, which may not wait: the real one follows
    path = created = access = create = execute = None
    lost = []
    if flags is None:
        lost += ["access", "create", "execute"]
    else:
        access = "path" if flags & os.O_PATH else _ACCESS[flags & os.O_ACCMODE]
        create, execute = bool(flags & os.O_CREAT), bool(flags & _FMODE_EXEC)
        flags &= ~_FMODE_EXEC
    if result == 0:
        path = hit.opened
        created = None if hit.fmode is None else bool(hit.fmode & _FMODE_CREATED)
    if not result:  # there is a file, or nobody knows
        lost += [name for name, value in (("path", path), ("created", created)) if value is None]
    if create is None:
        lost.append("mode")
    return hit.make(
        FileOpen,
        lost,
        path=path,
        requested=hit.requested,
        access=access,
        flags=flags,
        create=create,
        created=created,
        execute=execute,
        mode=hit.mode & 0o7777 if create and hit.mode is not None else None,
        result=result,
    )


class _Open:
    """An open file that was written to."""

    __slots__ = ("bytes", "inode", "lost", "path")

    def __init__(self, inode: int | None, path: str | None) -> None:
        self.inode = inode
        self.path = path
        self.bytes: int | None = 0
        self.lost = [] if path is not None else ["path"]


class Written:
    """Which open files were written to already; the longest untouched is forgotten first."""

    def __init__(self) -> None:
        self._files: OrderedDict[int, _Open] = OrderedDict()

    def on_write(self, hit: Hit) -> FileWrite | None:
        """A write to any file; only the first to a regular one counts."""
        if hit.kind is not None and hit.kind & _S_IFMT != _S_IFREG:
            return None
        if hit.fmode is not None and not hit.fmode & _FMODE_WRITE:
            return None  # it was opened to be read: the write fails
        files, record = self._files, None
        known = files.get(hit.file)
        # Another inode: its close was missed, and the address is another file's now.
        if known is None or known.inode != hit.inode:
            known = files[hit.file] = _Open(hit.inode, hit.path)
            record = hit.make(FileWrite, path=hit.path, file=hit.file)
            if len(files) > _MOST_OPEN:
                files.popitem(last=False)
        files.move_to_end(hit.file)
        count = hit.values.get("count")
        if count is None and "count" in hit.unreadable and "bytes_written" not in known.lost:
            known.lost.append("bytes_written")
        known.bytes = None if known.bytes is None or count is None else known.bytes + count
        return record

    def on_close(self, hit: Hit) -> FileClose | None:
        """A struct file goes; of interest if it was written to."""
        known = self._files.pop(hit.file, None)
        if known is None or known.inode != hit.inode:
            return None
        return hit.make(FileClose, known.lost, path=known.path, file=hit.file, bytes_written=known.bytes)


class Named:
    """What each thread is about to do to a name, until it is known how that ended; one of these for each way."""

    def __init__(self) -> None:
        self._begun: OrderedDict[int, Hit] = OrderedDict()

    def begin(self, hit: Hit) -> None:
        """The name was found; nothing was done yet."""
        self._begun[hit.task] = hit
        self._begun.move_to_end(hit.task)
        if len(self._begun) > _MOST_OPEN:
            self._begun.popitem(last=False)

    def on_unlink(self, hit: Hit) -> FileRemove | None:
        """A name of something that is no directory."""
        return self._removed(hit, directory=False)

    def on_rmdir(self, hit: Hit) -> FileRemove | None:
        """A directory."""
        return self._removed(hit, directory=True)

    def _removed(self, hit: Hit, *, directory: bool) -> FileRemove | None:
        begun = self._begun.pop(hit.task, None)
        if begun is None:
            return None  # there is no such name
        return hit.make(FileRemove, begun.unreadable, path=begun.path, directory=directory, result=hit.result)

    def on_rename(self, hit: Hit) -> FileRename | None:
        """A rename has ended."""
        begun = self._begun.pop(hit.task, None)
        if begun is None:
            return None
        return hit.make(FileRename, begun.unreadable, path=begun.path, new_path=begun.new_path, result=hit.result)


def on_chown(hit: Hit) -> FileChown:
    """Of owner and group, one may stay as it is."""
    uid = None if hit.uid == _KEEP_ID else hit.uid
    gid = None if hit.gid == _KEEP_ID else hit.gid
    return hit.make(FileChown, path=hit.path, uid=uid, gid=gid, result=hit.result)


def on_map(hit: Hit) -> FileMap | None:
    """Any mapping; only files that are to be executed count."""
    if not hit.file or (hit.prot is not None and not hit.prot & _PROT_EXEC):
        return None
    return hit.make(FileMap, path=hit.path)
