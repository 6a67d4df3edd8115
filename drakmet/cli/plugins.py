# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet plugins`` and ``drakmet new``: what is loaded and whether it fits a guest, and the start of one's own."""

from __future__ import annotations

import keyword
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from drakmet.cli.known import plugins_option
from drakmet.cli.output import Format, emit, output_options
from drakmet.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.executions import ExecuteTrap
    from drakmet.plugins import PluginSet
    from drakmet.traps import Trap

SET = "can be set"


@click.command(short_help="List the plugins, their traps and their health.")
@click.argument("uri", metavar="[xen:GUEST]", required=False)
@plugins_option
@output_options
def plugins(uri: str | None, plugins_dir: tuple[Path, ...], output: Format) -> None:
    """List the plugins, their traps and their health.

    With a guest (or replay:FILE), every trap is tried against its kernel: whether the function is there and what is to
    be fetched fits it. The guest runs on; nothing is set. Ends with 3 if a plugin cannot be loaded or a trap cannot be
    set.

    \b
    Example:
      drakmet plugins
      drakmet plugins xen:web1
      drakmet plugins --plugins-dir ./mine --json
    """
    from drakmet.plugins import load_plugins

    found = load_plugins(plugins_dir)
    if uri is None:
        emit(_overview(found), ("plugin", "origin", "traps", "tables", "state"), output)
        partly = bool(found.failed)
    else:
        rows = list(_health(found, uri))
        emit(rows, ("plugin", "trap", "function", "tables", "state"), output)
        partly = any(row["state"] != SET for row in rows)
    if partly:
        raise click.exceptions.Exit(ExitCode.PARTLY)


def _overview(found: PluginSet) -> Iterator[dict[str, Any]]:
    for plugin in found.found:
        yield {
            "plugin": plugin.name,
            "origin": plugin.origin,
            "traps": len(plugin.traps) + len(plugin.execute_traps),
            "tables": ", ".join(record.table for record in plugin.records),
            "state": "loaded" if plugin.error is None else plugin.error.replace("\n", ";"),
        }


def _health(found: PluginSet, uri: str) -> Iterator[dict[str, Any]]:
    """Try every trap on the kernel of a guest that runs on."""
    from drakmet.guest.linux import LinuxGuest
    from drakmet.monitor.armed import prepare
    from drakmet.sources import open_source
    from drakmet.sources.replay import ReplaySource

    source = open_source(uri)
    try:
        known = source.head.places if isinstance(source, ReplaySource) else None
        prepared = prepare(LinuxGuest(source.kernel()), found.plugins, known)
    finally:
        source.close()
    states = {armed.key: (armed.place.function, SET) for armed in prepared.traps}
    states |= {refused.key: (_functions(refused.trap), refused.reason) for refused in prepared.refused}
    for plugin in found.found:
        if plugin.error is not None:
            yield _row(plugin.name, None, None, plugin.error.replace("\n", ";"))
        for trap in plugin.traps:
            yield _row(plugin.name, trap, *states[plugin.name, trap.label])
        for execute in plugin.execute_traps:
            yield _row(plugin.name, execute, _functions(execute), SET)


def _row(plugin: str, trap: Trap | ExecuteTrap | None, function: str | None, state: str) -> dict[str, Any]:
    table = trap.record.table if trap and trap.record else None
    return {"plugin": plugin, "trap": trap.label if trap else None, "function": function, "tables": table,
            "state": state}  # fmt: skip


def _functions(trap: Trap | ExecuteTrap) -> str:
    return " or ".join(getattr(trap, "functions", ("every page",)))


@click.group(short_help="Write the start of a plugin of yours.")
def new() -> None:
    """Write the start of a plugin of yours.

    \b
    Example:
      drakmet new plugin modules
    """


@new.command(short_help="Write a plugin and its test, which passes.")
@click.argument("name")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="where to write it; it is made if need be (default: here)",
)
def plugin(name: str, directory: Path) -> None:
    """Write a plugin and its test, which passes.

    NAME is the name of the Python file. The directory can be given to every command that watches as --plugins-dir.

    \b
    Example:
      drakmet new plugin modules --directory mine
      pytest mine
      drakmet watch xen:web1 --plugins-dir mine --plugin modules
    """
    _check(name)
    files = {directory / f"{name}.py": _PLUGIN, directory / f"test_{name}.py": _TEST}
    for path in files:
        if path.exists():
            raise UsageError("the file is there already", where=str(path), hint="choose another name or directory")
    record = "".join(word.capitalize() for word in name.split("_")) + "Open"
    try:
        for path in (*reversed(directory.parents), directory):
            if not path.exists():
                path.mkdir(mode=0o755)
        for path, template in files.items():
            # Whatever the umask: where others can write, plugins are not loaded from.
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w", encoding="utf-8") as file:
                file.write(template.replace("NAME", name).replace("RECORD", record))
            click.echo(f"wrote {path}")
    except OSError as error:
        raise UsageError(f"cannot write it: {error.strerror}", where=str(error.filename or directory)) from error
    click.echo(f"\ntest it:  pytest {directory}\nuse it:   drakmet watch xen:GUEST --plugins-dir {directory}")


def _check(name: str) -> None:
    """Refuse a name that is none for a plugin, or that a plugin has already."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", name) or keyword.iskeyword(name):
        tame = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        hint = "take small letters, digits and underscores, a letter first"
        if tame != name and re.fullmatch(r"[a-z][a-z0-9_]{0,40}", tame) and not keyword.iskeyword(tame):
            hint = f"did you mean {tame!r}?"
        raise UsageError(f"{name!r} cannot be the name of a plugin", hint=hint)
    if name.startswith("test_") or name == "conftest":
        raise UsageError(f"a file called {name}.py is taken for a test, not for a plugin", hint="choose another name")
    from drakmet.plugins import load_plugins

    if name.replace("_", "-") in [plugin.name for plugin in load_plugins().found]:
        raise UsageError(f"there is a plugin {name.replace('_', '-')} already", hint="`drakmet plugins` lists them")


_PLUGIN = '''\
"""Which files are asked for, by their names. (What NAME is for, in a sentence.)"""

from typing import Annotated

from drakmet import EventRecord, Trap, hookimpl


class RECORD(EventRecord):
    """A file was asked for. (The record class is the table; this sentence is its documentation.)"""

    name: Annotated[str | None, "the name as the program gave it"]
    flags: Annotated[int | None, "flags of open(2)"]


@hookimpl
def drakmet_traps() -> list[Trap]:
    """Return the traps: a function of the guest's kernel, and what to fetch of its arguments for each column.

    For more than that, give a trap a handler: it gets the hit and returns records, or none.
    """
    return [
        Trap(
            function="do_filp_open",
            name="open",
            fetch={"name": "pathname->name", "flags": "op->open_flag"},
            record=RECORD,
        ),
    ]
'''

_TEST = '''\
"""The plugin NAME on hits made by hand."""

from pathlib import Path

from drakmet.testing import load, problems, run_trap, trap

plugin = load(Path(__file__).with_name("NAME.py"))


def test_a_hit_becomes_a_record() -> None:
    (record,) = run_trap(trap(plugin, "open"), name="/etc/passwd", flags=0)
    assert (record.name, record.flags, record.unreadable) == ("/etc/passwd", 0, None)


def test_what_cannot_be_read_is_told() -> None:
    (record,) = run_trap(trap(plugin, "open"), flags=0)
    assert (record.name, record.unreadable) == (None, "name")


def test_everything_is_documented() -> None:
    assert problems(plugin) == []
'''
