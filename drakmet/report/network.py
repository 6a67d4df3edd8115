# SPDX-License-Identifier: GPL-2.0-or-later
"""Who spoke, or meant to speak, with whom: connections, datagrams, DNS names, and what listens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drakmet.report.limits import short
from drakmet.store.schema import quote

if TYPE_CHECKING:
    from drakmet.report.source import Row, Source

_WATCHED = {
    "net_connect": ("protocol", "address", "port", "NULL", "family IN ('inet', 'inet6')"),
    "net_datagram": ("protocol", "address", "port", "NULL", "family IN ('inet', 'inet6')"),
    "dns_query": ("NULL", "NULL", "NULL", "name", "name IS NOT NULL"),
    "open_socket": (
        "protocol",
        "address",
        "port",
        "NULL",
        "family IN ('inet', 'inet6') AND port AND state <> 'listen'",
    ),
}


def connections(source: Source) -> tuple[list[Row], int]:
    """Return for each process and other end how often they met, the most frequent first, and the number of pairs."""
    found: list[Row] = []
    for table, (protocol, address, port, name, where) in _WATCHED.items():
        if not source.has(table):
            continue
        failed = "sum(result < 0 AND result <> -115)" if source.has(table, "result") else "0"
        sql = (
            f"SELECT session, process, {protocol} AS protocol, {address} AS address, {port} AS port, {name} AS name,"  # noqa: S608 - ours
            f" count(*) AS count, {failed} AS failed, min(time) AS first, max(time) AS last FROM {quote(table)}"
            f" WHERE :within AND {where} GROUP BY 1, 2, 3, 4, 5, 6"
        )
        found += [_met(source, table, row) for row in source.select(sql)]
    found.sort(key=lambda one: (-one["count"], one["first"] or 0))
    most = source.limits.connections
    if len(found) > most:
        source.told.append(f"connections: the {most:,} most frequent of {len(found):,} pairs are shown")
    return found[:most], len(found)


def _met(source: Source, table: str, row: Row) -> Row:
    return {
        "table": table,
        "guest": source.guests.get(row["session"]),
        "process": source.process(row["process"]),
        "protocol": short(row["protocol"]),
        "address": short(row["address"]),
        "port": row["port"],
        "name": short(row["name"]),
        "count": row["count"],
        "failed": row["failed"] or 0,
        "first": row["first"],
        "last": row["last"],
    }


def listeners(source: Source) -> list[Row]:
    """Return the sockets that wait for others: of a scan those that were open, of a watch those that began to."""
    found: list[Row] = []
    if source.has("open_socket"):
        where = (
            "(state = 'listen' OR (state IS NOT 'established' AND protocol = 'udp' AND local_port AND NOT port))"
            " AND (family IN ('inet', 'inet6') OR path IS NOT NULL)"
        )
        columns = "session, process, family, protocol, local_address AS address, local_port AS port, path"
        found += _listening(source, f"SELECT {columns} FROM open_socket WHERE :within AND {where}")  # noqa: S608
    if source.has("net_listen"):
        columns = "session, process, family, protocol, address, port, path"
        sql = f"SELECT {columns} FROM net_listen WHERE :within AND coalesce(result, 0) = 0"  # noqa: S608
        found += _listening(source, sql)
    return found


def _listening(source: Source, sql: str) -> list[Row]:
    rows = []
    for row in source.select(f"{sql} LIMIT {source.limits.rows}"):
        place = {"guest": source.guests.get(row["session"]), "process": source.process(row["process"])}
        texts = {name: short(row[name]) for name in ("family", "protocol", "address", "path")}
        rows.append({**place, **texts, "port": row["port"]})
    return rows
