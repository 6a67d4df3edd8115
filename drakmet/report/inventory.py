# SPDX-License-Identifier: GPL-2.0-or-later
"""What a report tells of hosts, guests, what is in them, and how much of it was seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from drakmet.report.limits import short

if TYPE_CHECKING:
    from drakmet.report.source import Row, Source

_NAMES = {"package", "application", "software", "product"}


def _plain(row: Row, *names: str) -> Row:
    """Return some columns of a row, texts made safe and short."""
    return {name: short(v) if isinstance(v := row.get(name), str | list | float) else v for name in names}


def hosts(source: Source) -> list[Row]:
    """Return the hosts; of a fleet also those from which nothing came, with the reason."""
    found = [_plain(row, "id", "name", "xen") for row in source.select("SELECT * FROM host ORDER BY id", within=False)]
    reasons: dict[str, Row] = {}
    if source.has("fleet_host", "name", "outcome", "reason"):
        for row in source.select("SELECT name, outcome, reason FROM fleet_host ORDER BY id", within=False):
            reasons[row["name"]] = row
    known = {row["name"] for row in found}
    found += [{"id": None, "name": short(name), "xen": None} for name in reasons if name not in known]
    return [row | _plain(reasons.get(row["name"], {}), "outcome", "reason") for row in found]


def guests(source: Source) -> list[Row]:
    """Return the guests of the sessions, with the kernel's state where a scan read it."""
    within = sorted({guest for session, guest in source.guests.items() if source.session in (None, session)})
    states: dict[int, Row] = {}
    for row in source.some("guest_state"):
        states[source.guests.get(row["session"], 0)] = row
    found = []
    for row in source.select("SELECT * FROM guest ORDER BY id", within=False):
        if row["id"] in within:
            state = _plain(
                states.get(row["id"], {}),
                *("hostname", "release", "version", "command_line", "uptime", "cpus", "memory", "taint", "levels"),
            )
            found.append(_plain(row, "id", "host", "name", "uuid", "os", "kernel", "build_id") | state)
    return found


def sessions(source: Source) -> list[Row]:
    """Return the runs."""
    where = "1" if source.session is None else f"id = {int(source.session)}"
    most = source.limits.sessions
    sql = f"SELECT * FROM session WHERE {where} ORDER BY begin DESC, id DESC LIMIT {most + 1}"  # noqa: S608 - ours
    rows = list(source.select(sql, within=False))
    if len(rows) > most:
        source.told.append(f"sessions: the last {most:,} are listed")
    names = ("id", "guest", "source", "begin", "end", "outcome", "drakmet", "paused_attach", "paused_detach")
    return [_plain(row, *names) for row in reversed(rows[:most])]


def placed(source: Source, table: str, order: str, *names: str) -> list[Row]:
    """Return rows of a table that tells what is in a guest, each with its guest."""
    return [{"guest": source.guests.get(row["session"])} | _plain(row, *names) for row in source.some(table, order)]


def applications(source: Source) -> list[Row]:
    """Return the tables that name software with its versions, as they stand in the file: name, doc, columns, rows."""
    found = []
    for name, info in source.tables.items():
        columns = [column.name for column in info.columns]
        if (
            name == "hole"
            or not _NAMES & set(columns)
            or not any("version" in column for column in columns)
            or not info.rows
        ):
            continue
        shown = [c for c in columns if c not in ("id", "session", "time", "vcpu", "unreadable", "process", "guest")]
        rows: list[Row] = []
        for row in source.some(name) if "session" in columns else _all(source, name):
            guest = row.get("guest") if "guest" in columns else source.guests.get(row.get("session", 0))
            process = source.process(row.get("process"))
            rows.append({"guest": guest, "process": process, "values": [_value(row[column]) for column in shown]})
        found.append({"table": name, "doc": info.doc, "columns": shown, "rows": rows})
    return found


_LAST = "time = (SELECT max(time) FROM advisory AS a WHERE a.session = hole.session)"
_WORST_FIRST = (
    "CASE state WHEN 'affected' THEN 0 WHEN 'may be affected' THEN 1 WHEN 'not known' THEN 2 ELSE 3 END, package, hole"
)


def holes(source: Source) -> list[Row]:
    """Return what the last comparison with advisories said, open holes first; several versions are one text."""
    if not source.has("hole") or not source.has("advisory"):
        return []
    most = source.limits.rows
    sql = f"SELECT * FROM hole WHERE :within AND {_LAST} ORDER BY {_WORST_FIRST} LIMIT {most + 1}"  # noqa: S608 - ours
    rows = list(source.select(sql))
    if len(rows) > most:
        rows.pop()
        source.told.append(f"hole: the first {most:,} are shown, open ones first")
    names = ("hole", "state", "package", "version", "fixed_in", "urgency", "processes", "rests_on", "why")
    found = []
    for row in rows:
        told: Row = {"guest": source.guests.get(row["session"])} | _plain(row, *names)
        told["version"] = told["version"] or _value(row["versions"])
        found.append(told)
    return found


def advisories(source: Source) -> list[Row]:
    """Return the advisories of the last comparison, with what could not be understood of them."""
    if not source.has("advisory"):
        return []
    sql = f"SELECT * FROM advisory AS hole WHERE :within AND {_LAST} ORDER BY id LIMIT {source.limits.rows}"  # noqa: S608
    names = ("name", "kind", "digest", "date", "statements", "refused", "why")
    return [{"guest": source.guests.get(row["session"])} | _plain(row, *names) for row in source.select(sql)]


def _all(source: Source, table: str) -> list[Row]:
    sql = f'SELECT * FROM "{table}" LIMIT {source.limits.rows}'  # noqa: S608 - a table's own name
    return list(source.select(sql, within=False))


def _value(value: Any) -> str | None:
    if isinstance(value, list):
        return short(", ".join(map(str, value)))
    return short(value.hex() if isinstance(value, bytes) else value)


def seen(source: Source) -> Row:
    """Return the number of traps, each in its session, and of those that did not see everything."""
    if not source.has("coverage"):
        return {"traps": 0, "with_gaps": 0}
    sql = (
        "SELECT count(*) AS traps, coalesce(sum(gaps), 0) AS with_gaps FROM (SELECT"
        " max(gap IS NOT NULL OR coalesce(missed, 0) > 0) AS gaps FROM coverage WHERE :within"
        " GROUP BY session, plugin, trap)"
    )
    return next(source.select(sql))


def coverage(source: Source) -> list[Row]:
    """Return the intervals of the coverage: armed, and each gap with its reason; of too many the gaps."""
    names = ("session", "plugin", "trap", "tables", "begin", "end", "kind", "gap", "missed")
    found = []
    for row in source.some(
        "coverage", "gap IS NULL AND coalesce(missed, 0) = 0, session, plugin, trap, begin", source.limits.intervals
    ):
        tables = row.get("tables")
        told: Row = {"guest": source.guests.get(row["session"])} | _plain(row, *names)
        told["tables"] = short(", ".join(map(str, tables)) if isinstance(tables, list) else None)
        found.append(told)
    return found
