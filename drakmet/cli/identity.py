# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet identity``: a database of code pages, from packages and files."""

from __future__ import annotations

import string
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from drakmet.cli.output import Format, emit, output_options
from drakmet.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet.identity.filling import Filler

_PATH = click.Path(path_type=Path)
_TELL_EVERY: Final = 2.0  # seconds


@click.group(short_help="Name code pages by package and version.")
def identity() -> None:
    """Name code pages by package and version.

    \b
    Example:
      drakmet identity build pages.db *.deb
      drakmet identity lookup pages.db /usr/bin/ls
    """


@identity.command(short_help="Add packages, programs, folders, roots and disk images to a database.")
@click.argument("db", type=_PATH)
@click.argument("source", type=_PATH, nargs=-1, required=True)
@output_options
def build(db: Path, source: tuple[Path, ...], output: Format) -> int:
    """Add packages, programs, folders, roots and disk images to a database, which is made if there is none.

    A folder that has a dpkg database, such as an unpacked or mounted root, tells the package of each file, if the file
    is as the package has it. Of a raw image its ext2, ext3 and ext4 file systems are read, without mounting them.
    A source that cannot be read is told and counted; nothing of it is stored, and the others are.

    \b
    Example:
      drakmet identity build pages.db *.deb /opt/site
      drakmet identity build pages.db /mnt/root guest.img app.exe
    """
    return _fill(db, lambda filler: _each(filler, source), output, create=True)


@identity.command(short_help="Add to a database that is there.")
@click.argument("db", type=_PATH)
@click.argument("source", type=_PATH, nargs=-1, required=True)
@output_options
def add(db: Path, source: tuple[Path, ...], output: Format) -> int:
    """Add to a database that is there, as `drakmet identity build` does; what it has of a source is replaced.

    \b
    Example:
      drakmet identity add pages.db security/*.deb
    """
    return _fill(db, lambda filler: _each(filler, source), output, create=False)


@identity.command(short_help="Read again what changed, drop what is gone.")
@click.argument("db", type=_PATH)
@output_options
def update(db: Path, output: Format) -> int:
    """Read again the sources whose size, time or content changed, drop those that are gone, take what folders have new.

    \b
    Example:
      drakmet identity update pages.db
    """
    return _fill(db, lambda filler: filler.update(), output, create=False)


def _each(filler: Filler, source: tuple[Path, ...]) -> None:
    for path in source:
        filler.add(path)


def _fill(db: Path, step: Callable[[Filler], None], output: Format, *, create: bool) -> int:
    from drakmet.identity import Identities
    from drakmet.identity.filling import Filler

    new = create and not db.exists()
    told = time.monotonic()

    def progress(added: int) -> None:
        nonlocal told
        if time.monotonic() - told > _TELL_EVERY:
            told = time.monotonic()
            click.echo(f"{added} read, {filler.filled.pages} pages", err=True)

    with Identities.open(db, create=create) as identities:
        filler = Filler(identities, lambda text: click.echo(f"drakmet: {ascii(text)[1:-1]}", err=True), progress)
        try:
            step(filler)
        finally:
            filler.finish()  # what was read before Ctrl-C is sound
        if new:
            filler.compact()
    done = filler.filled
    columns = ("added", "failed", "broken", "changed", "dropped", "unchanged", "pages")
    emit([{name: getattr(done, name) for name in columns}], columns, output)
    if done.failed and not (done.added or done.unchanged):
        return ExitCode.USAGE
    return ExitCode.PARTLY if done.failed or done.broken else ExitCode.CLEAN


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


@identity.command(short_help="Name a page's hash, or a program's file.")
@click.argument("db", type=_PATH)
@click.argument("what", metavar="HASH|FILE")
@output_options
def lookup(db: Path, what: str, output: Format) -> None:
    """Name a page's hash (32 hex digits), or an ELF or PE file by its pages.

    Of a hash all files are told that have the page, and its number in them. Of a file, the versions that agree with
    all of its pages, or with all but some; ``known`` of ``pages`` is what that rests on.

    \b
    Example:
      drakmet identity lookup pages.db /usr/bin/ls
      drakmet identity lookup pages.db 6f1ed002ab5595859014ebf0951522d9
    """
    from drakmet.identity import Identities, Match, code

    with Identities.open(db) as identities:
        if len(what) == 32 and set(what) <= set(string.hexdigits):
            found = identities.lookup([bytes.fromhex(what)]).get(bytes.fromhex(what), [])
            emit([match._asdict() for match in found], Match._fields, output)
            return
        try:
            said = identities.judge(code.read(Path(what).read_bytes()).pages)
        except OSError as error:
            raise UsageError(f"cannot be read: {error.strerror}", where=what) from error
        except UsageError as error:
            raise UsageError(error.what, where=what) from error
    rest = {"verdict": said.verdict.value, "known": said.known, "pages": said.pages, "differing": len(said.differing)}
    nobody = Match(None, None, None, "", None, 0)
    rows = [match._asdict() | rest for match in said.files or [nobody]]
    for row in rows:
        del row["number"]
    emit(rows, ("verdict", "package", "version", "architecture", "path", "known", "pages", "differing"), output)


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
        emit([identities.stats()], ("sources", "packages", "files", "pages", "bytes"), output)


@identity.command(short_help="Make a list of page hashes of files.")
@click.argument("source", type=_PATH, nargs=-1, required=True)
@click.option(
    "--listed",
    type=_PATH,
    multiple=True,
    help="only files whose MD5, SHA-1 or SHA-256 is in this list (may be given several times)",
)
def hashes(source: tuple[Path, ...], listed: tuple[Path, ...]) -> int:
    """Make a list of page hashes of files, or of those below folders, for `drakmet scan --hashes`.

    Lists of malicious files name the digests of whole files, which are never whole in memory: where the files are at
    hand, this turns them into pages. A file that is no program, or broken, is told and counted.

    \b
    Example:
      drakmet identity hashes samples/ --listed feed.csv > bad.txt
      drakmet scan --all --hashes bad.txt
    """
    from drakmet.identity import code
    from drakmet.identity import listed as lists

    wanted = lists.load(listed) if listed else None
    made = failed = others = 0
    for path in source:
        files = (
            sorted(one for one in path.rglob("*") if one.is_file() and not one.is_symlink())
            if path.is_dir()
            else [path]
        )
        for file in files:
            try:
                data = file.read_bytes()
                name = file.name if wanted is None else wanted.of_file(data)
                if name is None or (path.is_dir() and not code.begins(data[:2048])):
                    others += 1
                    continue
                for line in lists.pages_of(data, name):
                    click.echo(line)
                made += 1
            except (OSError, UsageError) as error:
                why = error.strerror if isinstance(error, OSError) else error.what
                click.echo(ascii(f"drakmet: {file}: {why}")[1:-1], err=True)
                failed += 1
    click.echo(f"drakmet: {made} files, {others} left out, {failed} failed", err=True)
    if failed and not made:
        return ExitCode.USAGE
    return ExitCode.PARTLY if failed else ExitCode.CLEAN
