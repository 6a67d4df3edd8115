# SPDX-License-Identifier: GPL-2.0-or-later
"""Files to make reports of: hostile ones, and crowded ones."""

from __future__ import annotations

from pathlib import Path

import drakmet
from drakmet.cli.known import known_records
from drakmet.holes.records import Advisory, Hole
from drakmet.records import Coverage, Finding, PluginFault, Process
from drakmet.scan.records import GuestState, KernelModule, MountPoint
from drakmet.store import Writer

DATA = Path(__file__).parent.parent / "data"
DEMO = Path(drakmet.__file__).parent / "demo" / "demo.drec"
EVIL = (
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>alert(1)</script>",
    "\u202egnp.exe\u2066 {{script}} {{data}}",
    "javascript:alert(1)",
    "'\"><svg onload=alert(1)>",
    "\x1b[31mred\x00\u2028\u2029",
    "__proto__",
    "x" * 5000,
)
BEGIN = 1_790_000_000_000_000_000


def _class(table: str) -> type:
    return next(record for record in known_records() if record.table == table)


def hostile(path: Path) -> Path:
    """Write a file in which each text is an attack on whoever shows it."""
    start, opened, connect, asked = map(_class, ("process_start", "file_open", "net_connect", "dns_query"))
    with Writer(path, known_records()) as writer:
        for number, evil in enumerate(EVIL):
            run = writer.begin_session(
                host=evil, guest=f"{number}{evil}", source=f"xen:{evil}", begin=BEGIN, os=evil, kernel=evil
            )
            common = {"session": run.session, "process": run.next_process, "time": BEGIN + number * 10**9}
            writer.put(
                Process(
                    id=run.next_process, session=run.session, time=BEGIN, pid=number + 1, comm=evil, exe=evil, uid=0
                )
            )
            nothing = {name: None for name in start.__struct_fields__ if name not in common} | {"unreadable": evil}
            writer.put(start(**common, **nothing | {"path": evil, "argv": [evil, evil], "pid": number + 1}))
            nothing = {name: None for name in opened.__struct_fields__ if name not in common}
            writer.put(opened(**common, **nothing | {"path": evil, "requested": evil, "access": "r"}))
            ends = {"family": "inet", "protocol": "tcp", "address": evil, "port": 65535, "path": evil, "result": -1}
            writer.put(connect(**common, **ends))
            writer.put(asked(**common, name=evil, qtype=evil, address=evil, port=53))
            writer.put(GuestState(session=run.session, time=BEGIN, hostname=evil, release=evil, uptime=-(2**63)))
            writer.put(KernelModule(session=run.session, time=BEGIN, name=evil))
            writer.put(Advisory(session=run.session, time=BEGIN, name=evil, kind=evil, digest=evil, why=evil))
            said = {"hole": evil, "state": evil, "package": evil, "fixed_in": evil, "rests_on": evil, "why": evil}
            writer.put(Hole(session=run.session, time=BEGIN, versions=[evil], paths=[evil], **said))
            writer.put(MountPoint(session=run.session, time=BEGIN, path=evil, options=[evil]))
            writer.put(Coverage(session=run.session, plugin=evil, trap=evil, tables=[evil], begin=BEGIN, gap=evil))
            writer.put(PluginFault(session=run.session, time=BEGIN, plugin=evil, trap=evil, error=evil))
            writer.put(
                Finding(
                    session=run.session,
                    time=BEGIN,
                    found=BEGIN,
                    rule=evil,
                    level=evil if number % 2 else "high",
                    title=evil,
                    message=evil,
                    process=run.next_process,
                    rests_on=evil if number else '[["file_open", 1]]',
                )
            )
            writer.end_session(run.session, evil, end=2**62)
    return path


def crowd(path: Path, processes: int, events: int) -> Path:
    """Write a watch with a chain of processes that connect here and there, and 100 findings."""
    connect = _class("net_connect")
    with Writer(path, known_records()) as writer:
        run = writer.begin_session(host="xen1", guest="busy", source="xen:busy", begin=BEGIN, os="linux")
        for number in range(processes):
            writer.put(
                Process(
                    id=run.next_process + number,
                    session=run.session,
                    time=BEGIN + number,
                    pid=number + 1,
                    ppid=number // 3,
                    start_time=number,
                    exe=f"/usr/bin/program{number % 40}",
                    uid=0,
                )
            )
        for number in range(events):
            writer.put(
                connect(
                    session=run.session,
                    process=run.next_process + number * 7 % processes,
                    time=BEGIN + number * 10**6,
                    family="inet",
                    protocol="tcp",
                    address=f"10.0.{number % 50}.{number % 7}",
                    port=number % 9 + 1,
                    path=None,
                    result=0,
                )
            )
        for number in range(100):
            writer.put(
                Finding(
                    session=run.session,
                    time=BEGIN,
                    found=BEGIN,
                    rule="busy",
                    level="low",
                    title="Busy",
                    message=f"it is {number}",
                    process=run.next_process + number % processes,
                )
            )
        writer.end_session(run.session, "done", end=BEGIN + events * 10**6)
    return path
