# SPDX-License-Identifier: GPL-2.0-or-later
"""Compares the records of a scan with what the guest's own /proc said at the same moment."""

from __future__ import annotations

import re
import socket
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from drakmet.records import Process
from drakmet.scan.records import GuestState, KernelModule, MappedFile, MountPoint, OpenFile, OpenSocket
from drakmet.text import escape, unescape
from guest.truth import expected, raw

if TYPE_CHECKING:
    from collections.abc import Iterable

    from drakmet.records import Record

_PROC_NET_STATES = {
    1: "established", 2: "syn_sent", 3: "syn_recv", 4: "fin_wait1", 5: "fin_wait2", 6: "time_wait", 7: "close",
    8: "close_wait", 9: "last_ack", 10: "listen", 11: "closing",
}  # fmt: skip
_OCTAL = re.compile(r"\\([0-7]{3})")
_DEVICE_MASK = 0xFF
# init reads /proc while it tells of it, and so opens files and changes nothing else.
_TELLER = 1


class Scan:
    """Rows by their class."""

    def __init__(self, rows: Iterable[Record]) -> None:
        self.rows = list(rows)
        self.processes = {row.id: row for row in self.rows if isinstance(row, Process)}

    def of(self, kind: type[Any], pid: int | None = None) -> list[Any]:
        """Return the rows of a class, only those of a process if its pid is given."""
        found = [row for row in self.rows if isinstance(row, kind)]
        return found if pid is None else [row for row in found if self.pid(row) == pid]

    def pid(self, row: Any) -> int | None:
        return self.processes[row.process].pid if row.process is not None else None


class Census:
    """What the guest told."""

    def __init__(self, told: list[dict[str, Any]]) -> None:
        self.lines = {line["process"]: line for line in told if "process" in line}
        self.said = {key: value for line in told for key, value in line.items() if "process" not in line}

    def text(self, key: str) -> str:
        """Return one of the files of /proc that are no process'."""
        return raw(self.said[key])


def compare(rows: Iterable[Record], told: list[dict[str, Any]]) -> tuple[list[str], Counter[str]]:
    """Return each difference, and how many rows of each table were compared."""
    scan, census = Scan(rows), Census(told)
    problems: list[str] = []
    compared: Counter[str] = Counter()
    for part in (_state, _processes, _files, _sockets, _modules, _mounts, _maps):
        part(scan, census, problems, compared)
    return problems, compared


def _differ(problems: list[str], what: str, found: Iterable[Any], wanted: Iterable[Any]) -> int:
    """Tell what is only on one side; return how many were compared."""
    have, want = Counter(found), Counter(wanted)
    problems += [f"{what}: only in the scan: {one}" for one in (have - want).elements()]
    problems += [f"{what}: only in /proc: {one}" for one in (want - have).elements()]
    return want.total()


def _state(scan: Scan, census: Census, problems: list[str], compared: Counter[str]) -> None:
    (state,) = scan.of(GuestState)
    files = {"hostname": "hostname", "release": "osrelease", "version": "build", "command_line": "cmdline"}
    for name, file in files.items():
        if getattr(state, name) != escape(census.text(file).rstrip("\n")):
            problems.append(f"{name} is {getattr(state, name)!r}, /proc said {census.text(file)!r}")
    if state.taint != int(census.text("tainted")):
        problems.append(f"taint is {state.taint}")
    told = float(census.text("uptime").split()[0])
    # The guest went on after it told the time: it tells some thousand lines through a slow port.
    if not told - 0.1 <= state.uptime / 1e9 <= told + 30:
        problems.append(f"uptime is {state.uptime / 1e9}, /proc said {told}")
    compared["guest_state"] += 1


def _processes(scan: Scan, census: Census, problems: list[str], compared: Counter[str]) -> None:
    found = {row.pid: row for row in scan.processes.values()}
    for pid in found.keys() ^ census.lines.keys():
        name = found[pid].comm if pid in found else raw(census.lines[pid]["stat"])
        if "kworker" not in name:  # these come and go
            problems.append(f"process {pid} {name} is only on one side")
    for pid in found.keys() & census.lines.keys():
        row, wanted = found[pid], expected(census.lines[pid])
        compared["process"] += 1
        for name in ("ppid", "uid", "euid", "gid", "exe", "pid_ns", "mnt_ns", "net_ns"):
            value = wanted[name]
            if getattr(row, name) != (escape(value) if isinstance(value, str) else value):
                problems.append(f"process {pid}: {name} is {getattr(row, name)!r}, /proc said {value!r}")
        if row.start_time // 10_000_000 != wanted["start"]:
            problems.append(f"process {pid}: start is {row.start_time}, /proc said {wanted['start']}")
        if not row.kernel_thread and row.comm != escape(wanted["comm"]):
            problems.append(f"process {pid}: comm is {row.comm!r}")


def _users(census: Census) -> list[int]:
    return [pid for pid, line in census.lines.items() if "exe" in line]


def _files(scan: Scan, census: Census, problems: list[str], compared: Counter[str]) -> None:
    for pid in _users(census):
        if pid == _TELLER:
            continue
        found = []
        for row in scan.of(OpenFile, pid):
            name = (row.path or "?") + (" (deleted)" if row.deleted else "")
            found.append((row.fd, name, row.inode, row.mode))
        wanted = [
            (int(fd), escape(raw(line["path"])), line.get("ino"), line.get("mode"))
            for fd, line in census.lines[pid]["fds"].items()
            if fd != "-1"
        ]
        compared["open_file"] += _differ(problems, f"files of {pid}", found, wanted)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.partition(":")
    packed = b"".join(bytes.fromhex(host[at : at + 8])[::-1] for at in range(0, len(host), 8))
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, packed), int(port, 16)


