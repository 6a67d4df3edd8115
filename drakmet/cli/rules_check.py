# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet rules new``, ``check``, ``test``, ``fmt`` and ``schema``: what a writer of rules needs."""

from __future__ import annotations

import datetime as dt
import os
import re
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from drakmet.cli.known import known_records, plugins_option
from drakmet.cli.output import Format, emit, json_line, output_options, printable
from drakmet.errors import ExitCode, RuleError, UsageError
from drakmet.rules import bundled, load_rules
from drakmet.rules.site import FILE
from drakmet.rules.words import did_you_mean

if TYPE_CHECKING:
    from drakmet.rules.format import RuleFile
    from drakmet.rules.issues import Issue

_PATHS = click.Path(path_type=Path)
_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")


@click.command()
@click.argument("paths", type=_PATHS, nargs=-1)
@click.option("--strict", is_flag=True, help="take warnings for errors")
@click.option("--sarif", "as_sarif", is_flag=True, help="a SARIF 2.1.0 log, for code hosts and editors")
@plugins_option
@output_options
def check(paths: tuple[Path, ...], strict: bool, as_sarif: bool, plugins_dir: tuple[Path, ...], output: Format) -> None:
    """Look for faults in rules: in their form, their SQL, and their tests.

    PATHS are rule files or directories; without any the bundled rules are checked. Ends with 2 if there is an error.

    \b
    Example:
      drakmet rules check my-rule.toml
      drakmet rules check site-rules/ --strict --sarif > rules.sarif
    """
    from drakmet.rules.check import Linter, check_site
    from drakmet.rules.issues import Issue, sarif
    from drakmet.rules.trial import Laboratory

    loaded = load_rules(paths or [bundled()], strict=False)
    # What a site says may be about bundled rules.
    whole = load_rules([bundled(), *paths], strict=False)
    errors_by_place = {(error.where, error.what): error for error in (*loaded.errors, *whole.errors)}
    issues = [Issue("error", "format", one.where or "", one.what, one.hint) for one in errors_by_place.values()]
    with closing(Linter(Laboratory(known_records(plugins_dir)), loaded.lists)) as linter:
        issues += [issue for file in loaded.files for issue in linter.check(file)]
    issues += check_site(loaded.site, [file.rule.id for file in whole.files], dt.datetime.now(dt.UTC).date())
    if as_sarif:
        click.echo(json_line(sarif(issues)))
    else:
        _emit_issues(issues, output)
    errors = sum(issue.level == "error" or strict for issue in issues)
    rest = f"{len(loaded.files) + len(loaded.errors)} rules, {errors} errors, {len(issues) - errors} warnings"
    click.echo(rest, err=True)
    raise SystemExit(ExitCode.USAGE if errors else ExitCode.CLEAN)


@click.command()
@click.argument("paths", type=_PATHS, nargs=-1)
@plugins_option
@output_options
def test(paths: tuple[Path, ...], plugins_dir: tuple[Path, ...], output: Format) -> None:
    """Run the tests that rules carry, all rows at once and row by row.

    PATHS are rule files or directories; without any the bundled rules are tested. Ends with 2 if a test fails.

    \b
    Example:
      drakmet rules test my-rule.toml
    """
    from drakmet.rules.trial import Laboratory

    loaded = load_rules(paths or [bundled()])
    laboratory = Laboratory(known_records(plugins_dir))
    verdicts = [verdict for file in loaded.files for verdict in laboratory.try_rule(file, loaded.lists)]
    failed = [verdict for verdict in verdicts if verdict.fault]
    if output is Format.TABLE:
        for verdict in failed:
            click.echo(printable(f"{verdict.where}: {verdict.rule}: {verdict.test}"))
            click.echo(printable(f"  {verdict.fault}"))
    else:
        emit([asdict(verdict) for verdict in verdicts], ["rule", "test", "where", "fault"], output)
    click.echo(f"{len(loaded.files)} rules, {len(verdicts)} tests, {len(failed)} failed", err=True)
    raise SystemExit(ExitCode.USAGE if failed else ExitCode.CLEAN)


@click.command()
@click.argument("paths", type=_PATHS, nargs=-1, required=True)
@click.option("--check", "only_check", is_flag=True, help="change nothing, and end with 2 if something would change")
def fmt(paths: tuple[Path, ...], only_check: bool) -> None:
    """Bring rule files into the one form.

    Keys come into the order of the bundled rules, ATT&CK ids get their names, blanks at the ends of lines go. Comments
    stay with what follows them. What a rule means is not changed.

    \b
    Example:
      drakmet rules fmt my-rule.toml
      drakmet rules fmt --check site-rules/
    """
    from drakmet.rules.fmt import formatted

    changed = 0
    files = load_rules(paths).files
    for file in files:
        text = formatted(file)
        if text == file.text:
            continue
        changed += 1
        click.echo(f"{file.path}: {'would be' if only_check else 'was'} changed")
        if not only_check:
            _replace(file, text)
    click.echo(f"{len(files)} rules, {changed} {'to change' if only_check else 'changed'}", err=True)
    raise SystemExit(ExitCode.USAGE if changed and only_check else ExitCode.CLEAN)


@click.command()
@click.argument("name", metavar="ID")
@click.option("--from", "table", default="process_start", show_default=True, help="the table of events to judge")
@click.option("--directory", type=_PATHS, default=Path(), help="where to write it (default: here)")
@plugins_option
def new(name: str, table: str, directory: Path, plugins_dir: tuple[Path, ...]) -> None:
    """Write the start of a rule, which passes check and test.

    \b
    Example:
      drakmet rules new my-rule --from file_open
      drakmet rules check my-rule.toml && drakmet rules test my-rule.toml
    """
    from drakmet.rules.starter import starter, suitable

    if not _ID.fullmatch(name) or f"{name}.toml" == FILE:
        raise UsageError(f"{name!r} cannot be a rule's id", hint="take small letters, digits and hyphens")
    records = {record.table: record for record in known_records(plugins_dir) if suitable(record)}
    if table not in records:
        raise UsageError(f"there is no table of events {table}", hint=did_you_mean(table, records))
    path = directory / f"{name}.toml"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(starter(name, records[table]))
    except FileExistsError as error:
        raise UsageError("the file is there already", where=str(path), hint="choose another id") from error
    except OSError as error:
        raise RuleError(error.strerror or str(error), where=str(path)) from error
    click.echo(f"{path} is written; it passes `drakmet rules check {path}` and `drakmet rules test {path}`.")


@click.command()
def schema() -> None:
    """Print the JSON Schema of rule files, for editors.

    \b
    Example:
      drakmet rules schema > rule.schema.json
    """
    import json

    from drakmet.rules.jsonschema import schema as make

    click.echo(json.dumps(make(), indent=2))


def _replace(file: RuleFile, text: str) -> None:
    fresh = file.path.with_name(f".{file.path.name}.new")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.chmod(file.path.stat().st_mode)
        os.replace(fresh, file.path)  # noqa: PTH105 - says what it does
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise RuleError(error.strerror or str(error), where=str(file.path)) from error


def _emit_issues(issues: list[Issue], output: Format) -> None:
    if output is not Format.TABLE:
        emit([asdict(issue) for issue in issues], ["level", "code", "where", "text", "hint"], output)
        return
    for issue in issues:
        click.echo(printable(f"{issue.where}: {issue.level}: {issue.text} [{issue.code}]"))
        if issue.hint:
            click.echo(printable(f"  {issue.hint}"))
