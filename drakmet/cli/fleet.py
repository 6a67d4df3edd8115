# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet fleet``: many hosts scanned by way of Ansible."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from drakmet.cli.known import plugins_option, rules_option
from drakmet.cli.output import Format, emit, json_line, output_options, printable
from drakmet.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from drakmet.fleet.play import Request
    from drakmet.fleet.runs import Run, Settings
    from drakmet.fleet.scanning import Scanned

_PATH = click.Path(path_type=Path)
_STATUS = ("name", "outcome", "guests", "failed_guests", "rows", "seconds", "xen", "reason")
_HOSTS = ("name", "outcome", "python", "machine", "xen", "own_name", "free_mib", "bundles", "reason")
_VALUES = ("inventory", "limit", "extra_vars", "vault_id", "vault_password_file", "become_method", "become_user")
_VALUES_TOO = ("user", "private_key", "connection", "ssh_common_args", "timeout", "forks")
_ASKED = {
    "ask_pass": (r"^SSH password:\s*?$", "SSH password"),
    "ask_become_pass": (r"^BECOME password.*:\s*?$", "become password"),
    "ask_vault_pass": (r"^Vault password.*:\s*?$", "vault password"),
}


def ansible_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command Ansible's own options; they are passed on as they are."""
    options = [
        click.option("-i", "--inventory", multiple=True, help="inventory, as Ansible takes it; else ansible.cfg's"),
        click.option("-l", "--limit", help="only hosts that match Ansible's pattern"),
        click.option("-e", "--extra-vars", multiple=True, help="variables, as ansible-playbook takes them"),
        click.option("-u", "--user", help="connect as this user"),
        click.option("--private-key", help="connect with this key"),
        click.option("-c", "--connection", help="kind of connection"),
        click.option("--ssh-common-args", help="options of ssh, such as for a jump host"),
        click.option("-T", "--timeout", help="seconds for a connection to come about"),
        click.option("-f", "--forks", type=click.IntRange(1), help="hosts at a time"),
        click.option("-b", "--become", is_flag=True, help="become another user, root if not said"),
        click.option("--become-method", help="how to become it"),
        click.option("--become-user", help="whom to become"),
        click.option("--vault-id", multiple=True, help="vault identity"),
        click.option("--vault-password-file", multiple=True, help="file with a vault's password"),
        click.option("-k", "--ask-pass", is_flag=True, help="ask for the SSH password"),
        click.option("-K", "--ask-become-pass", is_flag=True, help="ask for the password to become another user"),
        click.option("-J", "--ask-vault-pass", is_flag=True, help="ask for the vault's password"),
        click.option(
            "--remote-dir", default="/var/cache/drakmet-fleet", show_default=True,
            help="folder on the hosts, made if it is not there; of one host: the variable drakmet_dir",
        ),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def fleet() -> None:
    """Scan many hosts by Ansible, into one file.

    Inventories, groups, jump hosts, vault and become work as they do in Ansible, with the ansible.cfg that it would
    take. Needs: pip install 'drakmet[fleet]' here, and Python 3.11 or later on the hosts.

    \b
    Example:
      drakmet fleet hosts -i xen.yml
      drakmet fleet scan -i xen.yml --limit 'rack1*' --run tonight
      drakmet fleet status tonight
    """


@fleet.command()
@ansible_options
@click.option("--run", "folder", type=_PATH, help="folder of the run, gone on with if it is there; default: a new one")
@click.option("--resume", type=_PATH, help="go on with this run, as it was asked for")
@click.option("--deadline", type=click.FloatRange(1), default=600.0, show_default=True, help="seconds for each host")
@click.option("--retries", type=click.IntRange(0, 10), default=1, show_default=True, help="for hosts that are down")
@click.option("--max-result", type=click.IntRange(1), default=512, show_default=True, help="MiB of a result")
@click.option("--live", is_flag=True, help="never pause a guest")
@click.option("--identity", type=_PATH, help="name code by this database, which the hosts are given")
@click.option("--remove", is_flag=True, help="leave nothing on the hosts; else the bundle stays for the next time")
@click.option("--no-rules", is_flag=True, help="judge nothing, only store")
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line: findings, hosts, a summary")
@rules_option
@plugins_option
def scan(**options: Any) -> None:
    """Scan all guests of all hosts, and merge what was found.

    Hosts get a self-contained bundle of drakmet, once; it is checked by its hash before each use. What a host sends
    back is taken as an attacker's would be. Each host ends with a row: done, or what was wrong. The same command with
    the same --run (or --resume) does what is left: hosts without a result, and guests that could not be read.
    Directories of plugins and a database of code pages go into the bundle; installed plugins do not.

    Exit codes: 0 clean, 1 findings, 3 a host or guest is missing, or not whole, 4 nothing could be scanned.

    \b
    Example:
      drakmet fleet scan -i xen.yml
      drakmet fleet scan -i xen.yml --limit rack1 --become --ask-become-pass --vault-id @prompt
      drakmet fleet scan -i xen.yml --identity pages.db --plugins-dir my-plugins
      drakmet fleet scan --resume drakmet-fleet-20261123-010000
    """
    from drakmet.fleet.play import require_ansible
    from drakmet.fleet.scanning import FleetScan
    from drakmet.plugins import load_plugins
    from drakmet.rules import bundled, load_rules
    from drakmet.scan import SCAN_RECORDS

    require_ansible()
    rules = None if options["no_rules"] else load_rules([bundled(), *options["paths"]])
    passwords = _passwords(options)
    run = _run(options, passwords)
    _note(f"{len(run.settings.hosts)} hosts, run {run.folder}")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "drakmet/fleet"
    # A bundle has the plugins that came with drakmet, and those of the directories that were given.
    plugins = load_plugins(run.settings.plugins)
    for plugin in plugins.failed:
        _note(f"plugin {plugin.name} is left out: {plugin.error} ({plugin.origin})")
    records = [*plugins.records, *SCAN_RECORDS]
    with _ended_by_signals(run):
        scanned = FleetScan(run, records, cache=cache, passwords=passwords, note=_note).scan(rules)
    _show(run, scanned, as_json=options["as_json"])
    raise SystemExit(scanned.exit_code)


@fleet.command()
@ansible_options
@output_options
def hosts(output: Format, **options: Any) -> None:
    """Say of each host whether it answers, and what it is; nothing is brought there.

    Ends with 3 if a host cannot be scanned.

    \b
    Example:
      drakmet fleet hosts -i xen.yml --limit rack1
    """
    from drakmet.fleet.look import look

    passwords = _passwords(options)
    rows = look(_arguments(options), Path.cwd(), options["remote_dir"], passwords)
    emit(rows, _HOSTS, output)
    good = [row["outcome"] == "ok" for row in rows]
    raise SystemExit(ExitCode.CLEAN if all(good) else ExitCode.PARTLY if any(good) else ExitCode.FAILED)


@fleet.command()
@click.argument("run", type=_PATH)
@output_options
def status(run: Path, output: Format) -> None:
    """Say how each host of a run ended, or that it was not come to yet.

    Ends with 3 if a host or a guest is missing.

    \b
    Example:
      drakmet fleet status tonight
    """
    from drakmet.fleet.runs import Run

    opened = Run.open(run)
    rows = [{name: row.get(name) for name in _STATUS} for row in opened.rows()]
    emit(rows, _STATUS, output)
    raise SystemExit(ExitCode.PARTLY if opened.left() else ExitCode.CLEAN)


@fleet.command("diff")
@click.argument("before", metavar="RUN1", type=_PATH)
@click.argument("after", metavar="RUN2", type=_PATH)
@click.option("--kind", "kinds", multiple=True, help="only this kind, such as process or finding (repeatable)")
@output_options
def diff(before: Path, after: Path, kinds: tuple[str, ...], output: Format) -> None:
    """Say what is new, gone or changed between two runs: processes, versions, findings and all else.

    Guests of a host that one of the runs could not read are "not known", with what was wrong with the host.

    Ends with 1 if there is a new finding, with 3 if something is not known.

    \b
    Example:
      drakmet fleet diff monday tuesday
      drakmet fleet diff monday tuesday --kind process --kind finding --json
    """
    from drakmet.fleet.runs import Run
    from drakmet.report.diff import COLUMNS, Side, compare
    from drakmet.report.facts import KINDS
    from drakmet.store import Reader

    if wrong := set(kinds) - {"guest", *KINDS}:
        raise UsageError(f"{wrong.pop()!r} is no kind", hint=f"Kinds: {', '.join(['guest', *KINDS])}.")
    runs = Run.open(before), Run.open(after)
    with Reader(runs[0].database) as old, Reader(runs[1].database) as new:
        rows = [change.row for change in compare(Side(old), Side(new), kinds or None)]
    missing = {"gone": runs[1].missing(), "new": runs[0].missing()}
    for row in rows:
        if row["kind"] == "guest" and (why := missing.get(row["change"], {}).get(row["host"])):
            row |= {"change": "not known", "note": why}
    if rows or output is not Format.TABLE:
        emit(rows, COLUMNS, output)
    else:
        click.echo("nothing is different")
    if any(row["kind"] == "finding" and row["change"] == "new" for row in rows):
        raise SystemExit(ExitCode.FINDINGS)
    raise SystemExit(ExitCode.PARTLY if any(row["change"] == "not known" for row in rows) else ExitCode.CLEAN)


def _run(options: dict[str, Any], passwords: dict[str, str]) -> Run:
    """Return the run that is meant: one to go on with, or a new one over the hosts that Ansible finds."""
    from drakmet.fleet.play import list_hosts
    from drakmet.fleet.runs import Run, Settings

    if options["resume"] is not None:
        if options["inventory"] or options["folder"]:
            raise UsageError("--resume goes on as it was asked for", hint="leave out --inventory and --run")
        return _told_anew(Run.open(options["resume"]), options)
    folder = options["folder"] or Path(f"drakmet-fleet-{time.strftime('%Y%m%d-%H%M%S')}")
    if Run.is_begun(folder):
        return _told_anew(Run.open(folder), options)
    arguments = _arguments(options)
    settings = Settings(
        arguments,
        str(Path.cwd()),
        remote=options["remote_dir"],
        deadline=options["deadline"],
        retries=options["retries"],
        longest=options["max_result"] << 20,
        live=options["live"],
        keep=not options["remove"],
        plugins=[str(one.absolute()) for one in options["plugins_dir"]],
        identity=str(options["identity"].absolute()) if options["identity"] else None,
    )
    _look_at_extras(settings)
    settings.hosts = list_hosts(_listing(arguments, passwords))
    return Run.begin(folder, settings)


def _look_at_extras(settings: Settings) -> None:
    """Refuse what would be refused on each host."""
    from drakmet.identity import Identities
    from drakmet.plugins import load_plugins

    load_plugins(settings.plugins)
    if settings.identity:
        with Identities.open(Path(settings.identity)):
            pass


def _told_anew(run: Run, options: dict[str, Any]) -> Run:
    """Take from the command line what may change while a run is gone on with."""
    source = click.get_current_context().get_parameter_source
    for name in ("deadline", "retries"):
        if source(name) is ParameterSource.COMMANDLINE:
            setattr(run.settings, name, options[name])
    return run


def _listing(arguments: list[str], passwords: dict[str, str]) -> Request:
    from drakmet.fleet.look import request

    return request(arguments, Path.cwd(), {}, passwords)


def _arguments(options: dict[str, Any]) -> list[str]:
    words = []
    for name in (*_VALUES, *_VALUES_TOO):
        given = options[name]
        for value in given if isinstance(given, tuple) else [] if given is None else [given]:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return [*words, *(f"--{name.replace('_', '-')}" for name in ("become", *_ASKED) if options[name])]


def _passwords(options: dict[str, Any]) -> dict[str, str]:
    return {
        pattern: click.prompt(text, hide_input=True, err=True)
        for name, (pattern, text) in _ASKED.items()
        if options[name]
    }


def _show(run: Run, scanned: Scanned, *, as_json: bool) -> None:
    if as_json:
        for finding in scanned.findings:
            sys.stdout.write(json_line({"table": "finding"} | _plain(finding)) + "\n")
        for row in scanned.hosts:
            sys.stdout.write(json_line({"table": "host"} | row) + "\n")
        summary = {
            "table": "summary",
            "run": str(run.folder),
            "database": str(run.database),
            "hosts": len(scanned.hosts),
            "missing": sum(row["outcome"] not in ("done", "gaps") for row in scanned.hosts),
            "findings": len(scanned.findings),
            "rule_faults": scanned.faults,
            "exit_code": int(scanned.exit_code),
        }
        sys.stdout.write(json_line(summary) + "\n")
        return
    emit([{name: row.get(name) for name in _STATUS} for row in scanned.hosts], _STATUS, Format.TABLE)
    places = run.places()
    for finding in scanned.findings:
        where = printable(places.get(finding.session, ""))
        click.echo(f"{finding.level:>13}  {where}: {printable(finding.message)} [{finding.rule}]")
    click.echo(f"{run.database}; {len(scanned.findings)} findings", err=True)
    for rule, reason in scanned.faults.items():
        click.echo(printable(f"rule {rule}: {reason}"), err=True)
    if run.left():
        click.echo(f"what is missing: drakmet fleet scan --resume {run.folder}", err=True)


def _plain(finding: Any) -> dict[str, Any]:
    import msgspec

    row: dict[str, Any] = msgspec.structs.asdict(finding)
    return row | {"rests_on": msgspec.json.decode(row["rests_on"])}


def _note(text: str) -> None:
    click.echo(f"fleet: {printable(text)}", err=True)


@contextmanager
def _ended_by_signals(run: Run) -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a run as Ctrl-C does, with Ansible, and say how to go on."""

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except KeyboardInterrupt:
        _note(f"go on with: drakmet fleet scan --resume {run.folder}")
        raise click.Abort from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
