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
