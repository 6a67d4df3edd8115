# SPDX-License-Identifier: GPL-2.0-or-later
"""All that a report tells of a file, as plain data: what the page draws and ``drakmet report --json`` prints.

Times are nanoseconds since 1970-01-01 UTC. Texts are printable and cut after `drakmet.report.limits.LONGEST`
characters. Everything is bounded by `Limits`; ``left_out`` says in sentences what is not shown.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from drakmet import __version__
from drakmet.report import findings as found
from drakmet.report import inventory, network
from drakmet.report.limits import short
from drakmet.report.processes import processes
from drakmet.report.source import Source
from drakmet.report.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from drakmet.report.limits import Limits
    from drakmet.report.source import Row
    from drakmet.store import Reader


def model(
    reader: Reader,
    session: int | None = None,
    *,
    rules: Sequence[Row] = (),
    limits: Limits | None = None,
    note: Callable[[str], object] = str,
) -> dict[str, Any]:
    """Return what there is to tell of a file, or of one session; ``rules`` is what became of rules, if it is known.

    ``note`` is told what is done next. Raises `UsageError` or `StoreError` if the file cannot be read.
    """
    note("reading processes")
    source = Source(reader, session, limits)
    note("reading findings")
    levels = found.levels(source)
    told = found.findings(source)
    note("counting events")
    events = Timeline(source)
    note("reading connections")
    connections, met = network.connections(source)
    note("reading guests")
    return {
        "file": short(reader.path.name),
        "made": time.time_ns(),
        "drakmet": __version__,
        "totals": {name: info.rows for name, info in source.tables.items() if info.rows},
        "levels": levels[None],
        "findings": told,
        "rules": list(rules),
        "hosts": inventory.hosts(source),
        "guests": [guest | {"levels": levels.get(guest["id"], {})} for guest in inventory.guests(source)],
        "sessions": inventory.sessions(source),
        "applications": inventory.applications(source),
        "holes": inventory.holes(source),
        "advisories": inventory.advisories(source),
        "processes": processes(source, events.by_process, found.by_process(source)),
        "processes_total": len(source.nodes),
        "timeline": events.model,
        "events": events.events,
        "connections": connections,
        "connections_total": met,
        "listeners": network.listeners(source),
        "modules": inventory.placed(
            source, "kernel_module", "session, name", "name", "version", "size", "state", "taint"
        ),
        "mounts": inventory.placed(
            source, "mount_point", "session, path", "path", "type", "source", "options", "device"
        ),
        "hidden": inventory.placed(source, "hidden_object", "id", "kind", "name", "number", "seen_in", "missing_in"),
        "seen": inventory.seen(source),
        "coverage": inventory.coverage(source),
        "faults": inventory.placed(source, "plugin_fault", "id", "time", "plugin", "trap", "error"),
        "quarantined": _quarantined(source),
        "left_out": source.told,
    }


def _quarantined(source: Source) -> int:
    """Return the number of rows that were set aside, which no table of records is about."""
    (row,) = source.select("SELECT count(*) AS number FROM drakmet_quarantine", within=False)
    return int(row["number"])
