# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet holes``: known holes in the versions that ran."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from drakmet.cli.output import Format, emit, output_options, printable
from drakmet.errors import ExitCode, StoreError, UsageError
from drakmet.holes.opinion import State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from drakmet.holes.compare import Ran
    from drakmet.store import Reader

_PATH = click.Path(path_type=Path)
_COLUMNS = (
    "guest", "hole", "state", "package", "version", "fixed_in", "urgency", "processes", "rests_on", "why",
)  # fmt: skip
_OPEN = (State.AFFECTED, State.MAYBE)
LAST = "time = (SELECT max(time) FROM advisory AS a WHERE a.session = hole.session)"
"""Of rows of ``hole``: that they are of the last comparison."""
Key = tuple[str, frozenset[str], bool]
"""A guest, the packages with versions that an application in it may be, and whether it is that for sure."""
_QUERY = f"""
SELECT guest.name AS guest, hole, state, package, version, versions, fixed_in, urgency, processes, rests_on, hole.why
FROM hole JOIN session ON session.id = hole.session JOIN guest ON guest.id = session.guest
WHERE hole.{LAST} AND (:session IS NULL OR hole.session = :session)
ORDER BY guest.name, CASE state WHEN 'affected' THEN 0 WHEN 'may be affected' THEN 1 WHEN 'not known' THEN 2 ELSE 3 END,
         package, hole
"""  # noqa: S608 - a constant


def advisory_options(command: Any) -> Any:
    """Give a command the options that name advisories; it gets them as ``advisories`` and ``release``."""
    command = click.option(
        "--release", help="the guest's release of Debian, such as bookworm, if versions do not say it"
    )(command)
    return click.option(
        "--advisories",
        type=click.Path(exists=True, path_type=Path),
        multiple=True,
        help="Debian's security tracker JSON, OSV reports (file, directory, ZIP), or debsecan's data or report",
    )(command)


@click.command(short_help="Show known holes in the versions that ran.")
@click.argument("file", type=_PATH)
@click.option(
    "--identity",
    type=click.Path(exists=True, path_type=Path),
    help="a database of code pages: its packages' changelogs are asked, too",
)
@advisory_options
@click.option("--session", type=int, help="only this session (see the table session)")
@click.option("--all", "everything", is_flag=True, help="show holes that are closed, too")
@output_options
def holes(file: Path, identity: Path | None, advisories: tuple[Path, ...], release: str | None, **options: Any) -> int:
    """Show known holes in the versions that ran, by the applications that a stored file names.

    With advisories or a database of code pages the file's applications are compared with these, and what comes of it
    is kept in the file; without, what was kept last is shown. Nothing is fetched from anywhere.

    A hole of which no advisory speaks is not shown, and not known: that is not the same as none. Changelogs tell what
    was closed and not since when it was there, so that by them alone an older upstream version may be affected.

    Ends with 1 if something is or may be affected, with 3 if nothing is but an advisory could not be read wholly, or
    none speaks of a package.

    \b
    Example:
      drakmet holes web1.db --advisories debian.json --release bookworm
      drakmet holes web1.db --advisories osv/ --advisories generic.debsecan --identity pages.db
      drakmet holes web1.db --all --json
    """
    output: Format = options["output"]
    only: int | None = options["session"]
    if identity or advisories:
        _compare(file, identity, advisories, release, only)
    from drakmet.store import Reader

    with Reader(file) as reader:
        if "hole" not in reader.names or not any(True for _ in reader.select("SELECT 1 FROM advisory LIMIT 1")[1]):
            raise StoreError(
                "it was not compared with advisories", where=str(file), hint="give some: --advisories, --identity"
            )
        rows = list(reader.select(_QUERY, {"session": only})[1])
        silent = _silent(reader, only)
        partly = any(True for _ in reader.select(f"SELECT 1 FROM advisory AS hole WHERE refused AND {LAST} LIMIT 1")[1])  # noqa: S608
    for row in rows:
        row["version"] = row["version"] or "one of: " + ", ".join(row["versions"])
    closed = (State.FIXED, State.NOT_AFFECTED)
    emit((row for row in rows if options["everything"] or row["state"] not in closed), _COLUMNS, output)
    counts = Counter(row["state"] for row in rows)
    click.echo(told(counts) or "no advisory speaks of what ran", err=True)
    if silent:
        click.echo(f"not known, as no advisory speaks of it: {', '.join(map(printable, silent))}", err=True)
    if any(counts[state] for state in _OPEN):
        return ExitCode.FINDINGS
    return ExitCode.PARTLY if silent or partly else ExitCode.CLEAN


