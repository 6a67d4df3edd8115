# SPDX-License-Identifier: GPL-2.0-or-later
"""A thread that was seen is its process, and no other process with the same number."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drakmet.cli.known import known_records
from drakmet.records import Process
from drakmet.report.questions import QUESTIONS
from drakmet.report.tree import trees, walk
from drakmet.store import Reader, Writer

if TYPE_CHECKING:
    from pathlib import Path


def test_threads_belong_to_the_process_that_lived_when_they_began(tmp_path: Path) -> None:
    path = tmp_path / "threads.db"
    # pid, tid, start: a process with a thread, the same number again with another, and one seen by its thread alone.
    rows = [(7, 70, 15), (7, 7, 10), (7, 7, 100), (7, 71, 120), (9, 90, 50)]
    with Writer(path, known_records()) as writer:
        session = writer.begin_session(host="h", guest="g", source="xen:g").session
        for number, (pid, tid, start) in enumerate(rows, start=1):
            writer.put(Process(id=number, session=session, time=number, pid=pid, tid=tid, start_time=start, exe="/x"))
        writer.end_session(session, "done")
    (sql,) = (question.sql for question in QUESTIONS if question.name == "process_tree")
    with Reader(path) as file:
        nodes = [node for _, node in walk(trees(file))]
        asked = list(file.select(sql.replace("printf('%012d', ", "hex("))[1])
    assert [(node.id, node.pid, node.start_time) for node in nodes] == [(2, 7, 10), (3, 7, 100), (5, 9, 50)]
    assert [row["id"] for row in asked] == [2, 3, 5]


def test_no_process_is_left_out_however_deep_it_lies_and_whoever_is_said_to_be_its_parent(tmp_path: Path) -> None:
    path = tmp_path / "deep.db"
    with Writer(path, known_records()) as writer:
        opened = writer.begin_session(host="dom0", guest="web1", source="xen:web1", os="linux")
        first = opened.next_process
        # A chain of 200, and two that are each other's parent.
        parents = [None, *range(first, first + 199), first + 201, first + 200]
        for number, parent in enumerate(parents):
            row = first + number
            about = {"pid": number + 1, "tid": number + 1, "ppid": 0, "comm": f"p{number}", "start_time": number}
            writer.put(Process(session=opened.session, time=1, id=row, life=row, parent=parent, **about))
        writer.end_session(opened.session, "done")
    (sql,) = (question.sql for question in QUESTIONS if question.name == "process_tree")
    with Reader(path) as file:
        rows = list(file.select(sql.replace("printf('%012d', ", "hex("))[1])
    assert {row["pid"] for row in rows if row["depth"] is not None} == set(range(1, 62))
    assert {row["pid"] for row in rows} == set(range(1, 203))
    assert len(rows) == 202
    assert {row["process"]: row["depth"] for row in rows if row["pid"] in (100, 201)} == {"p99": None, "p200": None}
