# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest says of itself, and what a scan of it found, in one form."""

from __future__ import annotations

import json
import socket
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from drakmet.lab.client import Agent
    from drakmet.lab.hosts import Host

Census = dict[str, set[tuple[str, ...]]]
KINDS = ("process", "file", "module", "mount", "socket")
REMOTE = "/root/scan.db"
_ASK = r"""
for p in /proc/[0-9]*; do
    pid=${p#/proc/}
    exe=$(readlink $p/exe) || continue
    echo "process $pid $(sed 's/.*) . //' $p/stat | cut -d' ' -f1) $exe $(readlink $p/cwd)"
    [ $pid = $PPID ] && continue  # whoever started this has descriptors for it
    for f in $p/fd/*; do echo "file $pid ${f##*/} $(readlink $f)"; done
done
sed 's/ .* Live / /;s/^/module /' /proc/modules
for t in tcp tcp6 udp udp6; do tail -n +2 /proc/net/$t | awk -v t=$t '{print "socket", t, $2, $3 " " $10}'; done
awk '{print "mount", $1, $5}' /proc/self/mountinfo
"""
_FOUND = {
    "process": "SELECT p.pid, p.ppid, r.path, r.cwd FROM process_running r JOIN process p ON p.id = r.process"
    " WHERE r.session = {}",
    "file": "SELECT p.pid, fd, path FROM open_file f JOIN process p ON p.id = f.process WHERE f.session = {}",
    "module": "SELECT name, printf('0x%016x', address) FROM kernel_module WHERE session = {}",
    "mount": "SELECT mount, path FROM mount_point WHERE session = {}",
    "socket": "SELECT DISTINCT protocol || CASE family WHEN 'inet6' THEN '6' ELSE '' END, local_address, local_port,"
    " coalesce(address, CASE family WHEN 'inet6' THEN '::' ELSE '0.0.0.0' END), coalesce(port, 0), coalesce(inode, 0)"
    " FROM open_socket WHERE family IN ('inet', 'inet6') AND local_port AND session = {}",
}


def census(guest: Agent) -> Census:
    """Return what the guest says is there, by kind."""
    found: Census = {}
    for line in guest.run(["sh", "-c", _ASK], check=True).stdout.decode().splitlines():
        kind, *rest = line.split(" ", 4)
        if kind == "socket":
            table, near, far = rest[0], *(_address(one) for one in rest[1:3])
            rest = [table, *near, *far, rest[3]]
        found.setdefault(kind, set()).add(tuple(rest))
    return found


def _address(text: str) -> tuple[str, str]:
    host, _, port = text.partition(":")
    packed = b"".join(bytes.fromhex(host[at : at + 8])[::-1] for at in range(0, len(host), 8))
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed), str(int(port, 16))


def found_in(database: Path) -> Census:
    """Return what the last scan found, in the same form."""

    def ask(sql: str) -> set[tuple[str, ...]]:
        return {tuple("" if value is None else str(value) for value in row) for row in connection.execute(sql)}

    with closing(sqlite3.connect(database)) as connection:
        (last,) = connection.execute("SELECT max(id) FROM session").fetchone()
        return {kind: ask(sql.format(last)) for kind, sql in _FOUND.items()}


def scanned(host: Host, name: str, folder: Path, *options: str) -> tuple[int, dict[str, Any], Census]:
    """Scan a guest in dom0; return the exit code, what was said of the guest, and what was found."""
    command = ["drakmet", "scan", f"xen:{name}", "--db", REMOTE, "--json", "--no-rules", *options]
    ended = host.agent.run(command, timeout=1200)
    told = [json.loads(line) for line in ended.stdout.decode().splitlines()]
    (guest,) = [row for row in told if row["table"] == "guest"]
    host.agent.pull(REMOTE, folder / "scan.db")
    return ended.returncode, guest, found_in(folder / "scan.db")


def differences(before: Census, found: Census, after: Census) -> list[str]:
    """Return what was there before and after a scan and is not in it, and what is in it and was there neither time."""
    told = {pid for pid, *_ in before["file"] & after["file"]}
    problems = []
    for kind in KINDS:
        problems += [f"{kind} not found: {one}" for one in (before[kind] & after[kind]) - found[kind]]
        made_up = found[kind] - before[kind] - after[kind]
        if kind == "file":
            made_up = {one for one in made_up if one[0] in told}  # of its own teller a guest says nothing
        elif kind == "socket":
            made_up = {one for one in made_up if one[-1] != "0"}  # a connection that ended waits for a while
        elif kind == "mount":
            made_up = set()  # below the first root, which the guest's programs left, are some that nobody shows
        problems += [f"{kind} made up: {one}" for one in made_up]
    return problems
