# SPDX-License-Identifier: GPL-2.0-or-later
"""Results as hosts send them, and as attackers would."""

from __future__ import annotations

import gzip
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from drakmet.plugins import load_plugins
from drakmet.records import CORE_RECORDS, Coverage, Process
from drakmet.scan import SCAN_RECORDS
from drakmet.scan.records import HiddenObject, OpenFile
from drakmet.store import Writer

if TYPE_CHECKING:
    from pathlib import Path

RECORDS = [*CORE_RECORDS, *load_plugins().records, *SCAN_RECORDS]


def write(path: Path, *, guests: int = 2, processes: int = 3) -> Path:
    """Write the result of a host with some guests, and rows that refer to each other."""
    path.unlink(missing_ok=True)
    with Writer(path, RECORDS) as writer:
        for number in range(guests):
            opened = writer.begin_session(host="dom0", guest=f"web{number}", source=f"xen:web{number}", os="linux")
            for pid in range(processes):
                row = opened.next_process + pid
                common = {"session": opened.session, "time": 5}
                writer.put(Process(id=row, pid=pid, comm=f"c{pid}", life=row, parent=opened.next_process, **common))
                writer.put(OpenFile(process=row, fd=pid, path=f"/web{number}/{pid}", **common))
            about = {"kind": "process", "name": "x", "address": (1 << 64) - 4096, "seen_in": ["list", "idr"]}
            writer.put(HiddenObject(session=opened.session, time=6, **about))
            tables = ["process", "open_file"]
            writer.put(Coverage(session=opened.session, plugin="scan", trap="t", tables=tables, begin=1, end=2))
            writer.end_session(opened.session, "done")
    return path


def pack(path: Path, packed: Path) -> Path:
    """Pack a result as a host does."""
    packed.parent.mkdir(exist_ok=True, parents=True)
    packed.write_bytes(gzip.compress(path.read_bytes(), 1))
    return packed


def change(path: Path, *statements: str) -> Path:
    """Change a result by SQL."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path
