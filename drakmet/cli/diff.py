# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet diff``: what is new, gone or changed between two files, or between two sessions of one."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from drakmet.cli.output import Format, emit, output_options
from drakmet.errors import ExitCode, UsageError
from drakmet.report.diff import COLUMNS, Side, compare, last_two
from drakmet.report.facts import KINDS
from drakmet.store import Reader

if TYPE_CHECKING:
    from collections.abc import Sequence

_FILE = click.Path(path_type=Path)


@click.command(short_help="Say what is new, gone or changed between two looks.")
@click.argument("before", type=_FILE)
@click.argument("after", type=_FILE, required=False)
@click.option("--sessions", type=int, nargs=2, metavar="A B", help="of one file: these two sessions")
@click.option(
    "--kind", "kinds", type=click.Choice(["guest", *KINDS]), multiple=True, help="only this kind (repeatable)"
)
@output_options
def diff(
    before: Path, after: Path | None, sessions: tuple[int, int] | None, kinds: tuple[str, ...], output: Format
) -> int:
    """Say what is new, gone or changed between two looks.

    Of two files the last session of each guest is compared with that of the same guest; of one file the last two
    sessions of each guest, or two that are named. Processes go by what they execute and with which arguments, not by
    their numbers. What one side did not collect is "not known", never the same.

    Ends with 1 if there is a new finding, with 3 if something is not known.

    \b
    Example:
      drakmet diff monday.db tuesday.db
      drakmet diff web1.db --sessions 1 4 --kind process --kind listener
      drakmet diff monday.db tuesday.db --json
    """
    if after is not None and sessions:
        raise UsageError("--sessions is for two sessions of one file", hint="give one file, or no --sessions")
    with ExitStack() as stack:
        old = stack.enter_context(Reader(before))
        if after is not None:
            sides = Side(old), Side(stack.enter_context(Reader(after)))
        elif sessions:
            sides = Side(old, [sessions[0]]), Side(old, [sessions[1]])
        else:
            sides = last_two(old)
        changes = compare(*sides, kinds or None)
    rows = [change.row for change in changes]
    columns: Sequence[str] = COLUMNS
    if output is Format.TABLE and len({(row["host"], row["guest"]) for row in rows}) < 2:
        columns = COLUMNS[2:]
    if rows or output is not Format.TABLE:
        emit(rows, columns, output)
    else:
        click.echo("nothing is different")
    if any(change.kind == "finding" and change.change == "new" for change in changes):
        return ExitCode.FINDINGS
    return ExitCode.PARTLY if any(change.change == "not known" for change in changes) else ExitCode.CLEAN
