# SPDX-License-Identifier: GPL-2.0-or-later
"""Compares what drakmet.guest reads with what the guest's own /proc said of every process."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from drakmet.errors import GuestError

if TYPE_CHECKING:
    from drakmet.guest.linux import LinuxGuest
    from drakmet.guest.tasks import Process

NANOSECONDS_A_TICK = 10_000_000
_PROC_PATH = re.compile(r"(.*?)( \(deleted\))?$", re.DOTALL)


def raw(text: str) -> str:
    return os.fsdecode(bytes.fromhex(text))


def expected(line: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a `Process` as /proc shows them."""
    status = dict(one.split(":\t", 1) for one in raw(line["status"]).splitlines() if ":\t" in one)
    stat = raw(line["stat"]).rpartition(")")[2].split()
    uids, gids = status["Uid"].split(), status["Gid"].split()
    exe = _PROC_PATH.fullmatch(raw(line["exe"])) if "exe" in line else None

    def inode(key: str) -> int:
        return int(re.findall(r"\d+", raw(line[key]))[0])

    return {
        "pid": line["process"],
        "tgid": int(status["Tgid"]),
        "ppid": int(status["PPid"]),
        "comm": status["Name"],
        "start": int(stat[19]),
        "uid": int(uids[0]),
        "euid": int(uids[1]),
        "gid": int(gids[0]),
        "egid": int(gids[1]),
        "ns_pid": int(status["NSpid"].split()[-1]),
        "exe": exe[1] if exe else None,
        "exe_deleted": bool(exe[2]) if exe else None,
        "cgroup": raw(line["cgroup"]).partition("::")[2].rstrip("\n"),
        "pid_ns": inode("pid_ns"),
        "mnt_ns": inode("mnt_ns"),
        "net_ns": inode("net_ns"),
    }


def census(guest: LinuxGuest, told: list[dict[str, Any]], problems: list[str]) -> int:
    """Append each difference to ``problems``; return how many processes were compared."""
    lines = {line["process"]: line for line in told if "process" in line}
    tasks = {guest.process(task).tgid: task for task in guest.tasks()}
    for pid in lines.keys() ^ tasks.keys():
        # Kernel workers come and go between the census and the snapshot.
        if pid not in tasks or not guest.process(tasks[pid]).kernel_thread:
            name = raw(lines[pid]["stat"]) if pid in lines else guest.process(tasks[pid]).comm
            if "kworker" not in name:
                problems.append(f"{pid} {name} is only on one side")
    compared = 0
    for pid, line in lines.items():
        if pid in tasks:
            compared += 1
            _process(guest, tasks[pid], line, problems)
    return compared


def _status(line: dict[str, Any], key: str) -> int:
    (found,) = re.findall(rf"^{key}:\t(\d+)$", raw(line["status"]), re.MULTILINE)
    return int(found)


def _process(guest: LinuxGuest, task: int, line: dict[str, Any], problems: list[str]) -> None:
    process = guest.process(task)
    wanted = expected(line)
    if process.missing:
        problems.append(f"{process.pid} {process.comm}: {process.missing}")
    for key, value in wanted.items():
        if key == "start":
            found: Any = process.start_time // NANOSECONDS_A_TICK
        elif key == "comm" and process.kernel_thread:
            continue  # /proc adds the work a worker does
        else:
            found = getattr(process, key)
        if found != value:
            problems.append(f"{process.pid} {process.comm}: {key} is {found!r}, /proc said {value!r}")
    if len(list(guest.threads(task))) != _status(line, "Threads"):
        problems.append(f"{process.pid}: not {_status(line, 'Threads')} threads")
    if process.kernel_thread:
        return
    mm = guest.task_reader.mm(task)
    for key, read in (("cmdline", guest.argv), ("environ", guest.programs.environment)):
        found, value = read(mm), raw(line[key])
        if found != (value.removesuffix("\0").split("\0") if value else []):
            problems.append(f"{process.pid}: {key} is {found!r}, /proc said {value!r}")
    if str(guest.programs.root(task)) != raw(line["root"]):
        problems.append(f"{process.pid}: root is {guest.programs.root(task)}, /proc said {raw(line['root'])}")
    if str(guest.cwd(task)) != raw(line["cwd"]):
        problems.append(f"{process.pid}: cwd is {guest.cwd(task)}, /proc said {raw(line['cwd'])}")
    if process.pid != 1:  # init's descriptors change while it tells them
        _descriptors(guest, process, line["fds"], problems)


def _descriptors(guest: LinuxGuest, process: Process, wanted: dict[str, Any], problems: list[str]) -> None:
    held = dict(guest.open_files(process.task))
    if sorted(held) != sorted(int(fd) for fd in wanted if fd != "-1"):
        problems.append(f"{process.pid}: descriptors {sorted(held)}, /proc said {sorted(wanted)}")
        return
    for fd, address in held.items():
        line = wanted[str(fd)]
        try:
            file = guest.file(address)
        except GuestError as error:
            problems.append(f"{process.pid}: fd {fd}: {error}")
            continue
        if file.path and file.path.kind == "socket":
            private = guest.types.offset("file", "private_data")
            try:
                guest.sockets.of_socket(guest.space.read_u64(address + private))
            except GuestError as error:
                problems.append(f"{process.pid}: fd {fd}: {error}")
        name = str(file.path) + (" (deleted)" if file.path and file.path.deleted else "") if file.path else None
        if name != raw(line["path"]):
            problems.append(f"{process.pid}: fd {fd} is {name!r} {file.missing}, /proc said {raw(line['path'])!r}")
        if "ino" in line:
            found = (file.inode, file.mode, file.links, file.size, file.device)
            if found != (line["ino"], line["mode"], line["nlink"], line["size"], line["dev"]):
                problems.append(f"{process.pid}: fd {fd} is {found}, stat said {line}")
