# SPDX-License-Identifier: GPL-2.0-or-later
"""Records as events of the Open Cybersecurity Schema Framework (OCSF 1.3), for what takes these."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from drakmet import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from drakmet.report.rows import Row, Rows

VERSION = "1.3.0"

Event = dict[str, Any]
Made = tuple[int, int, Event]
"""Class, activity, and the class's own attributes."""

_SYSTEM, _FINDINGS, _NETWORK = 1, 2, 4
_FILE, _PROCESS, _DETECTION, _CONNECTION, _DNS = 1001, 1007, 2004, 4001, 4003
_VIRTUAL = 6
_OS = {"linux": 200, "windows": 100}
_SEVERITY = {"informational": 1, "low": 2, "medium": 3, "high": 4, "critical": 5}
_PROTOCOL = {"tcp": 6, "udp": 17}
_REGULAR, _FOLDER, _UNKNOWN, _OTHER = 1, 2, 0, 99


def events(rows: Rows) -> Iterator[Event]:
    """Yield the events of all records that a class of OCSF fits."""
    for table, row in rows.merged([table for table in MAKERS if table in rows.tables]):
        made = MAKERS[table](rows, row)
        if made is not None:
            yield _event(rows, table, row, *made)


def _event(rows: Rows, table: str, row: Row, class_uid: int, activity: int, own: Event) -> Event:
    guest = rows.guest(row["session"]) or {}
    system = guest.get("os")
    device: Event = {"type_id": _VIRTUAL, "hostname": guest.get("name") or "unknown"}
    if guest.get("uuid"):
        device["uid"] = guest["uuid"]
    if guest.get("host_name"):
        device["hypervisor"] = guest["host_name"]
    if system:
        device["os"] = {"name": system, "type_id": _OS.get(system, _OTHER)}
    event: Event = {
        "class_uid": class_uid,
        "category_uid": class_uid // 1000,
        "activity_id": activity,
        "type_uid": class_uid * 100 + activity,
        "time": row["time"] // 10**6,
        "severity_id": 1,
        "metadata": {
            "version": VERSION,
            "product": {"name": "drakmet", "vendor_name": "drakmet", "version": __version__},
            "uid": f"{table}:{row['id']}",
            "profiles": ["host"],
        },
        "device": device,
        **own,
    }
    result = row.get("result")
    if result is not None:
        event["status_id"] = 1 if result >= 0 else 2
        if result < 0:
            event["status_code"] = str(result)
    if row.get("unreadable"):
        event["unmapped"] = event.get("unmapped", {}) | {"unreadable": row["unreadable"]}
    if class_uid != _DETECTION:
        event["actor"] = {"process": _process(rows.process(row["process"]))}
    return event


def _process(row: Row | None) -> Event:
    """Return a process; what is not known of it is left out. Pid 0 would be a process: the idle one."""
    if row is None:
        return {"uid": "unknown", "name": "unknown"}
    found: Event = {"uid": str(row.get("life") or row["id"])}
    if row["pid"] is not None:
        found["pid"] = row["pid"]
    path = row.get("exe")
    if path:
        found["file"] = _file(path, _REGULAR)
    if path or row.get("comm"):
        found["name"] = _base(path or row["comm"])
    if row.get("ppid") is not None:
        found["parent_process"] = {"pid": row["ppid"]}
    if row.get("tid") is not None:
        found["tid"] = row["tid"]
    if row.get("uid") is not None:
        found["user"] = {"uid": str(row["uid"])}
    return found


def _file(path: str | None, kind: int = _UNKNOWN) -> Event:
    return {"path": path or "", "name": _base(path or "") or "unknown", "type_id": kind}


def _base(path: str) -> str:
    separator = "/" if "/" in path else "\\\\"
    return path.rpartition(separator)[2] or path


