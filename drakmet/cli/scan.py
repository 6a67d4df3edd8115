# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet scan``: what is in guests' memory now, without traps."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from drakmet.cli.holes import advisory_options
from drakmet.cli.known import isf_option, plugins_option, rules_option
from drakmet.errors import UsageError

if TYPE_CHECKING:
    from drakmet.cli.scanning import GuestResult

_COLUMNS = ("guest", "kernel", "processes", "sockets", "modules", "paused_ms", "seconds", "outcome")
_PATH = click.Path(path_type=Path)


@click.command(short_help="Read what is in guests' memory now, without traps.")
@click.argument("targets", metavar="[xen:GUEST|image:FILE]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="scan every guest of this host")
@click.option("--live", is_flag=True, help="never pause a guest; what changed while it was read is told")
@click.option("--db", "database", type=_PATH, help="file to store in; the default bears the time")
@click.option("--identity", type=_PATH, help="name code by this database, made by `drakmet identity build`")
@advisory_options
@click.option(
    "--hashes",
    type=click.Path(exists=True, path_type=Path),
    multiple=True,
    help="lists of hashes of pages, made by `drakmet identity hashes`, to look for in memory",
)
@click.option(
    "--kernel",
    "kernels",
    type=_PATH,
    multiple=True,
    help="compare the kernel's code with this: a linux-image .deb, a vmlinuz, a directory (may be given several times)",
)
@click.option("--no-rules", is_flag=True, help="judge nothing, only store")
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line: findings, guests, a summary")
@rules_option
@plugins_option
@isf_option
@click.pass_context
def scan(ctx: click.Context, /, targets: tuple[str, ...], everything: bool, **options: Any) -> None:
    """Read what is in guests' memory now, without traps.

    Processes, open files, sockets, modules, mounts and mapped files are read of a running guest, which is paused for at
    most 200 ms, or of a file of a guest's memory: raw, an ELF core (xl dump-core, dump-guest-memory), what xl save
    wrote, or LiME. Nothing has to be prepared, no altp2m is needed, and the CPU may be of any maker. Rules judge what
    was stored.

    Ends with 3 if a guest could not be read, or not wholly; with 1 if there are findings.

    \b
    Example:
      drakmet scan xen:web1
      drakmet scan --all --db tonight.db
      drakmet scan image:web1.core --json
      drakmet scan xen:old --isf 5.4.0-42-generic.json.xz
      drakmet scan xen:web1 --identity pages.db --db web1.db && drakmet apps web1.db
      drakmet scan --all --identity pages.db --advisories debian.json --release bookworm
      drakmet scan xen:web1 --kernel linux-image-6.1.0-57-amd64_6.1.192-3_amd64.deb
    """
    from drakmet.cli.scanning import Against, run
    from drakmet.plugins import load_plugins
    from drakmet.rules import bundled, load_rules

    if bool(targets) == everything:
        raise click.UsageError(
            "name what to scan, or say --all" if not targets else "targets and --all exclude another"
        )
    uris = list(targets)
    if everything:
        from drakmet.sources.scanning import guests

        uris = guests()
        if not uris:
            click.echo("no guest runs on this host", err=True)
    for uri in uris:
        if not uri.startswith(("xen:", "image:", "vmi:")):
            raise UsageError(f"{uri!r} names nothing that can be scanned", hint="xen:GUEST, image:FILE, or --all")
    against = None
    if options["identity"] or options["hashes"]:
        against = Against(options["identity"], options["advisories"], options["release"], options["hashes"])
    if options["advisories"] and not options["identity"]:
        raise UsageError("nothing to name code by, whose holes would be looked up", hint="--identity DB")
    rules = None if options["no_rules"] else load_rules([bundled(), *options["paths"]])
    results = run(
        uris,
        load_plugins(options["plugins_dir"]),
        options["database"] or Path(f"drakmet-scan-{time.strftime('%Y%m%d-%H%M%S')}.db"),
        rules=rules,
        live=options["live"],
        against=against,
        kernels=options["kernels"],
        isf=options["isf"],
        note=lambda text: click.echo(text, err=True),
    )
    if options["as_json"]:
        _print_json(results)
    else:
        _print(results.guests, results)
    ctx.exit(int(results.exit_code))


def _print(guests: list[GuestResult], results: Any) -> None:
    from drakmet.cli.output import Format, emit, printable

    emit([guest.row() for guest in guests], _COLUMNS, Format.TABLE)
    for guest in guests:
        for gap in guest.gaps:
            click.echo(f"{printable(guest.uri)}: not all: {printable(gap)}")
    for finding in results.findings:
        guest = results.guest_of(finding)
        click.echo(f"{finding.level:>13}  {printable(guest)}: {printable(finding.message)} [{finding.rule}]")
    click.echo(f"{results.stored} rows in {results.database}; {len(results.findings)} findings", err=True)
    if results.rules_fault:
        click.echo(f"the rules were not evaluated: {results.rules_fault}", err=True)


def _print_json(results: Any) -> None:
    import msgspec

    from drakmet.cli.output import json_line

    for finding in results.findings:
        sys.stdout.write(json_line({"table": "finding", "guest": results.guest_of(finding)} | _plain(finding)) + "\n")
    for guest in results.guests:
        sys.stdout.write(json_line({"table": "guest"} | msgspec.to_builtins(guest)) + "\n")
    summary = {
        "table": "summary",
        "database": str(results.database),
        "guests": len(results.guests),
        "failed": sum(guest.failed for guest in results.guests),
        "findings": len(results.findings),
        "stored": results.stored,
        "quarantined": results.quarantined,
        "exit_code": int(results.exit_code),
    }
    sys.stdout.write(json_line(summary) + "\n")


def _plain(finding: Any) -> dict[str, Any]:
    import msgspec

    row: dict[str, Any] = msgspec.structs.asdict(finding)
    return row | {"rests_on": msgspec.json.decode(row["rests_on"])}
