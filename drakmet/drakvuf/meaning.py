# SPDX-License-Identifier: GPL-2.0-or-later
"""What lines mean in our own records, so that one rule judges what either engine saw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from drakmet.drakvuf.lenient import guest_text
from drakmet.drakvuf.meaning_linux import Linux
from drakmet.drakvuf.meaning_windows import Windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from drakmet.drakvuf.processes import Processes
    from drakmet.drakvuf.rows import Event, Meaning
    from drakmet.records import Record

RUNNING = "RunningProcess"
"""In the place of a function for lines that list what ran already."""


class Maker:
    """Makes records of the plugins that are loaded; a table that none of them has gets nothing."""

    def __init__(
        self, session: int, records: Iterable[type[Record]], processes: Processes, put: Callable[[Record], object]
    ) -> None:
        self.processes = processes
        self._kinds = {record.table: (record, _nothing(record, session)) for record in records}
        self._put = put

    def make(self, table: str, event: Event, lost: str | None = None, /, **columns: Any) -> None:
        """Put a record of this moment; columns that the class lacks are left out, strings become guest text.

        ``lost`` names columns that DRAKVUF does not tell. A string may be given as guest text already (`Text`).
        """
        kind = self._kinds.get(table)
        if kind is None:
            return
        record, nothing = kind
        made = nothing.copy()
        for name, value in columns.items():
            if name in made:
                made[name] = _text(value)
        made["time"] = event.time
        made["process"] = columns.get("process", event.process)
        made["unreadable"] = lost
        self._put(record(**made))


def meanings(maker: Maker) -> Mapping[str, Mapping[str, Meaning]]:
    """Return what to do with a line, by plugin and function."""
    linux, windows = Linux(maker), Windows(maker)

    def running(event: Event, _fields: dict[str, Any]) -> None:
        if event.process is not None:
            maker.make("process_running", event, "argv", pid=event.pid)

    found: dict[str, dict[str, Meaning]] = {"procmon": {RUNNING: running}}
    for one in (linux, windows):
        for plugin, by_method in one.meanings().items():
            found.setdefault(plugin, {}).update(by_method)
    return found


def _nothing(record: type[Record], session: int) -> dict[str, Any]:
    """Return the columns of a record that tells nothing."""
    made: dict[str, Any] = dict.fromkeys(record.__struct_fields__)
    made["session"] = session
    return made


def _text(value: Any) -> Any:
    if isinstance(value, str):
        return guest_text(value)
    return [guest_text(one) for one in value] if isinstance(value, list) else value