def _launched(_rows: Rows, row: Row) -> Made:
    process: Event = {"uid": "unknown"} if row["pid"] is None else {"pid": row["pid"]}
    if row["path"]:
        process |= {"file": _file(row["path"], _REGULAR), "name": _base(row["path"])}
    if isinstance(row["argv"], list):
        process["cmd_line"] = " ".join(map(str, row["argv"]))
    if row["uid"] is not None:
        process["user"] = {"uid": str(row["uid"])}
    # This version of the schema has no place for the working directory.
    return _PROCESS, 1, {"process": process} | ({"unmapped": {"cwd": row["cwd"]}} if row["cwd"] else {})


def _ended(rows: Rows, row: Row) -> Made:
    found: Event = {"process": _process(rows.process(row["process"]))}
    if row["status"] is not None:
        found["exit_code"] = row["status"]
    return _PROCESS, 2, found


def _forked(_rows: Rows, row: Row) -> Made | None:
    if row["thread"] or row["child_pid"] is None:
        return None
    return _PROCESS, _OTHER, {"activity_name": "Fork", "process": {"pid": row["child_pid"]}}


def _opened(_rows: Rows, row: Row) -> Made:
    kind = _REGULAR if row["created"] else _UNKNOWN
    return _FILE, 1 if row["created"] else 14, {"file": _file(row["path"] or row["requested"], kind)}


def _changed(activity: int) -> Callable[[Rows, Row], Made]:
    def make(_rows: Rows, row: Row) -> Made:
        kind = _FOLDER if row.get("directory") else _REGULAR if activity == 3 else _UNKNOWN
        return _FILE, activity, {"file": _file(row["path"], kind)}

    return make


def _renamed(_rows: Rows, row: Row) -> Made:
    return _FILE, 5, {"file": _file(row["path"]), "file_result": _file(row["new_path"])}


def _network(activity: int, direction: int) -> Callable[[Rows, Row], Made | None]:
    def make(rows: Rows, row: Row) -> Made | None:
        if row["family"] not in ("inet", "inet6") or row["address"] is None:
            return None
        end = {"ip": row["address"], **({} if row["port"] is None else {"port": row["port"]})}
        guest = rows.guest(row["session"]) or {}
        here: Event = {"hostname": guest.get("name") or "unknown"}
        protocol = row["protocol"]
        info: Event = {"direction_id": direction, "protocol_ver_id": 4 if row["family"] == "inet" else 6}
        if protocol:
            info |= {"protocol_name": protocol, "protocol_num": _PROTOCOL.get(protocol, -1)}
        ends = {"src_endpoint": here, "dst_endpoint": end} if direction == 2 else {"dst_endpoint": {**here, **end}}
        return _CONNECTION, activity, {**ends, "connection_info": info}

    return make


def _asked(rows: Rows, row: Row) -> Made:
    guest = rows.guest(row["session"]) or {}
    query = {"hostname": row["name"] or "unknown", **({"type": row["qtype"]} if row["qtype"] else {})}
    found: Event = {"query": query, "src_endpoint": {"hostname": guest.get("name") or "unknown"}}
    if row["address"]:
        port = {} if row["port"] is None else {"port": row["port"]}
        found["dst_endpoint"] = {"ip": row["address"], **port}
    return _DNS, 1, found


def _found(_rows: Rows, row: Row) -> Made:
    info = {"uid": str(row["id"]), "title": row["title"], "desc": row["message"], "analytic": {"uid": row["rule"],
            "name": row["title"], "type_id": 1}}  # fmt: skip
    return (
        _DETECTION,
        1,
        {"finding_info": info, "message": row["message"], "severity_id": _SEVERITY.get(row["level"], 0)},
    )


MAKERS: dict[str, Callable[[Rows, Row], Made | None]] = {
    "process_start": _launched,
    "process_exit": _ended,
    "process_fork": _forked,
    "file_open": _opened,
    "file_write": _changed(3),
    "file_rename": _renamed,
    "file_remove": _changed(4),
    "file_chmod": _changed(7),
    "file_chown": _changed(7),
    "net_connect": _network(1, 2),
    "net_datagram": _network(6, 2),
    "net_listen": _network(7, 1),
    "dns_query": _asked,
    "finding": _found,
}
"""What makes an event of a table's row."""
