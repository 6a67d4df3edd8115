# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet tables`` and ``drakmet query``: what is in a file, and questions to it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from drakmet.cli.known import known_records, plugins_option
from drakmet.cli.output import Format, emit, output_options
from drakmet.records import CORE_RECORDS, EventRecord
from drakmet.rules.lists import attach_lists
from drakmet.rules.load import load_rules
from drakmet.rules.views import create_views
from drakmet.store import ColumnInfo, Reader, TableInfo
from drakmet.store.schema import kind, table_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from drakmet.records import Record

_COLUMNS = ("table", "column", "type", "null", "doc")
_COLUMNS_OF_FILE = ("table", "rows", "column", "type", "null", "doc")
_FILE = click.Path(path_type=Path)


@click.command(short_help="Describe the tables that records are kept in.")
@click.argument("file", type=_FILE, required=False)
@click.argument("only", metavar="[TABLE]...", nargs=-1)
@plugins_option
@output_options
def tables(file: Path | None, only: tuple[str, ...], plugins_dir: tuple[Path, ...], output: Format) -> None:
    """Describe the tables that records are kept in.

    With FILE these are the file's own tables, or those named, with the number of their rows; without it those that a
    watch with the plugins that are installed would make. Every table of events also has the columns id, session, time,
    vcpu, process and unreadable.

    \b
    Example:
      drakmet tables                     what a watch writes
      drakmet tables run.db              what is in a file
      drakmet tables run.db process      one of its tables
      drakmet tables run.db --nl         the same for a program
    """
    if file is None:
        described = [_of_class(record) for record in (*CORE_RECORDS, *known_records(plugins_dir))]
    else:
        with Reader(file) as reader:
            described = reader.tables()
    chosen = [table for table in sorted(described, key=lambda table: table.name) if not only or table.name in only]
    if missing := set(only) - {table.name for table in chosen}:
        raise click.UsageError(f"there is no table {', '.join(sorted(missing))}")
    columns = _COLUMNS if file is None else _COLUMNS_OF_FILE
    emit(_rows(chosen, brief=output is Format.TABLE), columns, output)


@click.command(short_help="Ask a drakmet file in SQL, read-only.")
@click.argument("file", type=_FILE)
@click.argument("sql")
@click.option("--timeout", type=click.FloatRange(min=0.1), default=60.0, show_default=True, help="seconds it may take")
@output_options
def query(file: Path, sql: str, timeout: float, output: Format) -> None:
    """Ask a drakmet file in SQL, read-only.

    Addresses are shown as 0x..., lists and truths as what they are. Beside SQLite's own functions there are argv_text,
    basename, dirname, guest_bytes, hex_address, in_domain, ip_in, ip_public, seconds and utc; the lists that rules use
    are the tables lists.NAME. With SQL - the query is read from standard input.

    \b
    Example:
      drakmet query run.db "SELECT utc(time), path, argv_text(argv) FROM process_start"
      drakmet query run.db "SELECT exe, count(*) FROM net_connect c JOIN process p ON p.id = c.process GROUP BY 1" --csv
    """
    lists = load_rules().lists
    if sql == "-":
        sql = sys.stdin.read()

    def prepare(connection: sqlite3.Connection) -> None:
        attach_lists(connection, lists)
        create_views(connection)

    with Reader(file, prepare) as reader:
        names, rows = reader.select(sql, seconds=timeout)
        emit(rows, names, output)


def _of_class(record: type[Record]) -> TableInfo:
    table = table_of(record)
    columns = [ColumnInfo(c.name, c.sql_type, c.nullable, kind(c), c.doc) for c in table.columns]
    if not table.has_own_id:
        columns.insert(0, ColumnInfo("id", "INTEGER", False, None, "number of the row"))
    doc = (record.__doc__ or "").strip().partition("\n\n")[0]
    return TableInfo(table.name, doc, issubclass(record, EventRecord), tuple(columns), 0)


def _rows(described: list[TableInfo], *, brief: bool) -> Iterator[dict[str, Any]]:
    common = {"id", *EventRecord.__struct_fields__}
    for table in described:
        name = {"table": table.name, "rows": table.rows}
        if brief:
            # A table's own line, then its columns; those that every event has would drown the others.
            yield name | {"column": None, "type": None, "null": None, "doc": table.doc}
            name = {"table": None, "rows": None}
        for column in table.columns:
            if not brief or not table.event or column.name not in common:
                null = "yes" if column.nullable else ""
                yield name | {
                    "column": column.name,
                    "type": column.kind or column.type.lower(),
                    "null": null if brief else column.nullable,
                    "doc": column.doc,
                }
