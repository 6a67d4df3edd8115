# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet export``: records in the forms that other tools read."""

from __future__ import annotations

import csv
import os
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from drakmet.cli.output import json_line, printable
from drakmet.errors import UsageError
from drakmet.report import bom, drakvuf, ocsf
from drakmet.report.rows import Rows
from drakmet.store import Reader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PATH = click.Path(path_type=Path)


@click.command(short_help="Write records in the forms that other tools read.")
@click.argument("file", type=_PATH)
@click.option(
    "--format",
    "form",
    type=click.Choice(["drakvuf", "ndjson", "csv", "ocsf", "parquet", "cyclonedx", "vex"]),
    required=True,
    help="which",
)
@click.option(
    "-o", "--output", type=_PATH, help="file (parquet, csv of several tables: directory); else standard output"
)
@click.option("--table", "only", multiple=True, help="ndjson, csv: only this table (may be given several times)")
@click.option("--session", type=int, help="only this session (see the table session)")
def export(file: Path, form: str, output: Path | None, only: tuple[str, ...], session: int | None) -> None:
    """Write records in the forms that other tools read.

    drakvuf is the JSON that DRAKVUF prints, which DRAKVUF Sandbox's post-processing reads: lines that were imported as
    they were, and of drakmet's own records those that a plugin of DRAKVUF's has lines for. ndjson is one object a line,
    csv a file for each table, ocsf events of the Open Cybersecurity Schema Framework. parquet is a directory with a
    file for each table, all of them, for what outgrows SQLite: `drakmet rules run DIRECTORY` judges it by DuckDB.
    cyclonedx is a CycloneDX 1.6 bill of materials of what was seen in memory or executing, by its pages; vex is what
    `drakmet holes` said of it, in CycloneDX, and points at that bill's components.

    \b
    Example:
      drakmet export run.db --format drakvuf -o drakmon.log
      drakmet export run.db --format csv -o tables/
      drakmet export run.db --format ocsf | gzip > run.ocsf.gz
      drakmet export fleet.db --format parquet -o fleet.parquet/
      drakmet export web1.db --format cyclonedx -o web1.cdx.json && drakmet export web1.db --format vex -o web1.vex.json
    """
    if form == "parquet":
        _parquet(file, output, whole=not only and session is None)
        return
    with Reader(file) as reader, ExitStack() as stack:
        rows = Rows(reader, session)
        if form in ("cyclonedx", "vex"):
            if only:
                raise UsageError("--table is for ndjson and csv")
            document = bom.bill(reader, session) if form == "cyclonedx" else bom.vex(reader, session)
            out = stack.enter_context(_opened(output))
            out.write(json_line(document).encode() + b"\n")
            return
        if only and form not in ("ndjson", "csv"):
            raise UsageError("--table is for ndjson and csv")
        tables = list(only) or [table for table in rows.tables if any(True for _ in rows.of(table))]
        if form == "csv" and (len(tables) != 1 or (output is not None and output.is_dir())):
            _csv_directory(rows, tables, output)
            return
        out = stack.enter_context(_opened(output))
        count = 0
        for line in _lines(rows, form, tables):
            out.write(line)
            count += 1
    if output is not None:
        click.echo(f"drakmet: {count} lines in {output}", err=True)


def _lines(rows: Rows, form: str, tables: list[str]) -> Iterator[bytes]:
    if form == "drakvuf":
        yield from drakvuf.lines(rows)
    elif form == "ocsf":
        yield from (json_line(event).encode() + b"\n" for event in ocsf.events(rows))
    elif form == "ndjson":
        for table, row in rows.merged(tables):
            yield json_line({"table": table, **_safe(row)}).encode() + b"\n"
    else:
        yield from _csv(rows, tables[0])


def _safe(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in row.items()}


def _parquet(file: Path, output: Path | None, *, whole: bool) -> None:
    from drakmet.store.parquet import export as write

    if output is None or not whole:
        raise UsageError("Parquet is of the whole file, into a directory", hint="give it with -o, and no other option")
    counts = write(file, output)
    click.echo(f"drakmet: {sum(counts.values())} rows of {len(counts)} tables in {output}", err=True)


class _Lines:
    """A file for the csv module that keeps what is written until it is taken."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def take(self) -> bytes:
        """Return what was written."""
        text, self.text = self.text, ""
        return text.encode()


def _csv(rows: Rows, table: str) -> Iterator[bytes]:
    kept = _Lines()
    writer = csv.writer(kept, lineterminator="\n")
    columns: list[str] | None = None
    for row in rows.of(table):
        if columns is None:
            columns = list(row)
            writer.writerow(columns)
        values: Iterable[Any] = _safe(row).values()
        writer.writerow([json_line({"": v})[4:-1] if isinstance(v, list | dict) else printable(v) for v in values])
        yield kept.take()


def _csv_directory(rows: Rows, tables: list[str], output: Path | None) -> None:
    if output is None:
        raise UsageError(
            "several tables do not go into one CSV", hint="choose one with --table, or a directory with -o"
        )
    output.mkdir(mode=0o700, parents=True, exist_ok=True)
    for table in tables:
        with _opened(output / f"{table}.csv") as out:
            for line in _csv(rows, table):
                out.write(line)
    click.echo(f"drakmet: {len(tables)} tables in {output}", err=True)


@contextmanager
def _opened(path: Path | None) -> Iterator[BinaryIO]:
    """Give the file, which only its owner can read, or standard output."""
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        raise UsageError(f"cannot write it: {error.strerror}", where=str(path)) from error
    with os.fdopen(handle, "wb") as file:
        yield file