def _sockets(scan: Scan, census: Census, problems: list[str], compared: Counter[str]) -> None:
    namespaces: dict[int, dict[str, Any]] = {}
    for pid in _users(census):
        namespaces.setdefault(expected(census.lines[pid])["net_ns"], census.lines[pid])
    for net_ns, line in namespaces.items():
        every = {row.kernel: row for row in scan.of(OpenSocket) if row.net_ns == net_ns}.values()
        for table in ("tcp", "tcp6", "udp", "udp6", "raw"):
            found = [_inet(row) for row in every if _in_table(row, table)]
            wanted = []
            for text in raw(line[f"net/{table}"]).splitlines()[1:]:
                part = text.split()
                wanted.append((_address(part[1]), _address(part[2]), _PROC_NET_STATES[int(part[3], 16)], int(part[9])))
            compared["open_socket"] += _differ(problems, f"{table} of {net_ns}", found, wanted)
        found = [(row.inode or 0, row.state == "listen", row.type, row.path) for row in every if row.family == "unix"]
        kinds = {1: "stream", 2: "dgram", 5: "seqpacket"}
        wanted = []
        for text in raw(line["net/unix"]).splitlines()[1:]:
            part = text.split(maxsplit=7)
            path = escape(part[7]) if len(part) > 7 else None
            wanted.append((int(part[6]), int(part[3], 16) & 0x10000 != 0, kinds[int(part[4], 16)], path))
        compared["open_socket"] += _differ(problems, f"unix of {net_ns}", found, wanted)
    for pid in _users(census):
        if pid != _TELLER:
            found = [(row.fd, row.inode) for row in scan.of(OpenSocket, pid)]
            fds = census.lines[pid]["fds"].items()
            held = [(int(fd), one["ino"]) for fd, one in fds if fd != "-1" and raw(one["path"]).startswith("socket:")]
            compared["held_socket"] += _differ(problems, f"sockets of {pid}", found, held)


def _in_table(row: OpenSocket, table: str) -> bool:
    if row.family != ("inet6" if table.endswith("6") else "inet"):
        return False
    if table == "raw":
        return row.type == "raw"
    # A socket that was only made is in no table: it has no port and no connection.
    return row.protocol == table.rstrip("6") and row.type != "raw" and bool(row.local_port)


def _inet(row: OpenSocket) -> tuple[Any, ...]:
    nobody = "::" if row.family == "inet6" else "0.0.0.0"  # noqa: S104 - no socket is made
    return (row.local_address, row.local_port), (row.address or nobody, row.port or 0), row.state, row.inode or 0


def _modules(scan: Scan, census: Census, problems: list[str], compared: Counter[str]) -> None:
    states = {"Live": "live", "Loading": "coming", "Unloading": "going"}
    wanted = []
    for text in census.text("modules").splitlines():
        name, size, references, _, state, address = text.split()[:6]
        wanted.append((name, int(size), int(references), states[state], int(address, 16)))
    found = [(row.name, row.size, row.references, row.state, row.address) for row in scan.of(KernelModule)]
    compared["kernel_module"] += _differ(problems, "modules", found, wanted)


def _plain(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def _mounts(scan: Scan, census: Census, problems: list[str], compared: Counter[str]) -> None:
    namespaces: dict[int, str] = {}
    for pid in _users(census):
        line = census.lines[pid]
        if raw(line["root"]) == "/":  # others see a part only
            namespaces.setdefault(expected(line)["mnt_ns"], raw(line["mountinfo"]))
    for mnt_ns, text in namespaces.items():
        wanted = []
        for line in text.splitlines():
            number, parent, device, root, path, options = line.split()[:6]
            kind, source = line.partition(" - ")[2].split()[:2]
            wanted.append((int(number), int(parent), device, _plain(root), _plain(path), options[:2], kind, source))
        found = [
            (row.mount, row.parent, row.device, row.root, row.path, row.options[0], row.type, row.source)
            for row in scan.of(MountPoint)
            if row.mnt_ns == mnt_ns and row.mount != row.parent
        ]
        # The root of all is its own parent, or hidden under the one that init was given.
        numbers = {one[0] for one in found}
        wanted = [one for one in wanted if one[0] in numbers or one[0] != one[1]]
        compared["mount_point"] += _differ(problems, f"mounts of {mnt_ns}", found, wanted)


def _maps(scan: Scan, census: Census, problems: list[str], compared: Counter[str]) -> None:
    for pid in _users(census):
        wanted: dict[tuple[str | None, int], list[Any]] = {}
        for line in raw(census.lines[pid]["maps"]).splitlines():
            part = line.split(maxsplit=5)
            start, end = (int(one, 16) for one in part[0].split("-"))
            path = part[5] if len(part) > 5 else None
            inode = int(part[4])
            if not inode and "x" not in part[1]:
                continue
            if path == "[vsyscall]":
                continue  # of the kernel, in no list
            name = _plain(path) if path else None
            key = name, inode
            seen = wanted.setdefault(key, [start, 0, False, False])
            seen[1] += end - start
            seen[2] |= "x" in part[1]
            seen[3] |= "wx" in part[1]
        found = [
            (_shown(row), row.inode or 0, row.address, row.size, row.executable, row.writable_code)
            for row in scan.of(MappedFile, pid)
        ]
        compared["mapped_file"] += _differ(
            problems, f"maps of {pid}", found, [(*key, *value) for key, value in wanted.items()]
        )


def _shown(row: MappedFile) -> str | None:
    if row.path is None:
        return None
    return unescape(row.path).decode("utf-8", "surrogateescape") + (" (deleted)" if row.deleted else "")


def fields(row: Record) -> dict[str, Any]:
    return msgspec.structs.asdict(row)
