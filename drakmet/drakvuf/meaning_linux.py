# SPDX-License-Identifier: GPL-2.0-or-later
"""What DRAKVUF's plugins for Linux guests tell, in our own records.

DRAKVUF traps at the entry of most functions: whether they succeeded is not known, and ``result`` is unreadable.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drakmet.drakvuf.meaning import Maker
    from drakmet.drakvuf.rows import Event, Meaning

_MOST_OPEN = 1 << 16
_MOST_IDS = 1 << 32


class Linux:
    """Makes records of lines about a Linux guest."""

    def __init__(self, maker: Maker) -> None:
        self._make = maker.make
        self._processes = maker.processes
        self._written: OrderedDict[tuple[int | None, str], None] = OrderedDict()

    def meanings(self) -> dict[str, dict[str, Meaning]]:
        """Return what to do with a line, by plugin and function."""
        return {
            "procmon": {
                "do_execveat_common": self.on_exec,
                "begin_new_exec": self.on_exec,
                "kernel_clone": self.on_clone,
                "_do_fork": self.on_clone,
                "do_exit": self.on_exit,
            },
            "filetracer": {
                "do_filp_open": self.on_open,
                "vfs_write": self.on_write,
                "filp_close": self.on_close,
                "vfs_rename": self.on_rename,
                "vfs_unlink": self.on_unlink,
                "vfs_rmdir": self.on_rmdir,
                "chmod_common": self.on_chmod,
                "chown_common": self.on_chown,
            },
        }

    def on_exec(self, event: Event, fields: dict[str, Any]) -> None:
        """A program was executed; the arguments come joined by blanks, so that one with a blank looks like two."""
        lost = ["cwd", "memfd", "deleted"]
        command, path = _text(fields, "CommandLine"), _text(fields, "ImagePathName")
        if command is None:
            lost.insert(0, "argv")
        if path is None:
            lost.insert(0, "path")
        named, interp = _text(fields, "FileName"), _text(fields, "interp")
        script = interpreter = None
        if named is None or interp is None:
            lost += ["script", "interpreter"]
        elif interp != named:
            interpreter = interp
            script = named if named.startswith("/") else None
            lost += [] if script else ["script"]
        self._make(
            "process_start",
            event,
            ",".join(lost),
            path=path,
            argv=None if command is None else command.split(" "),
            script=script,
            interpreter=interpreter,
            pid=event.pid,
            uid=_id(fields.get("ouid")),
            euid=_id(fields.get("euid")),
        )

    def on_clone(self, event: Event, fields: dict[str, Any]) -> None:
        """A process or thread was made."""
        child = _id(fields.get("NewPid"))
        if not child or child >= 1 << 31:
            return  # it failed: that is the error's number
        thread = "CLONE_THREAD" in str(fields.get("Flags"))
        if not thread and event.pid is not None:
            self._processes.made(child, event.pid, None, event.time)
        self._make(
            "process_fork",
            event,
            "child_start_time",
            child_pid=event.pid if thread else child,
            child_tid=child,
            thread=thread,
        )

    def on_exit(self, event: Event, fields: dict[str, Any]) -> None:
        """A thread ends; the first one of a process stands for it."""
        if event.pid is None or event.tid != event.pid:
            return
        if not self._processes.ended(event.pid, event.time, final=True):
            return
        status = _id(fields.get("ExitStatus"))
        # The line was taken for one of the life before, if that is all that was known of its pid.
        another = self._processes.strange(event.pid)
        who = {"process": self._processes.known(event.pid, event.time)} if another else {}
        self._make(
            "process_exit",
            event,
            "signal,core" if status is not None else "status,signal,core",
            pid=event.pid,
            status=None if status is None else status & 0xFF,
            **who,
        )

    def on_open(self, event: Event, fields: dict[str, Any]) -> None:
        """An open has succeeded; what else it was is not told."""
        path = _text(fields, "FileName")
        lost = "access,flags,create,created,execute,mode" + ("" if path else ",path") + ",requested"
        self._make("file_open", event, lost, path=path, result=0)

    def on_write(self, event: Event, fields: dict[str, Any]) -> None:
        """A write; the first one to a regular file counts until it is closed."""
        path = _text(fields, "FileName")
        key = (event.pid, path or "")
        if (
            fields.get("Mode") in ("MODE_S_IFCHR", "MODE_S_IFIFO", "MODE_S_IFIFO | MODE_S_IFCHR")
            or key in self._written
        ):
            return
        self._written[key] = None
        if len(self._written) > _MOST_OPEN:
            self._written.popitem(last=False)
        self._make("file_write", event, "file" if path else "path,file", path=path)

    def on_close(self, event: Event, fields: dict[str, Any]) -> None:
        """A file is closed; of interest if it was written to."""
        path = _text(fields, "FileName")
        key = (event.pid, path or "")
        if key in self._written:
            del self._written[key]
            self._make("file_close", event, "file,bytes_written", path=path)

    def on_rename(self, event: Event, fields: dict[str, Any]) -> None:
        """A file is about to be renamed."""
        self._make("file_rename", event, "result", path=_text(fields, "old_name"), new_path=_text(fields, "FileName"))

    def on_unlink(self, event: Event, fields: dict[str, Any]) -> None:
        """A name is about to be removed."""
        self._make("file_remove", event, "result", path=_text(fields, "FileName"), directory=False)

    def on_rmdir(self, event: Event, fields: dict[str, Any]) -> None:
        """A directory is about to be removed."""
        self._make("file_remove", event, "result", path=_text(fields, "FileName"), directory=True)

    def on_chmod(self, event: Event, fields: dict[str, Any]) -> None:
        """A mode is about to be changed."""
        text = _text(fields, "new_permissions")
        known = text is not None and len(text) <= 5 and text.isascii() and all(digit in "01234567" for digit in text)
        mode = int(text, 8) if known and text else None
        self._make("file_chmod", event, "result" if known else "mode,result", path=_text(fields, "FileName"), mode=mode)

    def on_chown(self, event: Event, fields: dict[str, Any]) -> None:
        """An owner is about to be changed; -1 leaves it."""
        uid, gid = _id(fields.get("UID")), _id(fields.get("GID"))
        self._make(
            "file_chown",
            event,
            "result",
            path=_text(fields, "FileName"),
            uid=None if uid == _MOST_IDS - 1 else uid,
            gid=None if gid == _MOST_IDS - 1 else gid,
        )


def _text(fields: dict[str, Any], key: str) -> str | None:
    """Return a string that says something."""
    value = fields.get(key)
    return value if isinstance(value, str) and value not in ("", "(null)") else None


def _id(value: Any) -> int | None:
    """Return a number that is printed as such or as text; None for what is none."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 11:
        value = int(value)
    return value if isinstance(value, int) and 0 <= value < _MOST_IDS else None
