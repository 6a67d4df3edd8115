# SPDX-License-Identifier: GPL-2.0-or-later
"""All that a report tells of a file, as plain data: what the page draws and ``drakmet report --json`` prints.

Times are nanoseconds since 1970-01-01 UTC. Texts are printable and cut after `drakmet.report.limits.LONGEST`
characters. Everything is bounded by `Limits`; ``left_out`` says in sentences what is not shown.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from drakmet import __version__
from drakmet.report import findings as found
from drakmet.report import inventory, network
from drakmet.report.limits import short
from drakmet.report.processes import processes
from drakmet.report.source import Source
from drakmet.report.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drakmet.report.limits import Limits
    from drakmet.report.source import Row
    from drakmet.store import Reader


def model(
    reader: Reader, session: int | None = None, *, rules: Sequence[Row] = (), limits: Limits | None = None
) -> dict[str, Any]:
    """Return what there is to tell of a file, or of one session; ``rules`` is what became of rules, if it is known.

    Raises `UsageError` or `StoreError` if the file cannot be read.
    """
    source = Source(reader, session, limits)
    told = found.findings(source)
    events = Timeline(source)
    by_process = Counter(one["process"] for one in told if one["process"] is not None)
    listed = processes(source, events.by_process, by_process)
    return {
        "file": short(reader.path.name),
        "made": time.time_ns(),
        "drakmet": __version__,
        "totals": {name: info.rows for name, info in source.tables.items() if info.rows},
        "levels": found.levels(source),
        "findings": told,
        "rules": list(rules),
        "hosts": inventory.hosts(source),
        "guests": inventory.guests(source),
        "sessions": inventory.sessions(source),
        "applications": inventory.applications(source),
        "processes": listed,
        "processes_total": len(source.nodes),
        "timeline": events.model,
        "events": events.events,
        "connections": network.connections(source),
        "listeners": network.listeners(source),
        "modules": inventory.placed(
            source, "kernel_module", "session, name", "name", "version", "size", "state", "taint"
        ),
        "mounts": inventory.placed(
            source, "mount_point", "session, path", "path", "type", "source", "options", "device"
        ),
        "hidden": inventory.placed(source, "hidden_object", "id", "kind", "name", "number", "seen_in", "missing_in"),
        "coverage": inventory.coverage(source),
        "faults": inventory.placed(source, "plugin_fault", "id", "time", "plugin", "trap", "error"),
        "quarantined": _quarantined(source),
        "left_out": source.told,
    }


def _quarantined(source: Source) -> int:
    """Return the number of rows that were set aside, which no table of records is about."""
    (row,) = source.select("SELECT count(*) AS number FROM drakmet_quarantine", within=False)
    return int(row["number"])
