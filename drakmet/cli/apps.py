# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet apps``: which programs and libraries ran, in which versions, as far as their code tells."""

from __future__ import annotations

import json
import sqlite3
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from drakmet.cli.holes import advisory_options, counted, told
from drakmet.cli.output import Format, emit, output_options
from drakmet.errors import ExitCode, StoreError, UsageError
from drakmet.naming.records import LAST
from drakmet.store.reader import connect

if TYPE_CHECKING:
    from drakmet.cli.holes import Key

_PATH = click.Path(path_type=Path)
_COLUMNS = (
    "guest", "application", "package", "version", "candidates", "verdict", "known", "pages", "processes", "holes",
    "first", "last", "why",
)  # fmt: skip
# One line for what was named the same everywhere; the pages are those of the process that had most of them in memory.
_QUERY = """
SELECT guest.name AS guest, coalesce(a.path, '(memory without a file)') AS application, a.package, a.version,
       a.candidates, a.verdict, max(a.pages) AS pages, a.known, a.why, {processes} AS processes,
       min({first}) AS first, max(a.time) AS last
FROM (SELECT * FROM application WHERE {last}) AS a
JOIN session ON session.id = a.session JOIN guest ON guest.id = session.guest
GROUP BY guest.id, a.path, a.verdict, a.package, a.version, a.candidates
ORDER BY guest.name, CASE a.verdict WHEN 'modified' THEN 0 WHEN 'unknown' THEN 1 WHEN 'verified' THEN 3 ELSE 2 END,
         a.package, a.path
"""
_ONCE = {"first": "a.time", "last": "TRUE", "processes": "count(DISTINCT a.process)"}
"""For a file that was written before watches named applications."""
# Of pages that processes share a watch sees the first one only that runs them: how many do is not known.
_SEVERAL = {
    "first": "coalesce(a.first, a.time)",
    "last": LAST,
    "processes": "CASE WHEN max(a.subject) IS NULL THEN count(DISTINCT a.process) END",
}


@click.command(short_help="Show which applications run, in which versions.")
@click.argument("target", metavar="FILE|xen:GUEST|image:FILE")
@click.option("--identity", type=_PATH, help="the database to name code by; for a stored watch the pages it has")
@advisory_options
@output_options
@click.pass_context
def apps(
    ctx: click.Context,
    target: str,
    identity: Path | None,
    advisories: tuple[Path, ...],
    release: str | None,
    output: Format,
) -> None:
    """Show which applications run, in which versions: of a stored file, or of a guest or image that is scanned now.

    Of a stored watch that saw executed pages, --identity names these now, by whatever the database has by now.

    Programs and libraries are named by the pages of their code that are in memory, not by what the guest says of them.
    A version stands there only if the pages leave no other; else the candidates are told. Code of which the database
    knows nothing is unknown, and nothing here is said to be safe. The column holes counts what changelogs in the
    database and advisory files say of known holes (`drakmet holes FILE` lists them).

    \b
    Example:
      drakmet identity build pages.db *.deb
      drakmet apps xen:web1 --identity pages.db --advisories debian.json
      drakmet scan --all --identity pages.db --db tonight.db; drakmet apps tonight.db --json
      drakmet watch xen:web1 --plugin execution-pages --db web1.db; drakmet apps web1.db --identity pages.db
    """
    if not target.startswith(("xen:", "image:", "vmi:")):
        if advisories or release:
            raise UsageError(
                "a stored file is shown as it is", hint="compare it first: drakmet holes FILE --advisories"
            )
        if identity is None:
            _show(Path(target), output)
            return
        from drakmet.cli.renaming import name_again

        with tempfile.TemporaryDirectory(prefix="drakmet-") as folder:
            _show(name_again(Path(target), identity, Path(folder) / "named.db"), output)
        return
    if identity is None:
        raise UsageError("nothing to name code by", hint="--identity DB; make one: drakmet identity build")
    from drakmet.cli.scanning import Against, run
    from drakmet.plugins import load_plugins

    with tempfile.TemporaryDirectory(prefix="drakmet-") as folder:
        file = Path(folder) / "scan.db"
        against = Against(identity, advisories, release)
        note = lambda text: click.echo(text, err=True)  # noqa: E731
        results = run([target], load_plugins(), file, against=against, note=note)
        if any(guest.failed for guest in results.guests):
            ctx.exit(int(results.exit_code))
        _show(file, output)
    ctx.exit(int(ExitCode.PARTLY if results.exit_code == ExitCode.PARTLY else ExitCode.CLEAN))


def _show(file: Path, output: Format) -> None:
    connection = connect(file)
    try:
        connection.row_factory = sqlite3.Row
        has = {name for _, name, *_ in connection.execute("PRAGMA table_info(application)")}
        several = _SEVERAL if "subject" in has else _ONCE
        rows = [dict(row) for row in connection.execute(_QUERY.format_map(several))]
        holes = counted(connection)
    except sqlite3.OperationalError:
        rows, holes = [], None  # a file of a drakmet that had no such table
    finally:
        connection.close()
    if not rows:
        hint = "scan or watch with --identity DB (drakmet identity build)"
        raise StoreError("no code was named in it", where=str(file), hint=hint)
    for row in rows:
        row["first"], row["last"] = _clock(row["first"]), _clock(row["last"])
        row["candidates"] = json.loads(row["candidates"]) if row["candidates"] else None
        row["holes"] = None if holes is None else _holes(row, holes)
        if row["version"] is not None and output is Format.TABLE:
            row["candidates"] = None
    emit(rows, _COLUMNS, output)


def _holes(row: dict[str, Any], holes: dict[Key, Counter[str]]) -> str:
    """Return what is known of holes in a line's application; what nobody speaks of is not known."""
    each = [" ".join(text.split(" ", 3)[:2]) for text in row["candidates"] or ()]
    versions = frozenset(text for text in each if "-" not in text.split(" "))
    sure = row["version"] is not None and row["verdict"] == "verified"
    return told(holes.get((row["guest"], versions, sure), Counter())) or "not known"


def _clock(nanoseconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(nanoseconds // 10**9))
