# SPDX-License-Identifier: GPL-2.0-or-later
"""What DRAKVUF's plugins for Windows guests tell, in our own records. Results are NTSTATUS numbers."""

from __future__ import annotations

import ipaddress
import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drakmet.drakvuf.meaning import Maker
    from drakmet.drakvuf.rows import Event, Meaning

_MOST_OPEN = 1 << 16
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|(.))", re.DOTALL)
_NAMED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_READS = {"GENERIC_READ", "FILE_READ_DATA", "GENERIC_ALL", "FILE_ALL_ACCESS", "FILE_GENERIC_READ"}
_WRITES = {
    "GENERIC_WRITE",
    "FILE_WRITE_DATA",
    "FILE_APPEND_DATA",
    "GENERIC_ALL",
    "FILE_ALL_ACCESS",
    "FILE_GENERIC_WRITE",
}
_CREATES = {"FILE_CREATE", "FILE_OPEN_IF", "FILE_OVERWRITE_IF", "FILE_SUPERSEDE"}
_MAKES = {"FILE_CREATE"}


class Windows:
    """Makes records of lines about a Windows guest."""

    def __init__(self, maker: Maker) -> None:
        self._make = maker.make
        self._processes = maker.processes
        self._written: OrderedDict[tuple[int | None, str], None] = OrderedDict()

    def meanings(self) -> dict[str, dict[str, Meaning]]:
        """Return what to do with a line, by plugin and function."""
        connects = ("TcpCreateAndConnectTcbComplete", "TcpCreateAndConnectTcbRateLimitComplete")
        asks = ("DnsQuery_A", "DnsQuery_W", "DnsQuery_UTF8", "DnsQueryEx", "DnsQueryExA", "DnsQueryExW", "DnsQueryA")
        return {
            "procmon": {
                "NtCreateUserProcess": self.on_create,
                "NtCreateProcessEx": self.on_create,
                "NtTerminateProcess": self.on_terminate,
                "MmCleanProcessAddressSpace": self.on_clean,
            },
            "filetracer": {
                "NtCreateFile": self.on_open,
                "NtOpenFile": self.on_open,
                "NtWriteFile": self.on_write,
                "NtSetInformationFile": self.on_set,
            },
            "socketmon": {
                **dict.fromkeys(connects, self.on_connect),
                "UdpSendMessages": self.on_datagram,
                **dict.fromkeys(asks, self.on_ask),
            },
        }

    def on_create(self, event: Event, fields: dict[str, Any]) -> None:
        """A process was made, with its program; ``process`` is who made it."""
        pid = _number(fields.get("NewPid"))
        if _number(fields.get("Status")) != 0 or pid is None or event.pid is None:
            return
        path, command = _text(fields, "ImagePathName"), _text(fields, "CommandLine")
        self._processes.made(pid, event.pid, path, event.time)
        self._make(
            "process_fork",
            event,
            "child_start_time",
            child_pid=pid,
            child_tid=_number(fields.get("NewTid")),
            thread=False,
        )
        lost = [name for name, value in (("path", path), ("argv", command), ("command_line", command)) if value is None]
        self._make(
            "process_start",
            event,
            ",".join([*lost, "uid", "euid", "deleted"]),
            path=path,
            argv=None if command is None else arguments(unescaped(command)),
            command_line=None if command is None else unescaped(command),
            cwd=_text(fields, "CWD"),
            pid=pid,
            memfd=False,
        )

    def on_terminate(self, event: Event, fields: dict[str, Any]) -> None:
        """A process is told to end, by itself (0) or another; that is when its status is told."""
        pid = _number(fields.get("ExitPid")) or event.pid
        if pid is not None:
            self._end(event, pid, _number(fields.get("ExitStatus")), final=False)

    def on_clean(self, event: Event, fields: dict[str, Any]) -> None:
        """The memory of a process goes."""
        pid = _number(fields.get("ExitPid")) or event.pid
        if pid is not None:
            self._end(event, pid, None, final=True)

    def _end(self, event: Event, pid: int, status: int | None, *, final: bool) -> None:
        if self._processes.ended(pid, event.time, final=final):
            who = self._processes.known(pid, event.time)
            lost = None if status is not None else "status"
            self._make("process_exit", event, lost, process=who, pid=pid, status=status)

    def on_open(self, event: Event, fields: dict[str, Any]) -> None:
        """A file was opened or made, or could not be."""
        path, result = _text(fields, "FileName"), _status(fields.get("Status"))
        rights = set(str(fields.get("DesiredAccess", "")).split(" | "))
        how = str(fields.get("CreateDisposition", ""))
        access = ("r" if rights & _READS else "") + ("w" if rights & _WRITES else "")
        lost = ["flags", "execute", "mode"] + [
            n for n, v in (("access", access), ("result", result)) if v in ("", None)
        ]
        creates = how in _CREATES if how else None
        created = None
        if event.method == "NtOpenFile":
            creates = created = False
        elif result == 0 and how in _MAKES:
            created = True
        else:
            lost.append("created")
        self._make(
            "file_open",
            event,
            ",".join(lost if path else [*lost, "path"]),
            path=path if not result else None,
            requested=path,
            access=access or None,
            create=creates,
            created=created,
            result=result,
        )
        handle = fields.get("FileHandle")
        if isinstance(handle, str):
            self._written.pop((event.pid, handle), None)

    def on_write(self, event: Event, fields: dict[str, Any]) -> None:
        """A write; the first one to a handle counts."""
        path, handle = _text(fields, "FileName"), str(fields.get("FileHandle"))
        if (event.pid, handle) in self._written:
            return
        self._written[event.pid, handle] = None
        if len(self._written) > _MOST_OPEN:
            self._written.popitem(last=False)
        self._make("file_write", event, "file" if path else "path,file", path=path)

    def on_set(self, event: Event, fields: dict[str, Any]) -> None:
        """A file is about to be renamed, or to be removed when it is closed."""
        what = str(fields.get("Operation", ""))
        if what.startswith("FileDisposition"):
            self._make("file_remove", event, "directory,result", path=_text(fields, "FileName"))
        elif what.startswith("FileRename"):
            path, new = _text(fields, "FileSrc"), _text(fields, "FileDst")
            self._make("file_rename", event, "result", path=path, new_path=new)

    def on_connect(self, event: Event, fields: dict[str, Any]) -> None:
        """A TCP connection was made."""
        self._connection("net_connect", event, fields, "tcp", None, result=0)

    def on_datagram(self, event: Event, fields: dict[str, Any]) -> None:
        """A UDP datagram is sent."""
        self._connection("net_datagram", event, fields, "udp", "size")

    def _connection(
        self, table: str, event: Event, fields: dict[str, Any], protocol: str, lost: str | None, **more: Any
    ) -> None:
        address = _text(fields, "RemoteIp")
        owner = _number(fields.get("OwnerPID"))
        self._make(
            table,
            event,
            lost,
            process=event.process if owner in (None, event.pid) else self._processes.known(owner or 0, event.time),
            family=_family(address),
            protocol=protocol,
            address=address,
            port=_number(fields.get("RemotePort")),
            **more,
        )

    def on_ask(self, event: Event, fields: dict[str, Any]) -> None:
        """A name is asked for; of whom is not told."""
        name = _text(fields, "DnsName")
        self._make(
            "dns_query",
            event,
            "qtype,address,port" if name else "name,qtype,address,port",
            name=None if name is None else name.removesuffix("."),
        )


