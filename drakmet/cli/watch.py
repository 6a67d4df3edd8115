# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet watch``, ``record`` and ``replay``: plugins over a running guest or a recording of one."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from drakmet.cli.known import isf_option, plugins_option, rules_option
from drakmet.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet.monitor import Filters
    from drakmet.rules import RuleSet

_PATH = click.Path(path_type=Path)
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class Duration(click.ParamType[float]):
    """A time such as ``90``, ``90s``, ``5m`` or ``2h``; becomes seconds."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        if isinstance(value, int | float):
            return float(value)
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", value)
        if not match or not float(match[1]):
            self.fail(f"{value!r} is no time: write 90, 90s, 5m or 2h", param, ctx)
        return float(match[1]) * _UNITS[match[2]]


def _together(*options: Callable[..., Any]) -> Callable[..., Any]:
    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_plugin_options = _together(
    click.option("--plugin", "only", multiple=True, help="only this plugin (may be given several times)"),
    click.option("--without", multiple=True, help="leave this plugin out (may be given several times)"),
    plugins_option,
)
_rule_options = _together(
    rules_option,
    click.option("--no-rules", is_flag=True, help="judge nothing, only store"),
)
_filter_options = _together(
    click.option("--pid", "pids", type=int, multiple=True, help="only this process"),
    click.option("--name", "names", multiple=True, help="only programs of this name or path (* and ? fit anything)"),
    click.option("--uid", "uids", type=int, multiple=True, help="only processes of this user id"),
    click.option(
        "--container", "containers", multiple=True, help="only containers whose id starts so; 'none': what is in none"
    ),
)
_for = click.option("--for", "seconds", type=Duration(), help="end after this time, such as 90s, 5m or 2h")
_identity = click.option(
    "--identity", type=_PATH, help="name applications as their pages run, by this database of `drakmet identity build`"
)
_pages = click.option(
    "--pages", is_flag=True, help="also the plugins that watch every page of code (execution-pages), which cost more"
)
_no_guardian = click.option(
    "--no-guardian", is_flag=True, help="start no process that frees the guest should this one be killed"
)
_poll = click.option(
    "--poll",
    type=click.FloatRange(0, 100_000),
    metavar="MICROSECONDS",
    envvar="DRAKMET_POLL",
    show_envvar=True,
    help="look for the next event so long, with a CPU of dom0 kept busy, before waiting for it asleep (500; 0: never)",
)
_json = click.option("--json", "as_json", is_flag=True, help="one JSON object a line: records, findings, a summary")


@click.command(short_help="Watch a guest: records, rules, findings.")
@click.argument("uri", metavar="xen:GUEST")
@click.argument("program_options", metavar="[-- DRAKVUF-OPTIONS]", nargs=-1, type=click.UNPROCESSED)
@click.option("--db", "database", type=_PATH, help="file to store in; the default bears the guest's name and the time")
@click.option("--engine", type=click.Choice(["drakmet", "drakvuf"]), default="drakmet", help="whose traps (drakmet's)")
@click.option("--drakvuf", "program", type=_PATH, help="the program drakvuf, if it is not on PATH")
@_for
@_plugin_options
@_rule_options
@_filter_options
@_identity
@_pages
@isf_option
@_poll
@_no_guardian
@_json
@click.pass_context
def watch(ctx: click.Context, /, uri: str, database: Path | None, **options: Any) -> None:
    """Watch a guest: records, rules, findings.

    Traps are set in the guest's kernel, in a view of its memory that only the hypervisor knows; what they show is
    stored in one SQLite file and judged by rules within a second. Ctrl-C ends it in order. The guest is named by its
    name or domain id.

    With --engine drakvuf the traps are DRAKVUF's: its program is run, with a profile that is made of the guest itself
    unless one is given (-r), and with the options that follow --.

    \b
    Example:
      drakmet watch xen:web1
      drakmet watch xen:web1 --for 5m --db web1.db --plugin execution --plugin network-intent
      drakmet watch xen:3 --name 'php*' --uid 33 --json
      drakmet watch xen:web1 --identity pages.db --db web1.db; drakmet apps web1.db
      drakmet watch xen:web1 --plugin execution-pages
      drakmet watch --engine drakvuf xen:web1 -- -a procmon -a filetracer
    """
    engine, program, given = options.pop("engine"), options.pop("program"), options.pop("program_options")
    if engine == "drakvuf":
        _run_drakvuf(ctx, uri, database or _default(uri, ".db"), program, given, options)
        return
    if given or program:
        raise UsageError("options for drakvuf are only for drakvuf", hint="add --engine drakvuf")
    _run(ctx, uri, database or _default(uri, ".db"), options)


@click.command(short_help="Record what a guest does, to replay it later.")
@click.argument("uri", metavar="xen:GUEST")
@click.option("-o", "--output", "recording", type=_PATH, help="file to write; the default bears the guest's name")
@_for
@_plugin_options
@_filter_options
@_pages
@isf_option
@_poll
@_no_guardian
@_json
@click.pass_context
def record(ctx: click.Context, /, uri: str, recording: Path | None, **options: Any) -> None:
    """Record what a guest does, to replay it later.

    A recording holds, for each hit of the plugins' traps, the registers and all that was read of the guest's memory,
    and of the kernel's symbols and types what that took. `drakmet replay` makes the same records of it, byte for byte.

    \b
    Example:
      drakmet record xen:web1 --for 60s -o web1.drec
    """
    target = recording or _default(uri, ".drec")
    if target.exists():
        raise UsageError("the file is there already", where=str(target), hint="choose another name with -o")
    _run(ctx, uri, None, {**options, "recording": target, "paths": (), "no_rules": True})
    click.echo(f"recorded in {target}", err=True)


@click.command(short_help="Run plugins and rules over a recording.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--db", "database", type=_PATH, help="file to store in; the default bears the recording's name")
@_plugin_options
@_rule_options
@_filter_options
@_identity
@_pages
@_json
@click.pass_context
def replay(ctx: click.Context, /, file: Path, database: Path | None, **options: Any) -> None:
    """Run plugins and rules over a recording.

    No Xen is needed, and no root.

    \b
    Example:
      drakmet replay web1.drec --db web1.db
      drakmet replay web1.drec --plugin execution --json
    """
    _run(ctx, f"replay:{file}", database or _free(file.with_suffix(".db")), {**options, "seconds": None})


def _run_drakvuf(
    ctx: click.Context, uri: str, database: Path, program: Path | None, given: tuple[str, ...], options: dict[str, Any]
) -> None:
    from drakmet.cli import drakvuf
    from drakmet.cli.known import known_records

    ours = ("only", "without", "pids", "names", "uids", "containers", "pages", "isf", "poll", "as_json")
    if refused := [name for name in ours if options[name]]:
        raise UsageError(
            f"with --engine drakvuf there is no {', '.join(refused)}",
            hint="DRAKVUF has its own: -a PLUGIN, -x PLUGIN, -C PROCESS, after --",
        )
    code = drakvuf.watch(
        uri,
        database,
        given,
        program=program,
        records=known_records(options["plugins_dir"]),
        rules=None if options["no_rules"] else _rules(options["paths"]),
        seconds=options["seconds"],
    )
    ctx.exit(int(code))


def _run(ctx: click.Context, uri: str, database: Path | None, options: dict[str, Any]) -> None:
    from drakmet.cli import running, views
    from drakmet.plugins import load_plugins

    plugins = load_plugins(options["plugins_dir"], only=options["only"], disabled=options["without"])
    if not any(options.get(one) for one in ("only", "pages", "identity")):
        plugins = plugins.without_execute_traps()
    if options.get("identity") and not any(plugin.execute_traps for plugin in plugins.plugins):
        raise UsageError("no plugin is loaded that watches executed pages", hint="add --plugin execution-pages")
    ended = running.run(
        uri,
        plugins,
        views.choose(json=options["as_json"]),
        database=database,
        rules=None if options["no_rules"] else _rules(options["paths"]),
        seconds=options["seconds"],
        filters=_filters(options),
        recording=options.get("recording"),
        guarded=not options.get("no_guardian"),
        identity=options.get("identity"),
        isf=options.get("isf", ()),
        poll=options.get("poll"),
    )
    ctx.exit(int(ended.exit_code))


def _rules(paths: tuple[Path, ...]) -> RuleSet:
    from drakmet.rules import bundled, load_rules

    # A rule file that is wrong is told of, and is no reason not to watch.
    loaded = load_rules([bundled(), *paths], strict=False)
    for error in loaded.errors:
        click.echo(f"left out: {error}", err=True)
    return loaded


def _filters(options: dict[str, Any]) -> Filters:
    from drakmet.monitor import Filters

    return Filters(
        pids=frozenset(options["pids"]),
        names=options["names"],
        uids=frozenset(options["uids"]),
        containers=options["containers"],
    )


def _default(uri: str, suffix: str) -> Path:
    guest = re.sub(r"[^\w.-]+", "_", uri.partition(":")[2]) or "guest"
    return Path(f"drakmet-{guest}-{time.strftime('%Y%m%d-%H%M%S')}{suffix}")


def _free(path: Path) -> Path:
    """Return the path, or if a file is there already one with a number that none has."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free
