# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in dom0: watches the guest again and again through the monitor, and tells what each time left behind."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

from drakmet.monitor import Monitor
from drakmet.records import EventRecord, Record
from drakmet.sources.xen import XenSource
from drakmet.traps import Trap


class ProbeOpen(EventRecord):
    """An open and what came of it."""

    requested: Annotated[str | None, "the name as it was given"] = None
    path: Annotated[str | None, "the file"] = None
    result: Annotated[int | None, "0, or the negative error number"] = None


class Plugin:
    """One trap, of entry and return."""

    name = "probe"
    collectors = ()
    sinks = ()
    traps = (
        Trap(
            function="do_filp_open",
            fetch={"requested": "pathname->name"},
            returns={"path": "$return|path", "result": "$return|errno"},
            record=ProbeOpen,
        ),
    )


class Rows:
    """A sink."""

    def __init__(self) -> None:
        self.opens: list[ProbeOpen] = []

    def put(self, record: Record) -> None:
        """Keep the opens."""
        if isinstance(record, ProbeOpen):
            self.opens.append(record)

    def flush(self) -> None:
        """Nothing waits."""


def state(source: XenSource) -> dict[str, Any]:
    """Return what an attach must not change."""
    info = source.control.domain(source.domid)
    pool = source.control.paging_pool(source.domid)
    return {"pages": info.tot_pages, "limit": info.max_memkb, "paused": info.paused, "pool": pool}


def main(guest: str, times: str) -> None:
    """Attach, watch for two seconds, detach; one line of JSON each time."""
    source = XenSource(guest)
    try:
        for _ in range(int(times)):
            rows, before = Rows(), state(source)
            with Monitor(source, [Plugin()], [rows]) as monitor:
                monitor.attach()
                outcome = monitor.run(2)
            told = monitor.statistics
            print(
                json.dumps(
                    {
                        "outcome": outcome,
                        "before": before,
                        "after": state(source),
                        "hits": told.hits,
                        "opens": len(rows.opens),
                        "right": sum(row.result is not None or row.unreadable is not None for row in rows.opens),
                        "events": told.events,
                        "paused": [told.paused_attach, told.paused_detach],
                    }
                ),
                flush=True,
            )
    finally:
        source.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
