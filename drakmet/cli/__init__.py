# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line. Each command's module is imported when the command is run, so that the start stays short."""

from __future__ import annotations

import importlib
import os
import sys

import click

from drakmet import __version__
from drakmet.errors import DrakmetError, ExitCode

# The one-line helps stand here as well, so that `drakmet --help` needs none of the modules; a test compares them.
_COMMANDS = {
    "apps": ("apps:apps", "Show which applications run, in which versions."),
    "coverage": ("coverage:coverage", "Say what was seen, and each gap with its reason."),
    "demo": ("demo:demo", "Show the main job on a Xen host of its own, in an emulator."),
    "diff": ("diff:diff", "Say what is new, gone or changed between two looks."),
    "doctor": ("doctor:doctor", "Say what this machine can watch, and what it lacks."),
    "export": ("export:export", "Write records in the forms that other tools read."),
    "fleet": ("fleet:fleet", "Scan many hosts by Ansible, into one file."),
    "holes": ("holes:holes", "Show known holes in the versions that ran."),
    "identity": ("identity:identity", "Name code pages by package and version."),
    "import": ("imports:import_", "Store a DRAKVUF log and judge it by the rules."),
    "lab": ("lab:lab", "Run a whole Xen host with guests in an emulator."),
    "new": ("plugins:new", "Write the start of a plugin of yours."),
    "plugins": ("plugins:plugins", "List the plugins, their traps and their health."),
    "query": ("data:query", "Ask a drakmet file in SQL, read-only."),
    "record": ("watch:record", "Record what a guest does, to replay it later."),
    "replay": ("watch:replay", "Run plugins and rules over a recording."),
    "report": ("report:report", "Make one HTML page of what a file tells."),
    "rescue": ("rescue:rescue", "Free a guest that a monitor left hanging."),
    "rules": ("rules:rules", "List, check, test and run rules."),
    "scan": ("scan:scan", "Read what is in guests' memory now, without traps."),
    "serve": ("serve:serve", "Browse and query a file in Datasette."),
    "sign": ("evidence:sign", "Sign a file's chain of rows, or make a key for it."),
    "tables": ("data:tables", "Describe the tables that records are kept in."),
    "tree": ("tree:tree", "Show who started whom."),
    "verify": ("evidence:verify", "Check that no row of a file was changed since."),
    "watch": ("watch:watch", "Watch a guest: records, rules, findings."),
}


class LazyGroup(click.Group):
    """A group whose commands live in modules that are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the commands' names in the order of the alphabet."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return a command, or ``None`` if there is none of that name."""
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(f"drakmet.cli.{module}"), attribute)
        assert isinstance(command, click.Command)  # noqa: S101 - the table above is wrong otherwise
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in sorted(_COMMANDS.items())])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="drakmet")
def cli() -> None:
    """Watch Xen guests from outside: what runs, which files are opened, where connections are meant to go.

    \b
    Example:
      drakmet demo --replay            see it work in seconds, without Xen
      drakmet watch xen:web1           watch a guest from dom0

    \b
    Exit codes: 0 clean, 1 findings, 2 usage or bad input, 3 partly done, 4 failed.
    """


def main() -> None:
    """Run the command line and leave with a documented exit code."""
    try:
        # Click's own handling of errors would end with 1, which means findings here.
        code = cli.main(prog_name="drakmet", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        code = ExitCode.USAGE
    except click.Abort:
        click.echo("stopped", err=True)
        code = ExitCode.PARTLY
    except click.ClickException as error:
        error.show()
        code = ExitCode.FAILED
    except DrakmetError as error:
        click.echo(f"drakmet: {error}", err=True)
        code = error.exit_code
    except BrokenPipeError:
        # Whoever read our output has seen enough (`| head`); the interpreter must not complain again while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.CLEAN
    sys.exit(int(code or 0))
