# SPDX-License-Identifier: GPL-2.0-or-later
"""Write an initramfs: cpio's newc form (Documentation/driver-api/early-userspace/buffer-format.rst), owned by root."""

from __future__ import annotations

import io
import stat


class Cpio:
    """An archive in memory; add what it holds, then take ``packed()``."""

    def __init__(self) -> None:
        self._out = io.BytesIO()
        self._inode = 0
        self._folders: set[str] = set()

    def folder(self, path: str, mode: int = 0o755) -> None:
        """Add a folder and those above it, once."""
        parts = path.strip("/").split("/")
        for depth in range(1, len(parts) + 1):
            name = "/".join(parts[:depth])
            if name and name not in self._folders:
                self._folders.add(name)
                self._entry(name, stat.S_IFDIR | mode, b"")

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Add a file, and its folder if that is not there yet."""
        name = path.strip("/")
        if "/" in name:
            self.folder(name.rsplit("/", 1)[0])
        self._entry(name, stat.S_IFREG | mode, data)

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        name = path.strip("/")
        if "/" in name:
            self.folder(name.rsplit("/", 1)[0])
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def device(self, path: str, major: int, minor: int) -> None:
        """Add a character device."""
        self.folder(path.strip("/").rsplit("/", 1)[0])
        self._entry(path.strip("/"), stat.S_IFCHR | 0o600, b"", major, minor)

    def packed(self) -> bytes:
        """Return the archive, closed by its trailer."""
        end = _header("TRAILER!!!", 0, 0, 0, 0, 0)
        return self._out.getvalue() + end

    def _entry(self, name: str, mode: int, data: bytes, major: int = 0, minor: int = 0) -> None:
        self._inode += 1
        self._out.write(_header(name, self._inode, mode, len(data), major, minor))
        self._out.write(data + b"\0" * (-len(data) % 4))


def _header(name: str, inode: int, mode: int, size: int, major: int, minor: int) -> bytes:
    # ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
    text = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, size, 0, 0, major, minor, len(text), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + text
    return head + b"\0" * (-len(head) % 4)