def _compare(
    file: Path, identity: Path | None, advisories: tuple[Path, ...], release: str | None, only: int | None
) -> None:
    from drakmet.cli.comparing import compare_with
    from drakmet.holes.records import HOLE_RECORDS
    from drakmet.store import Reader, Writer

    with Reader(file) as reader:
        sessions = _ran(reader, only)
    if not sessions:
        raise UsageError(
            "no application in it is named", where=str(file), hint="scan with --identity DB (drakmet identity build)"
        )
    with Writer(file, HOLE_RECORDS) as writer:
        for session, ran in sessions.items():
            for text in compare_with(session, ran, writer.put, identity, advisories, release):
                click.echo(f"drakmet: {printable(text)}", err=True)
        writer.flush()


def _ran(reader: Reader, only: int | None) -> dict[int, list[Ran]]:
    from drakmet.holes.compare import Ran
    from drakmet.naming.records import LAST

    if "application" not in reader.names:
        return {}
    columns = {column.name for table in reader.tables() if table.name == "application" for column in table.columns}
    sources = "sources" if "sources" in columns else "NULL AS sources"
    last = LAST if "subject" in columns else "TRUE"
    found: dict[int, list[Ran]] = {}
    sql = (
        f"SELECT session, process, path, verdict, candidates, {sources} FROM application"  # noqa: S608 - ours
        f" WHERE candidates IS NOT NULL AND {last} AND (:session IS NULL OR session = :session) ORDER BY id"
    )
    for row in reader.select(sql, {"session": only}, seconds=600.0)[1]:
        found.setdefault(row["session"], []).append(
            Ran(row["process"], row["path"], row["verdict"], _texts(row["candidates"]), _texts(row["sources"]))
        )
    return found


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _silent(reader: Reader, only: int | None) -> Iterable[str]:
    """Return the packages that ran and of which no row speaks."""
    sql = f"""
        SELECT DISTINCT package FROM application WHERE package IS NOT NULL AND (:session IS NULL OR session = :session)
        EXCEPT SELECT package FROM hole WHERE state <> 'not known' AND {LAST} ORDER BY package
    """  # noqa: S608 - a constant
    if "application" not in reader.names:
        return []
    return [row["package"] for row in reader.select(sql, {"session": only}, seconds=600.0)[1]]


def counted(connection: sqlite3.Connection) -> dict[Key, Counter[str]] | None:
    """Return how many holes of each state what ran in each guest has; None for a file that was never compared."""
    sql = f"""
        SELECT guest.name, versions, version IS NOT NULL, state, count(DISTINCT hole)
        FROM hole JOIN session ON session.id = hole.session JOIN guest ON guest.id = session.guest
        WHERE hole.{LAST} GROUP BY 1, 2, 3, 4
    """  # noqa: S608 - a constant
    try:
        if not connection.execute("SELECT 1 FROM advisory LIMIT 1").fetchone():
            return None
        rows = connection.execute(sql).fetchall()
    except sqlite3.OperationalError:
        return None
    found: dict[Key, Counter[str]] = {}
    for guest, versions, sure, state, number in rows:
        key = (guest, frozenset(json.loads(versions or "[]")), bool(sure))
        found.setdefault(key, Counter())[state] += number
    return found


def told(counts: Counter[str]) -> str:
    """Return numbers of holes by their states as a text, the worst first."""
    return ", ".join(f"{counts[state]} {state.value}" for state in State if counts[state])
