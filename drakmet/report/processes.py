# SPDX-License-Identifier: GPL-2.0-or-later
"""The processes of a report: all of them, or those that matter most with all above them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from drakmet.report.limits import short

if TYPE_CHECKING:
    from collections import Counter

    from drakmet.report.source import Row, Source
    from drakmet.report.tree import Node


def processes(source: Source, events: Counter[int], findings: Counter[int]) -> list[Row]:
    """Return the processes, each after its parent, with the numbers of their events and findings."""
    chosen = _chosen(source, events, findings)
    if len(chosen) < len(source.nodes):
        source.told.append(
            f"processes: {len(chosen):,} of {len(source.nodes):,} are shown: those with findings and with the most"
            " events, and all above them"
        )
    argv = _running(source)
    return [_row(source, node, events, findings, argv) for node in source.nodes if node.id in chosen]


def _chosen(source: Source, events: Counter[int], findings: Counter[int]) -> set[int]:
    most = source.limits.processes
    if len(source.nodes) <= most:
        return {node.id for node in source.nodes}
    ranked = sorted(source.nodes, key=lambda node: (-findings[node.id], -events[node.id], node.id))
    chosen: set[int] = set()
    for node in ranked:
        line: list[Node] = []
        above: Node | None = node
        while above is not None and above.id not in chosen:
            line.append(above)
            above = above.parent
        if len(chosen) + len(line) <= most:
            chosen.update(one.id for one in line)
        if len(chosen) >= most:
            break
    return chosen


def _running(source: Source) -> dict[int, Any]:
    """Return the arguments of what ran already, by processes."""
    if not source.has("process_running", "argv", "process"):
        return {}
    rows = source.select("SELECT process, argv FROM process_running WHERE :within")
    return {node.id: row["argv"] for row in rows if (node := source.node(row["process"])) is not None}


def _row(source: Source, node: Node, events: Counter[int], findings: Counter[int], running: dict[int, Any]) -> Row:
    last = node.programs[-1] if node.programs else {}
    argv = last.get("argv") or running.get(node.id)
    return {
        "id": node.id,
        "session": node.session,
        "guest": source.guests.get(node.session),
        "parent": node.parent.id if node.parent else None,
        "pid": node.pid,
        "ppid": node.ppid,
        "uid": node.uid,
        "begin": node.begin,
        "seen": node.seen,
        "end": node.end,
        "status": node.status,
        "signal": node.signal,
        "program": short(node.name),
        "argv": short(" ".join(map(str, argv)) if isinstance(argv, list) else None),
        "programs": len(node.programs),
        "kernel_thread": bool(node.kernel_thread),
        "events": events[node.id],
        "findings": findings[node.id],
    }
