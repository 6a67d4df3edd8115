# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet rescue``: frees a guest that a monitor left hanging."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from drakmet.cli.output import json_line, printable
from drakmet.errors import ExitCode

if TYPE_CHECKING:
    from drakmet.guardian.survey import Survey


@click.command(short_help="Free a guest that a monitor left hanging.")
@click.argument("guest")
@click.option("--dry-run", is_flag=True, help="only say what was left on the guest; ends with 1 if something was")
@click.option("--force", is_flag=True, help="take the guest even from a monitor that lives")
@click.option("--keep-paused", is_flag=True, help="leave the guest paused if it is")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@click.pass_context
def rescue(ctx: click.Context, guest: str, dry_run: bool, force: bool, keep_paused: bool, as_json: bool) -> None:
    """Free a guest that a monitor left hanging: a drakmet, a DRAKVUF or any other that died without leaving it.

    Finds and takes back the event ring, altp2m and its views, vCPUs that wait for an answer, frames that were added, a
    raised memory limit and pauses. The guest is named by its name or domain id. A guest that a living monitor has is
    left alone.

    \b
    Example:
      drakmet rescue web1 --dry-run
      drakmet rescue web1
    """
    from drakmet.guardian.rescue import rescue as free
    from drakmet.pyxen import Control, Xenstore

    with Control() as control:
        with Xenstore() as store:
            domid = store.find(guest)
        found, left = free(control, domid, dry_run=dry_run, force=force, keep_paused=keep_paused)
    if as_json:
        click.echo(json_line({"found": found.facts(), "left": left and left.facts(), "dry_run": dry_run}))
    else:
        _tell(found, left, dry_run=dry_run)
    if left is not None:
        ctx.exit(ExitCode.PARTLY if left.stale else ExitCode.CLEAN)
    ctx.exit(ExitCode.FINDINGS if found.stale and dry_run else ExitCode.CLEAN)


def _tell(found: Survey, left: Survey | None, *, dry_run: bool) -> None:
    name = printable(found.name)
    if not found.stale:
        click.echo(f"{name}: no monitor has left anything on it")
    for line in found.lines():
        click.echo(f"{name}: {printable(line)}")
    if left is not None:
        click.echo(f"{name}: freed" if not left.stale else f"{name}: not all could be taken back:")
        for line in left.lines() if left.stale else []:
            click.echo(f"{name}: still, {printable(line)}")
    elif found.stale and dry_run:
        click.echo(f"{name}: `drakmet rescue {name}` takes it back")
