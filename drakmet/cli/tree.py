# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet tree``: who started whom."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from drakmet.cli.output import Format, emit, output_options
from drakmet.report.tree import trees, walk
from drakmet.store import Reader
from drakmet.store.functions import utc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.report.tree import Node

_PEOPLE = ("process", "pid", "uid", "begin", "end", "status", "arguments")
_MACHINES = (
    *("session", "process", "parent", "depth", "pid", "ppid", "uid", "begin", "end", "status", "signal"),
    *("program", "argv", "programs"),
)
_DEEPEST = 30


@click.command(short_help="Show who started whom.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--session", type=int, help="only this session (see the table session)")
@click.option("--kernel", is_flag=True, help="kernel threads, too")
@output_options
def tree(file: Path, session: int | None, *, kernel: bool, output: Format) -> None:
    """Show who started whom.

    A pid that is used again is another process here: each has a number of its own, whether drakmet or DRAKVUF saw it.
    With --json, --nl or --csv each process is a row after its parent's; programs are all that it executed.

    \b
    Example:
      drakmet tree run.db
      drakmet tree win10.db --json
    """
    with Reader(file) as reader:
        roots = trees(reader, session)
        people = output is Format.TABLE
        emit(_rows(roots, kernel=kernel or not people, people=people), _PEOPLE if people else _MACHINES, output)


def _rows(roots: list[Node], *, kernel: bool, people: bool) -> Iterator[dict[str, Any]]:
    for depth, node in walk(roots):
        if node.kernel_thread and not kernel:
            continue
        row = node.row
        if not people:
            yield {**row, "depth": depth}
            continue
        indent = "  " * min(depth, _DEEPEST) + (f"({depth}) " if depth > _DEEPEST else "")
        ended = f"signal {node.signal}" if node.signal else node.status
        argv = row["argv"]
        yield {
            "process": indent + (node.name or "?"),
            "pid": node.pid,
            "uid": node.uid,
            "begin": utc(node.begin),
            "end": utc(node.end),
            "status": ended,
            "arguments": " ".join(map(str, argv)) if isinstance(argv, list) else None,
        }
