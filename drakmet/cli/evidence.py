# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet verify`` and ``drakmet sign``: whether a file is as it was written, and a signature that it was."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import click

from drakmet.cli.output import json_line, printable
from drakmet.errors import ExitCode, StoreError, UsageError
from drakmet.store import verifier

_PATH = click.Path(path_type=Path)


@click.command(short_help="Check that no row of a file was changed since.")
@click.argument("file", type=_PATH, required=False)
@click.option("--key", type=_PATH, help="public key that has to have signed the file's chain")
@click.option("--standalone", is_flag=True, help="print the checking program itself, which needs nothing but Python")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
def verify(file: Path | None, key: Path | None, standalone: bool, as_json: bool) -> ExitCode:
    """Check that no row of a file was changed, removed or added since it was written.

    Every row is chained by hash when it is written, and is named here if it is another now. Whoever can write the file
    can also make the whole chain anew or cut off its end: against that, sign it (`drakmet sign`), and give --key here.
    What is not chained: the descriptions of tables and columns.

    Exit codes: 0 all as it was written, 1 it was not, 2 not to be checked.

    \b
    Example:
      drakmet verify run.db
      drakmet verify run.db --key operator.key.pub
      drakmet verify --standalone > check.py; python3 check.py run.db
    """
    if standalone:
        click.echo(Path(verifier.__file__).read_text(encoding="utf-8"), nl=False)
        return ExitCode.CLEAN
    if file is None:
        raise click.UsageError("give the file to check")
    try:
        if not file.is_file():
            raise StoreError("there is no such file", where=str(file), hint="give a file that drakmet wrote")
        found = verifier.verify(file, verifier.read_key(key) if key else None)
    except (ValueError, OSError, sqlite3.Error) as error:
        raise UsageError(f"it cannot be checked: {error}", where=str(file)) from error
    if as_json:
        row = {
            "rows": found.rows,
            "blocks": found.blocks,
            "adopted": found.adopted,
            "head": found.head.hex(),
            "sealed_up_to": found.sealed_up_to,
            "faults": found.faults,
            "notes": found.notes,
        }
        click.echo(json_line(row))
    else:
        for text in found.faults:
            click.echo(printable(text))
        for text in found.notes:
            click.echo(printable(text), err=True)
        if found.adopted:
            click.echo(f"{found.adopted} rows were in the file before they were chained", err=True)
        says = "NOT as they were written" if found.faults else "as they were written"
        click.echo(f"{found.rows} rows, {found.blocks} blocks, head {found.head.hex()}: {says}")
    return ExitCode.FINDINGS if found.faults else ExitCode.CLEAN


@click.command(short_help="Sign a file's chain of rows, or make a key for it.")
@click.argument("file", type=_PATH, required=False)
@click.option("--key", type=_PATH, help="private key to sign with")
@click.option("--new-key", type=_PATH, help="make a private key here, and a public one beside it (.pub)")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
def sign(file: Path | None, key: Path | None, new_key: Path | None, as_json: bool) -> ExitCode:
    """Sign a file's chain of rows with Ed25519, or make a key for it.

    The signature is kept in the file and covers every row that is there now. Keep the line that is printed elsewhere:
    it shows later that the file was not replaced by an older state of it. Needs: pip install 'drakmet[evidence]'.

    \b
    Example:
      drakmet sign --new-key operator.key
      drakmet sign run.db --key operator.key
    """
    from drakmet.store import seals

    if new_key:
        public = seals.make_key(new_key)
        click.echo(json_line({"key": str(new_key), "public": str(public)}) if as_json else f"{new_key}\n{public}")
        return ExitCode.CLEAN
    if file is None or key is None:
        raise click.UsageError("give a file and --key, or --new-key")
    seal = seals.sign(file, key)
    row = {
        "file": str(file),
        "block": seal.block,
        "head": seal.digest.hex(),
        "key": seal.key.hex(),
        "signature": seal.signature.hex(),
    }
    if as_json:
        click.echo(json_line(row))
    else:
        click.echo(f"signed up to block {seal.block}, head {seal.digest.hex()}, signature {seal.signature.hex()}")
    return ExitCode.CLEAN
