# SPDX-License-Identifier: GPL-2.0-or-later
"""Records as DRAKVUF would have printed them (its JSON, dialect of 2023 on), for the tools that read its logs.

Lines that were imported come out with the keys and values they came in with. Of our own records those are written that
a plugin of DRAKVUF's has lines for; connections and DNS as socketmon prints them on Windows, as it has none on Linux.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from drakmet.errors import UsageError
from drakmet.text import unescape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from drakmet.report.rows import Row, Rows

_LINE = "drakvuf_"
_SIGCHLD = 17

Keys = dict[str, Any]


def lines(rows: Rows) -> Iterator[bytes]:
    """Yield the lines, each with its newline."""
    imported = [table for table in rows.events if table.startswith(_LINE)]
    for table, row in rows.in_lines(imported):
        yield _imported(rows, table, row)
    sessions = {row["id"]: _is_imported(row) for row in rows.of("session")}
    number = 0
    for table, row in rows.merged([table for table in OWN if table in rows.events]):
        if not sessions[row["session"]]:  # else it is of a line that came out itself
            number += 1
            line = _own(rows, table, row, number)
            if line is not None:
                yield line


def _is_imported(session: Row) -> bool:
    source = str(session["source"])
    return source.startswith("drakvuf:") or source.endswith("(drakvuf)")


def _imported(rows: Rows, table: str, row: Row) -> bytes:
    if row.get("raw") is not None:
        return bytes(row["raw"]) + b"\n"
    plugin = row.get("plugin") or table.removeprefix(_LINE)
    fields = str(row["fields"]).strip()
    name = _text(plugin)
    if row["event"] is None:
        return b'{"Plugin":' + name + _rest(fields)
    head = _head(rows, row, row["method"], row["event"])
    if fields.startswith('{"UserName":"SessionID"'):
        fields = "{" + fields.removeprefix('{"UserName":"SessionID"').lstrip(", ")
        head = head.replace(b',"UserId":', b',"UserName":"SessionID","UserId":', 1)
    return b'{"Plugin":' + name + b"," + head + _rest(fields)


def _rest(fields: str) -> bytes:
    inner = fields.removeprefix("{").strip()
    return (b"" if inner == "}" else b",") + inner.encode() + b"\n"


def _own(rows: Rows, table: str, row: Row, number: int) -> bytes | None:
    plugin, make = OWN[table]
    made = make(row)
    if made is None:
        return None
    method, keys = made
    if not method:
        process = rows.process(row["process"]) or {}
        told = {"TimeStamp": _stamp(row["time"]), "PID": row["pid"], "PPID": process.get("ppid"), **keys}
        told["RunningProcess"] = process.get("exe") or process.get("comm")
        return b'{"Plugin":' + _text(plugin) + b"," + _members(told) + b"}\n"
    own = b"," + _members(keys) if keys else b""
    return b'{"Plugin":' + _text(plugin) + b"," + _head(rows, row, method, number) + own + b"}\n"


def _head(rows: Rows, row: Row, method: str, number: int) -> bytes:
    process = rows.process(row["process"]) or {}
    windows = process.get("windows_session")
    name = process.get("exe") or process.get("comm")
    return _members(
        {
            "TimeStamp": _stamp(row["time"]),
            "PID": process.get("pid"),
            "PPID": process.get("ppid"),
            "TID": row.get("tid") if row.get("tid") is not None else process.get("tid"),
            "UserId": windows if windows is not None else process.get("uid"),
            "ProcessName": name,
            "Method": method,
            "EventUID": hex(number),
        }
    )


def _stamp(time: int) -> str:
    return f"{time // 10**9}.{time % 10**9 // 1000:06d}"


def _members(keys: Keys) -> bytes:
    return b",".join(b'"' + name.encode() + b'":' + _value(value) for name, value in keys.items())


def _value(value: Any) -> bytes:
    return _text(value) if isinstance(value, str) else json.dumps(value).encode()


def _text(text: str) -> bytes:
    """Return guest text as a JSON string in which only bytes that are no UTF-8 stand raw, as DRAKVUF writes them."""
    try:
        plain = unescape(text)
    except UsageError:
        plain = text.encode()
    quoted = json.dumps(plain.decode("utf-8", "surrogateescape"), ensure_ascii=False)
    return quoted.encode("utf-8", "surrogateescape")


def _start(row: Row) -> tuple[str, Keys]:
    argv = row["argv"] if isinstance(row["argv"], list) else []
    keys: Keys = {"CommandLine": " ".join(map(str, argv)), "ImagePathName": row["path"] or ""}
    named = row["script"] or row["path"]
    keys |= {"ouid": row["uid"], "euid": row["euid"], "interp": row["interpreter"] or named, "FileName": named}
    return "do_execveat_common", {name: value for name, value in keys.items() if value is not None}


def _fork(row: Row) -> tuple[str, Keys]:
    flags = "CLONE_VM | CLONE_THREAD" if row["thread"] else "CLONE_CHILD_CLEARTID | CLONE_CHILD_SETTID"
    return "kernel_clone", {"Flags": flags, "Signal": _SIGCHLD, "SignalStr": "SIGCHLD", "NewPid": row["child_tid"]}


def _exit(row: Row) -> tuple[str, Keys]:
    status = row["status"] if row["status"] is not None else 128 + (row["signal"] or 0)
    return "do_exit", {"ExitStatus": status, "ExitStatusStr": "EXIT_FAILURE" if status else "EXIT_SUCCESS"}


def _opened(row: Row) -> tuple[str, Keys] | None:
    return None if row["result"] else ("do_filp_open", _file(row["path"] or row["requested"]))


def _file(path: str | None, **keys: Any) -> Keys:
    return {"FileName": path or "", **keys}


def _mode(row: Row) -> tuple[str, Keys] | None:
    if row["result"]:
        return None
    return "chmod_common", _file(row["path"], new_permissions=None if row["mode"] is None else f"{row['mode']:o}")


def _owner(row: Row) -> tuple[str, Keys] | None:
    if row["result"]:
        return None
    ids = {name: str(4294967295 if row[key] is None else row[key]) for name, key in (("UID", "uid"), ("GID", "gid"))}
    return "chown_common", _file(row["path"], **ids)


def _done(method: str, **paths: str) -> Callable[[Row], tuple[str, Keys] | None]:
    """Return what writes down something that was done to a name, if it succeeded."""

    def make(row: Row) -> tuple[str, Keys] | None:
        if row.get("result"):
            return None
        return method, {name: row[column] or "" for name, column in paths.items()}

    return make


def _removed(row: Row) -> tuple[str, Keys] | None:
    return None if row["result"] else ("vfs_rmdir" if row["directory"] else "vfs_unlink", _file(row["path"]))


def _end(row: Row, method: str) -> tuple[str, Keys] | None:
    if row["family"] not in ("inet", "inet6"):
        return None
    kind = ("TCP" if method.startswith("Tcp") else "UDP") + ("v4" if row["family"] == "inet" else "v6")
    return method, {
        "Protocol": kind,
        "LocalIp": "",
        "LocalPort": 0,
        "RemoteIp": row["address"],
        "RemotePort": row["port"],
    }


def _connected(row: Row) -> tuple[str, Keys] | None:
    return _end(row, "TcpCreateAndConnectTcbComplete") if row["protocol"] == "tcp" else None


OWN: dict[str, tuple[str, Callable[[Row], tuple[str, Keys] | None]]] = {
    "process_running": ("procmon", lambda _: ("", {"RunningProcess": None})),
    "process_fork": ("procmon", _fork),
    "process_start": ("procmon", _start),
    "process_exit": ("procmon", _exit),
    "file_open": ("filetracer", _opened),
    "file_write": ("filetracer", lambda row: ("vfs_write", _file(row["path"], Mode="MODE_S_IFREG"))),
    "file_close": ("filetracer", lambda row: ("filp_close", _file(row["path"], Mode="MODE_S_IFREG"))),
    "file_rename": ("filetracer", _done("vfs_rename", FileName="new_path", old_name="path")),
    "file_remove": ("filetracer", _removed),
    "file_chmod": ("filetracer", _mode),
    "file_chown": ("filetracer", _owner),
    "net_connect": ("socketmon", _connected),
    "net_datagram": ("socketmon", lambda row: _end(row, "UdpSendMessages")),
    "dns_query": ("socketmon", lambda row: ("DnsQueryEx", {"DnsName": row["name"] or ""})),
}
"""Which of DRAKVUF's plugins would tell of a table's rows, and what makes function and keys of one."""
