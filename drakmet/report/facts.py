# SPDX-License-Identifier: GPL-2.0-or-later
"""What there is in a guest, kind by kind, under names that are the same when one looks again later."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from drakmet.naming.records import LAST

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet.report.looks import Look

Attributes = dict[str, str | None]
MOST = 200_000
"""Things of one kind that are compared; a guest may make any number."""

_NUMBERS = re.compile(r"\bpid \d+")
_THREAD_NUMBER = re.compile(r"[/:].*|[-\d]+$")


@dataclass
class Facts:
    """The things of one kind, by name with what may change about them."""

    found: dict[str, Attributes] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    gap: str | None = None
    """Why some may be missing."""
    absent: bool = False
    """Whether nobody looked for them."""
    only_changes: bool = False
    """Whether that one is new or gone means nothing."""

    def add(self, name: str, note: str | None = None, **attributes: object) -> None:
        """Add a thing; the attributes of several with one name are put together."""
        known = self.found.get(name)
        if known is None:
            if len(self.found) >= MOST:
                self.gap = f"more than {MOST} are not compared"
                return
            known = self.found[name] = {}
        if note:
            self.notes.setdefault(name, note)
        for key, value in attributes.items():
            texts = [] if known.get(key) is None else str(known[key]).split(", ")
            text = None if value is None else str(value)
            if text is not None and text not in texts and len(texts) < 20:
                texts = sorted([*texts, text])
            known[key] = ", ".join(texts) or None


def attributes(known: Attributes) -> str | None:
    """Return attributes as a text: ``uid: 0, version: 1``; those that are not known are left out."""
    return ", ".join(f"{name}: {value}" for name, value in known.items() if value is not None) or None


def _facts(look: Look, *tables: str) -> Facts:
    """Return an empty list of what some tables tell together."""
    there = [table for table in tables if look.collected(table)]
    if not there:
        return Facts(absent=True, gap=f"{' and '.join(tables)}: not collected")
    return Facts(gap=look.gaps(there))


def _kernel(look: Look) -> Facts:
    facts = Facts()
    if look.collected("guest_state"):
        columns = "release, version, command_line, hostname, cpus, levels, taint"
        for row in look.rows(f"SELECT {columns} FROM guest_state WHERE :of(guest_state)"):  # noqa: S608 - a constant
            facts.add("kernel", **{key.replace("_", " "): value for key, value in row.items()})
    else:
        sql = "SELECT g.os, g.kernel, g.build_id FROM session s JOIN guest g ON g.id = s.guest WHERE :of(session s)"
        for row in look.rows(sql):
            facts.add("kernel", version=row["kernel"], **{"system": row["os"], "build-id": row["build_id"]})
    return facts


def _argv(row: dict[str, Any]) -> str:
    argv = row["argv"]
    return " ".join(map(str, argv)) if isinstance(argv, list) and argv else "?"


def _processes(look: Look) -> Facts:
    facts = _facts(look, "process_running", "process_start")
    for table in ("process_running", "process_start"):
        if look.has(table):
            uid = "t.uid" if table == "process_start" else "p.uid"
            sql = (
                f"SELECT DISTINCT coalesce(t.path, p.exe, p.comm) AS path, t.argv, {uid} AS uid,"  # noqa: S608 - ours
                f" t.deleted, t.memfd, p.container FROM {table} t LEFT JOIN process p ON p.id = t.process"
                f" WHERE :of({table} t) LIMIT {MOST * 5}"
            )
            for row in look.rows(sql):
                path, argv = row["path"] or "?", _argv(row)
                name = argv if argv.split(" ", 1)[0] == path else f"{path} ({argv})" if argv != "?" else path
                # Which of two with one name is which cannot be told, so that the users of both are told together.
                flags = [word for word in ("deleted", "memfd") if row[word]]
                facts.add(name, uid=row["uid"], container=row["container"], file=" ".join(flags) or "on disk")
    return facts


def _kernel_threads(look: Look) -> Facts:
    facts = Facts()
    for row in look.rows("SELECT DISTINCT comm FROM process WHERE kernel_thread AND :of(process) ORDER BY comm"):
        facts.add(_THREAD_NUMBER.sub("", row["comm"] or "") or "?")
    facts.absent = not facts.found
    return facts


def _modules(look: Look) -> Facts:
    facts = _facts(look, "kernel_module")
    if not facts.absent:
        sql = "SELECT name, version, source_version, size, taint FROM kernel_module WHERE :of(kernel_module)"
        for row in look.rows(sql):
            others = {"version": row["version"], "sources": row["source_version"]}
            facts.add(row["name"] or "?", **others, size=row["size"], taint=row["taint"] or None)
    return facts


def _end(row: dict[str, Any], prefix: str = "") -> str:
    if row["path"] and row[f"{prefix}address"] is None:
        return f"unix {row['path']}"
    address, port = row[f"{prefix}address"] or "?", row[f"{prefix}port"]
    shown = f"[{address}]" if ":" in address else address
    return f"{row['protocol'] or row['family'] or '?'} {shown}:{'?' if port is None else port}"


_SOCKET = """
SELECT DISTINCT s.family, s.protocol, {columns}, s.path, coalesce(p.exe, p.comm) AS program
FROM {table} s LEFT JOIN process p ON p.id = s.process WHERE :of({table} s) AND {where}
"""


def _sockets(look: Look, scanned: str, watched: str, table: str, prefix: str) -> Facts:
    facts = _facts(look, "open_socket")
    if facts.absent:
        facts = _facts(look, table)
        sql = _SOCKET.format(columns="s.address, s.port", table=table, where=watched)
        prefix = ""
    else:
        columns = "s.local_address, s.local_port, s.address, s.port"
        sql = _SOCKET.format(columns=columns, table="open_socket", where=scanned)
    if not facts.absent:
        for row in look.rows(sql):
            facts.add(_end(row, prefix), program=row["program"])
    return facts


def _listeners(look: Look) -> Facts:
    where = (
        "(s.state = 'listen' OR (s.state IS NOT 'established' AND s.protocol = 'udp' AND s.local_port AND NOT s.port))"
        " AND (s.family IN ('inet', 'inet6') OR s.path IS NOT NULL)"
    )
    return _sockets(look, where, "coalesce(s.result, 0) = 0", "net_listen", "local_")


def _connections(look: Look) -> Facts:
    # The peers of what listens here come from any port and go by nothing that is the same tomorrow.
    scanned = (
        "s.family IN ('inet', 'inet6') AND s.state <> 'listen' AND s.port AND s.local_port NOT IN (SELECT l.local_port"
        " FROM open_socket l WHERE :of(open_socket l) AND l.state = 'listen' AND l.local_port IS NOT NULL)"
    )
    watched = "s.family IN ('inet', 'inet6') AND coalesce(s.result, 0) IN (0, -115)"
    return _sockets(look, scanned, watched, "net_connect", "")


def _mounts(look: Look) -> Facts:
    facts = _facts(look, "mount_point")
    if not facts.absent:
        for row in look.rows("SELECT DISTINCT path, source, type, options FROM mount_point WHERE :of(mount_point)"):
            options = row["options"]
            told = " ".join(map(str, options)) if isinstance(options, list) else None
            facts.add(row["path"] or "?", type=row["type"], source=row["source"], options=told)
    return facts


def _code_files(look: Look) -> Facts:
    facts = _facts(look, "mapped_file")
    facts.only_changes = True
    if not facts.absent:
        sql = (
            "SELECT DISTINCT path, inode FROM mapped_file"
            " WHERE executable AND inode AND path IS NOT NULL AND :of(mapped_file)"
        )
        for row in look.rows(sql):
            facts.add(row["path"], inode=row["inode"])
    return facts


def _applications(look: Look) -> Facts:
    facts = _facts(look, "application")
    if not facts.absent:
        has = {column.name for table in look.file.tables() if table.name == "application" for column in table.columns}
        sql = (
            "SELECT DISTINCT path, package, version, verdict FROM application"  # noqa: S608 - constants
            f" WHERE path IS NOT NULL AND pages AND {LAST if 'subject' in has else 'TRUE'} AND :of(application)"
            " ORDER BY path"
        )
        for row in look.rows(sql):
            facts.add(row["path"], package=row["package"], version=row["version"], verdict=row["verdict"])
    return facts


def _holes(look: Look) -> Facts:
    facts = _facts(look, "hole")
    if not facts.absent:
        sql = (
            "SELECT hole, package, state, fixed_in FROM hole"
            " WHERE :of(hole) AND state IN ('affected', 'may be affected')"
            " AND time = (SELECT max(time) FROM advisory AS a WHERE a.session = hole.session) ORDER BY package, hole"
        )
        for row in look.rows(sql):
            name = f"{row['hole']} in {row['package'] or 'packages that cannot be told apart'}"
            facts.add(name, state=row["state"], **{"closed in": row["fixed_in"]})
    return facts


def _hidden(look: Look) -> Facts:
    facts = _facts(look, "hidden_object")
    if not facts.absent:
        for row in look.rows("SELECT DISTINCT kind, name, missing_in FROM hidden_object WHERE :of(hidden_object)"):
            books = row["missing_in"]
            facts.add(f"{row['kind']} {row['name']}", missing_in=", ".join(books) if isinstance(books, list) else None)
    return facts


def _findings(look: Look) -> Facts:
    facts = Facts()
    for row in look.rows("SELECT rule, level, message FROM finding WHERE :of(finding) ORDER BY id"):
        message = _NUMBERS.sub("a process", row["message"])
        facts.add(message, f"{row['level']}: {row['rule']}", rule=row["rule"])
    return facts


KINDS: dict[str, Callable[[Look], Facts]] = {
    "kernel": _kernel,
    "process": _processes,
    "kernel thread": _kernel_threads,
    "module": _modules,
    "listener": _listeners,
    "connection": _connections,
    "mount": _mounts,
    "code file": _code_files,
    "application": _applications,
    "hole": _holes,
    "hidden object": _hidden,
    "finding": _findings,
}
"""What can be compared, and what reads it from a look."""
