# SPDX-License-Identifier: GPL-2.0-or-later
"""What strace told (``-ff -xx -X raw -v -y``) and what drakmet stored, in the same words: one tuple an event."""

from __future__ import annotations

import re
import signal
import socket
from typing import Any

from drakmet.text import escape_bytes

Event = tuple[Any, ...]

_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+|\?)(?:<((?:\\x[0-9a-f]{2})*)>(?:\(deleted\))?)?(?: (E\w+) .*)?$")
_CUT = re.compile(r"execve(?:at)?\((.*) <(?:unfinished|pid changed to \d+) \.\.\.>")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_OF_DESCRIPTOR = re.compile(r"<(?:\\x[0-9a-f]{2})*>(?:\(deleted\))?")
ERRORS = {
    "EPERM": 1, "ENOENT": 2, "ENXIO": 6, "ENOEXEC": 8, "EAGAIN": 11, "EACCES": 13, "EBUSY": 16, "EEXIST": 17,
    "EXDEV": 18, "ENOTDIR": 20, "EISDIR": 21, "EINVAL": 22, "ENOTEMPTY": 39, "ELOOP": 40, "EADDRINUSE": 98,
    "EADDRNOTAVAIL": 99, "ENETUNREACH": 101, "ECONNREFUSED": 111, "EHOSTUNREACH": 113, "EINPROGRESS": 115,
}  # fmt: skip


def data(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def strings(text: str) -> list[str]:
    return [escape_bytes(data(one)) for one in _STRING.findall(text)]


def address(text: str) -> Event | None:
    """Return (family, address, port) of a sockaddr as strace writes it."""
    for mark, family, kind in (("sin_", "inet", socket.AF_INET), ("sin6_", "inet6", socket.AF_INET6)):
        port, host = re.search(mark + 'port="(.*?)"', text), re.search(mark + 'addr="(.*?)"', text)
        if port and host:
            return family, socket.inet_ntop(kind, data(host[1])), int.from_bytes(data(port[1]), "big")
    path = re.search(r'sun_path=(@?)"(.*?)"', text)
    return ("unix", path[1] + escape_bytes(data(path[2])), None) if path else None


def events(lines: str, superseded: bool) -> list[Event]:
    """Return what one thread did; ``superseded``: its unfinished execve worked."""
    found: list[Event] = []
    for line in lines.splitlines():
        ended = re.match(r"\+\+\+ (exited with|killed by) (\w+)", line)
        if ended:
            found.append(("exit", int(ended[2]), None) if ended[1] == "exited with" else ("exit", None, ended[2]))
            continue
        match = _CALL.match(line)
        cut = _CUT.match(line)
        if match is None:
            if cut and superseded:
                found.append(_exec(cut[1]))
            continue
        call, arguments, value, path, error = match.groups()
        result = -ERRORS[error] if error in ERRORS else 0 if error is None else None
        names = strings(_OF_DESCRIPTOR.sub("", arguments))
        if call in ("open", "openat", "creat", "openat2"):
            found.append(("open", names[0], escape_bytes(data(path)) if path else None, result))
        elif call in ("execve", "execveat") and value == "0":
            found.append(_exec(arguments))
        elif call in ("connect", "bind"):
            found.append((call, address(arguments), result))
        elif call == "listen":
            found.append((call, int(arguments.rpartition(",")[2]), result))
        elif call == "sendto" and "sa_family" in arguments:
            to = address(arguments) or ()
            mapped = bool(to) and to[0] == "inet6" and to[1].startswith("::ffff:")
            to = ("inet", to[1].removeprefix("::ffff:"), to[2]) if mapped else to
            found.append(("send", to, len(data(_STRING.findall(_OF_DESCRIPTOR.sub("", arguments))[0]))))
        elif call in ("unlink", "unlinkat", "rmdir") and result != -ERRORS["ENOENT"]:
            found.append(("remove", names[-1], result))
        elif call in ("chmod", "chown") and result == 0:
            found.append((call, names[0]))
    return found


def _exec(arguments: str) -> Event:
    bare = _OF_DESCRIPTOR.sub("", arguments)
    argv = re.search(r"\[(.*?)\]", bare)
    return "exec", strings(bare)[0], strings(argv[1]) if argv else []


def of_record(record: Any) -> Event | None:
    """Return the same for a record; None for one that strace has nothing of."""
    table = record.table
    if table == "file_open" and not record.execute:
        return "open", record.requested, record.path, record.result
    if table == "process_start":
        return "exec", record.path, record.argv
    if table in ("net_connect", "net_bind", "net_datagram"):
        where = (record.family, record.path if record.family == "unix" else record.address, record.port)
        return ("send", where, record.size) if table == "net_datagram" else (table[4:], where, record.result)
    if table == "net_listen":
        return "listen", record.backlog, record.result
    if table == "file_remove":
        return "remove", record.path, record.result
    if table in ("file_chmod", "file_chown"):
        return table[5:], record.path
    if table == "process_exit":
        return "exit", record.status, None if record.signal is None else signal.Signals(record.signal).name
    return None