def unescaped(text: str) -> str:
    r"""Undo GLib's ``g_strescape`` (``\\``, ``\303``), through which procmon puts a command line first."""
    if "\\" not in text:
        return text
    parts: list[bytes] = []
    at = 0
    for match in _ESCAPE.finditer(text):
        parts.append(text[at : match.start()].encode("utf-8", "surrogateescape"))
        octal, letter = match.groups()
        parts.append(bytes((int(octal, 8) & 0xFF,)) if octal else _NAMED.get(letter, letter).encode("utf-8", "replace"))
        at = match.end()
    parts.append(text[at:].encode("utf-8", "surrogateescape"))
    return b"".join(parts).decode("utf-8", "surrogateescape")


def arguments(command: str) -> list[str]:
    """Return the arguments in a command line as a Windows program finds them (CommandLineToArgvW)."""
    found: list[str] = []
    at, length = 0, len(command)
    while at < length:
        while at < length and command[at] in " \t":
            at += 1
        if at >= length:
            break
        word: list[str] = []
        quoted = False
        while at < length and (quoted or command[at] not in " \t"):
            slashes = 0
            while at < length and command[at] == "\\":
                slashes, at = slashes + 1, at + 1
            if not found or at >= length or command[at] != '"':
                word.append("\\" * slashes)
            else:
                word.append("\\" * (slashes // 2))
                if slashes % 2:
                    word.append('"')
                    at += 1
                    continue
            if at < length and command[at] == '"':
                if quoted and found and command[at + 1 : at + 2] == '"':
                    word.append('"')
                    at += 1
                else:
                    quoted = not quoted
                at += 1
            elif at < length and (quoted or command[at] not in " \t") and command[at] != "\\":
                word.append(command[at])
                at += 1
        found.append("".join(word))
    return found


def _text(fields: dict[str, Any], key: str) -> str | None:
    """Return a string that says something."""
    value = fields.get(key)
    return value if isinstance(value, str) and value not in ("", "(null)") else None


def _number(value: Any) -> int | None:
    """Return a number that is printed as such or in hex; None for what is none or has more than 32 bits."""
    if isinstance(value, str) and re.fullmatch(r"0x[0-9a-fA-F]{1,8}", value):
        value = int(value, 16)
    return value if isinstance(value, int) and 0 <= value < 1 << 32 else None


def _status(value: Any) -> int | None:
    """Return an NTSTATUS: 0 or more for success, negative for an error."""
    number = _number(value)
    return number if number is None or number < 1 << 31 else number - (1 << 32)


def _family(address: str | None) -> str | None:
    try:
        return "inet" if ipaddress.ip_address(address or "").version == 4 else "inet6"
    except ValueError:
        return None
