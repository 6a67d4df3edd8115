# SPDX-License-Identifier: GPL-2.0-or-later
"""An import from the opened log to the last row stored."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from drakmet.drakvuf.meaning import Maker, meanings
from drakmet.drakvuf.parser import Parser
from drakmet.records import Coverage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from drakmet.drakvuf.rows import Tally
    from drakmet.records import Record

_WINDOWS = re.compile(rb'"(?:ProcessName|RunningProcess|Owner)": ?"\\\\|"Method": ?"Nt[A-Z]|"Module": ?"nt"')
_LINUX = re.compile(rb'"(?:ProcessName|RunningProcess)": ?"/|"Module": ?"linux"')
_FILLED = {
    "linux": {
        "procmon": ("process_start", "process_fork", "process_exit", "process_running"),
        "filetracer": (
            *("file_open", "file_write", "file_close", "file_rename", "file_remove", "file_chmod", "file_chown"),
        ),
    },
    "windows": {
        "procmon": ("process_start", "process_fork", "process_exit", "process_running"),
        "filetracer": ("file_open", "file_write", "file_rename", "file_remove"),
        "socketmon": ("net_connect", "net_datagram", "dns_query"),
    },
}
_FLUSH = 1.0
_BATCH = 20_000


class Store(Protocol):
    """What an import needs of the store."""

    def put(self, record: Record) -> object:
        """Take a record."""

    def put_columns(self, record: type[Record], columns: Mapping[str, Sequence[Any]]) -> None:
        """Take rows."""

    def quarantine(self, table: str, row: str, reason: str) -> None:
        """Take what no row can be made of."""

    def flush(self) -> None:
        """Store what was taken."""


@dataclass
class Imported:
    """What came of a log."""

    tally: Tally
    own: dict[str, int] = field(default_factory=dict)
    """Records of our own that lines were made into as well, by table."""
    processes: int = 0
    windows: bool | None = None
    begin: int | None = None
    end: int | None = None


def system(block: bytes) -> str | None:
    """Return what the guest of a log seems to run, by its first lines."""
    if _WINDOWS.search(block):
        return "windows"
    return "linux" if _LINUX.search(block) else None


def covered(imported: Imported, session: int, until: int | None = None) -> Iterator[Coverage]:
    """Yield what was watched: DRAKVUF's plugins that printed anything, from the first to the last line with a time.

    ``until`` is when a DRAKVUF that was seen to run ended: a guest that did nothing was watched nonetheless.
    """
    if imported.begin is None:
        return
    filled = _FILLED["windows" if imported.windows else "linux"]
    for plugin in imported.tally.by_plugin:
        yield Coverage(
            session=session,
            plugin="drakvuf",
            trap=plugin or "others",
            tables=[f"drakvuf_{plugin}" if plugin else "drakvuf_other", *filled.get(plugin, ())],
            begin=imported.begin,
            end=max((end for end in (imported.end, until) if end is not None), default=None),
        )


class Importer:
    """Puts a log into a store.

    ``records`` are the record classes that lines may become beside those of DRAKVUF's plugins; ``first_process`` is the
    number of the first process row. ``system`` is what the guest runs, if that is known.
    """

    def __init__(
        self,
        store: Store,
        session: int,
        first_process: int,
        records: Iterable[type[Record]],
        *,
        system: str | None = None,
    ) -> None:
        self._store = store
        self._own: dict[str, int] = {}
        self._parser = Parser(session, first_process, self._put, self._refuse)
        self._parser.processes.windows = None if system is None else system == "windows"
        maker = Maker(session, records, self._parser.processes, self._put)
        self._parser.understand(meanings(maker))
        self._waiting = 0
        self._flushed = time.monotonic()

    def feed(self, block: bytes) -> None:
        """Take whole lines; an empty block says that there are none now."""
        if block:
            before = self._parser.tally.lines
            self._parser.feed(block)
            self._waiting += self._parser.tally.lines - before
        if self._waiting >= _BATCH or (self._waiting and time.monotonic() - self._flushed >= _FLUSH):
            self.flush()

    def flush(self) -> None:
        """Store what was taken."""
        for record, columns in self._parser.take():
            self._store.put_columns(record, columns)
        self._store.flush()
        self._waiting, self._flushed = 0, time.monotonic()

    def finish(self) -> Imported:
        """Store the rest, and return what came of it all."""
        self._parser.finish()
        self.flush()
        return self.result

    @property
    def result(self) -> Imported:
        """What came of it up to now."""
        own = dict(self._own)
        processes = own.pop("process", 0)
        return Imported(
            self._parser.tally, own, processes, self._parser.processes.windows, self._parser.begin, self._parser.end
        )

    @property
    def begin(self) -> int | None:
        """The earliest time in the log; None until a line has one."""
        return self._parser.begin

    @property
    def end(self) -> int | None:
        """The latest time in the log; None until a line has one."""
        return self._parser.end

    def run(self, blocks: Iterator[bytes], tick: Callable[[Tally], object] | None = None) -> Imported:
        """Import everything."""
        for block in blocks:
            self.feed(block)
            if tick is not None:
                tick(self._parser.tally)
        return self.finish()

    def _put(self, record: Record) -> None:
        self._own[record.table] = self._own.get(record.table, 0) + 1
        self._store.put(record)

    def _refuse(self, row: str, reason: str) -> None:
        self._store.quarantine("drakvuf", row, reason)
