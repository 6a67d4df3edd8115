# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet identity``: a database of code pages, from packages and files."""

from __future__ import annotations

import string
from pathlib import Path

import click

from drakmet.cli.output import Format, emit, output_options
from drakmet.errors import DrakmetError, ExitCode, UsageError

_PATH = click.Path(path_type=Path)


@click.group(short_help="Name code pages by package and version.")
def identity() -> None:
    """Name code pages by package and version.

    \b
    Example:
      drakmet identity build pages.db *.deb
      drakmet identity lookup pages.db /usr/bin/ls
    """


@identity.command(short_help="Add packages, ELF files and directories to a database.")
@click.argument("db", type=_PATH)
@click.argument("source", type=_PATH, nargs=-1, required=True)
@output_options
def build(db: Path, source: tuple[Path, ...], output: Format) -> int:
    """Add packages, ELF files and directories to a database, which is made if there is none.

    A source that cannot be read is told and counted; nothing of it is stored, and the others are.

    \b
    Example:
      drakmet identity build pages.db *.deb /opt/site
    """
    return _add(db, source, output, create=True)


@identity.command(short_help="Add to a database that is there.")
@click.argument("db", type=_PATH)
@click.argument("source", type=_PATH, nargs=-1, required=True)
@output_options
def add(db: Path, source: tuple[Path, ...], output: Format) -> int:
    """Add packages, ELF files and directories to a database that is there; what it has of them already is replaced.

    \b
    Example:
      drakmet identity add pages.db security/*.deb
    """
    return _add(db, source, output, create=False)


def _add(db: Path, source: tuple[Path, ...], output: Format, *, create: bool) -> int:
    from drakmet.identity.database import Identities, sources

    added = failed = pages = 0
    with Identities.open(db, create=create) as identities:
        for path in sources(source):
            try:
                pages += identities.add(path)
                added += 1
            except UsageError as error:
                click.echo(f"drakmet: {ascii(str(error))[1:-1]}", err=True)
                failed += 1
    emit([{"added": added, "failed": failed, "pages": pages}], ("added", "failed", "pages"), output)
    return ExitCode.PARTLY if failed and added else ExitCode.USAGE if failed else ExitCode.CLEAN


@identity.command("list", short_help="List what a database knows.")
@click.argument("db", type=_PATH)
@output_options
def list_(db: Path, output: Format) -> None:
    """List the packages of a database in their versions, with their files and pages; files of no package come first.

    \b
    Example:
      drakmet identity list pages.db
      drakmet identity list pages.db --json
    """
    from drakmet.identity import Identities

    with Identities.open(db) as identities:
        emit(identities.packages(), ("package", "version", "architecture", "files", "pages"), output)


@identity.command(short_help="Name a page's hash, or an ELF file.")
@click.argument("db", type=_PATH)
@click.argument("what", metavar="HASH|FILE")
@output_options
def lookup(db: Path, what: str, output: Format) -> None:
    """Name a page's hash (32 hex digits), or an ELF file by its pages.

    \b
    Example:
      drakmet identity lookup pages.db /usr/bin/ls
    """
    from drakmet.identity import Identities, elf, page_hash

    if len(what) == 32 and set(what) <= set(string.hexdigits):
        hashes = [bytes.fromhex(what)]
    else:
        try:
            hashes = [page_hash(page) for _, page in elf.read(Path(what).read_bytes())[1]]
        except OSError as error:
            raise UsageError(f"cannot be read: {error.strerror}", where=what) from error
        except DrakmetError as error:
            raise UsageError(error.what, where=what) from error
    with Identities.open(db) as identities:
        answer = identities.narrow(hashes)
    rows = [
        {"verdict": answer.verdict.value, "package": p, "version": v, "known": answer.known, "pages": answer.pages}
        for p, v in sorted(answer.versions, key=str) or [(None, None)]
    ]
    emit(rows, ("verdict", "package", "version", "known", "pages"), output)


@identity.command(short_help="Count packages, files and pages.")
@click.argument("db", type=_PATH)
@output_options
def stats(db: Path, output: Format) -> None:
    """Count packages, files and pages.

    \b
    Example:
      drakmet identity stats pages.db
    """
    from drakmet.identity import Identities

    with Identities.open(db) as identities:
        emit([identities.stats()], ("packages", "files", "pages", "bytes"), output)
