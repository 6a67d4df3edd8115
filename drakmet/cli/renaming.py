# SPDX-License-Identifier: GPL-2.0-or-later
"""Names the executed pages of a stored watch after the fact, by whatever a database of code pages knows now."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from drakmet.errors import StoreError
from drakmet.identity import Identities
from drakmet.naming import Namer
from drakmet.naming.watching import EXECUTED
from drakmet.scan import SCAN_RECORDS
from drakmet.store import Writer
from drakmet.store.reader import connect

if TYPE_CHECKING:
    from pathlib import Path

_BATCH: Final = 4096
_SESSIONS: Final = """
SELECT session.id, source, host.name AS host, guest.name AS guest FROM session
JOIN guest ON guest.id = session.guest JOIN host ON host.id = guest.host
WHERE session.id IN (SELECT session FROM executed_page) ORDER BY session.id
"""


def name_again(file: Path, identity: Path, target: Path) -> Path:
    """Write the applications of a file's executed pages into a new file ``target``, and return it.

    Raises `StoreError` if the file has no executed pages, or the database cannot be used.
    """
    with ExitStack() as stack:
        identities = stack.enter_context(Identities.open(identity))
        connection = connect(file)
        stack.callback(connection.close)
        connection.row_factory = sqlite3.Row
        try:
            sessions = connection.execute(_SESSIONS).fetchall()
        except sqlite3.OperationalError:
            sessions = []  # a file of a watch without that plugin
        if not sessions:
            hint = "watch with --plugin execution-pages, or --identity DB"
            raise StoreError("no executed pages are in it", where=str(file), hint=hint)
        writer = stack.enter_context(Writer(target, list(SCAN_RECORDS)))
        for old, source, host, guest in sessions:
            session = writer.begin_session(source=source, host=host, guest=guest).session
            namer = Namer(identities, writer.put)
            rows = connection.execute("SELECT * FROM executed_page WHERE session = ? ORDER BY id", (old,))
            while batch := rows.fetchmany(_BATCH):
                for row in batch:
                    namer.put(_page(row, session))
                namer.flush()
                if namer.fault is not None:
                    raise StoreError(namer.fault, where=str(identity), hint="build it anew")
            namer.finish()
            writer.end_session(session, "done")
    return target


def _page(row: sqlite3.Row, session: int) -> Any:
    return SimpleNamespace(**dict(row) | {"session": session, "table": EXECUTED})
