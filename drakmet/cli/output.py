# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows for people and for machines: ``--table``, ``--json``, ``--csv`` and ``--nl``, the same on every command."""

from __future__ import annotations

import csv
import enum
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import click
import msgspec

F = TypeVar("F", bound=Callable[..., Any])


class Format(enum.Enum):
    """How rows are written to standard output."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    NL = "nl"


def output_options(command: F) -> F:
    """Give a command the options that choose the format; it gets them as ``output: Format``."""
    choices = (
        (Format.NL, "one JSON object a line"),
        (Format.CSV, "comma-separated values with a header"),
        (Format.JSON, "one JSON array"),
        (Format.TABLE, "a table for people (this is what you get without an option)"),
    )
    for choice, text in choices:
        option = click.option(
            f"--{choice.value}", "output", flag_value=choice, type=click.UNPROCESSED, default=Format.TABLE, help=text
        )
        command = option(command)
    return command


def emit(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], output: Format) -> int:
    """Write rows to standard output in a format and return how many there were.

    Nothing a guest wrote can steer the terminal: text that is not printable is escaped in tables, JSON and CSV alike.
    """
    if output is Format.TABLE:
        return _emit_table(rows, columns)
    if output is Format.CSV:
        return _emit_csv(rows, columns)
    return _emit_json(rows, columns, lines=output is Format.NL)


def printable(value: Any) -> str:
    """Return a value as text that is safe on a terminal."""
    text = "" if value is None else value if isinstance(value, str) else str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def json_line(row: Mapping[str, Any]) -> str:
    """Return a row as one line of JSON that is safe on a terminal."""
    text = msgspec.json.encode(row, enc_hook=str).decode()
    # JSON leaves C1 controls and direction marks as they are; \u escapes mean the same and steer no terminal.
    return text if text.isprintable() else "".join(map(_json_safe, text))


def _emit_json(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, lines: bool) -> int:
    count = 0
    before, between, after = ("", "\n", "\n") if lines else ("[", ",\n ", "]\n")
    sys.stdout.write(before)
    for row in rows:
        if count:
            sys.stdout.write(between)
        sys.stdout.write(json_line({name: row[name] for name in columns}))
        count += 1
    sys.stdout.write(after if count or not lines else "")
    return count


def _json_safe(character: str) -> str:
    if character.isprintable():
        return character
    return "".join(f"\\u{unit:04x}" for unit in _utf16_units(character))


def _utf16_units(character: str) -> list[int]:
    data = character.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(data[i : i + 2]) for i in range(0, len(data), 2)]


def _emit_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> int:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    count = 0
    for row in rows:
        writer.writerow([printable(row[name]) for name in columns])
        count += 1
    return count


def _emit_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> int:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        # Text, not str: rich would take brackets in a guest's string for its markup.
        table.add_row(*(Text(printable(row[name])) for name in columns))
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        # A pipe has no width: keep each row on one line for grep and less.
        console.width = 10_000
        table.expand = False
    console.print(table)
    return table.row_count
