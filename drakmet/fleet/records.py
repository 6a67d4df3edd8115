# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run over a fleet writes down of each host, beside what was found in its guests."""

from __future__ import annotations

from typing import Annotated, ClassVar

from drakmet.records import Record


class FleetHost(Record):
    """An attempt to scan a host of a fleet; the last one of a host counts.

    The rows that came from it are chained anew in this file, in the order in which hosts were merged, each host in one
    transaction with this row. It names the file that the host wrote, and the head of that file's own chain.
    """

    indexes: ClassVar[tuple[tuple[str, ...], ...]] = (("name",),)

    name: Annotated[str, "its name in the inventory; host.name of what was merged from it"]
    begin: Annotated[int, "when this attempt's run of Ansible began: nanoseconds since 1970-01-01 UTC"]
    end: Annotated[int, "nanoseconds since 1970-01-01 UTC"]
    outcome: Annotated[
        str,
        "done, partly (a guest could not be read), gaps (not all of a guest could be), or in a word what was wrong: "
        "down, host key, no access, slow, full, no xen, broken result, broken bundle, old python, failed, not reached",
    ]
    reason: Annotated[str | None, "what was wrong, in a sentence"] = None
    own_name: Annotated[str | None, "what the host calls itself"] = None
    xen: Annotated[str | None, "version of the hypervisor, as the host says"] = None
    python: Annotated[str | None, "version of its Python"] = None
    guests: Annotated[int | None, "guests in its result"] = None
    failed_guests: Annotated[int | None, "guests of these that could not be read"] = None
    rows: Annotated[int | None, "rows that were merged"] = None
    seconds: Annotated[float | None, "how long the scan took there"] = None
    size: Annotated[int | None, "bytes of the file that was fetched"] = None
    sha256: Annotated[str | None, "of the file that was fetched, in hex"] = None
    head: Annotated[str | None, "digest of the last block of the chain in it, in hex"] = None
    bundle: Annotated[str | None, "digest of the bundle that the host ran"] = None
