# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet rules``: list, show, check, test and run rules."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from drakmet.cli.known import known_records, plugins_option, rules_option
from drakmet.cli.output import Format, emit, output_options
from drakmet.errors import ExitCode, UsageError
from drakmet.rules import RuleSet, State, bundled, judge, load_rules
from drakmet.rules.format import LEVELS
from drakmet.rules.words import did_you_mean
from drakmet.store.functions import utc

if TYPE_CHECKING:
    from drakmet.records import Finding
    from drakmet.rules.issues import Issue

_PATHS = click.Path(path_type=Path)


@click.group(short_help="List, check, test and run rules.")
def rules() -> None:
    """List, check, test and run rules.

    A rule is a TOML file: what it means, one SELECT over the tables of records, and tests. The bundled ones are
    examples.
    """


@rules.command("list")
@rules_option
@output_options
def list_rules(paths: tuple[Path, ...], output: Format) -> None:
    """List the rules.

    \b
    Example:
      drakmet rules list
      drakmet rules list --rules site-rules/ --json
    """
    loaded = load_rules([bundled(), *paths])
    rows = [
        {
            "id": rule.id,
            "level": rule.level,
            "status": rule.status,
            "from": " ".join(rule.triggers),
            "attack": " ".join(rule.attack),
            "title": rule.title,
        }
        for rule in sorted(loaded.rules, key=lambda rule: rule.id)
    ]
    emit(rows, ["id", "level", "status", "from", "attack", "title"], output)


@rules.command()
@click.argument("rule_id", metavar="ID")
@rules_option
def show(rule_id: str, paths: tuple[Path, ...]) -> None:
    """Show a rule's file.

    \b
    Example:
      drakmet rules show port-scan
    """
    loaded = load_rules([bundled(), *paths])
    for file in loaded.files:
        if file.rule.id == rule_id:
            click.echo(f"# {file.path}")
            click.echo(file.text, nl=False)
            return
    raise _no_rule(rule_id, loaded)


@rules.command()
@click.argument("paths", type=_PATHS, nargs=-1)
@click.option("--strict", is_flag=True, help="take warnings for errors")
@plugins_option
@output_options
def check(paths: tuple[Path, ...], strict: bool, plugins_dir: tuple[Path, ...], output: Format) -> None:
    """Look for faults in rules: in their form, their SQL, and their tests.

    PATHS are rule files or directories; without any the bundled rules are checked. Ends with 2 if there is an error.

    \b
    Example:
      drakmet rules check my-rule.toml
    """
    from drakmet.rules.check import Linter
    from drakmet.rules.issues import Issue
    from drakmet.rules.trial import Laboratory

    loaded = load_rules(paths or [bundled()], strict=False)
    issues = [Issue("error", "format", error.where or "", error.what, error.hint) for error in loaded.errors]
    with closing(Linter(Laboratory(known_records(plugins_dir)), loaded.lists)) as linter:
        issues += [issue for file in loaded.files for issue in linter.check(file)]
    _emit_issues(issues, output)
    errors = sum(issue.level == "error" or strict for issue in issues)
    rest = f"{len(loaded.files) + len(loaded.errors)} rules, {errors} errors, {len(issues) - errors} warnings"
    click.echo(rest, err=True)
    raise SystemExit(ExitCode.USAGE if errors else ExitCode.CLEAN)


@rules.command()
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
            click.echo(f"{verdict.where}: {verdict.rule}: {verdict.test}\n  {verdict.fault}")
    else:
        emit([asdict(verdict) for verdict in verdicts], ["rule", "test", "where", "fault"], output)
    click.echo(f"{len(loaded.files)} rules, {len(verdicts)} tests, {len(failed)} failed", err=True)
    raise SystemExit(ExitCode.USAGE if failed else ExitCode.CLEAN)


@rules.command()
@click.argument("file", type=_PATHS)
@click.option("--rule", "only", metavar="ID", multiple=True, help="only this rule (may be given several times)")
@click.option("--level", type=click.Choice(LEVELS), help="only rules of this level or above")
@click.option("--outcomes", is_flag=True, help="show what became of each rule instead of the findings")
@click.option("--save", is_flag=True, help="keep findings that are new in the file's table of findings")
@rules_option
@output_options
def run(file: Path, only: tuple[str, ...], level: str | None, outcomes: bool, save: bool, **options: Any) -> None:
    """Judge a file with the rules.

    Ends with 1 if there are findings, and with 3 if there are none but some rules could not be evaluated.

    \b
    Example:
      drakmet rules run run.db
      drakmet rules run run.db --rule port-scan --json
      drakmet rules run run.db --outcomes
    """
    output: Format = options["output"]
    loaded = load_rules([bundled(), *options["paths"]])
    known = {rule.id for rule in loaded.rules}
    for name in only:
        if name not in known:
            raise _no_rule(name, loaded)
    least = LEVELS.index(level) if level else 0
    chosen = [r for r in loaded.rules if (not only or r.id in only) and LEVELS.index(r.level) >= least]
    findings, ends = judge(file, chosen, loaded.lists, loaded.site.exceptions)
    if save:
        click.echo(f"{_save(file, findings)} findings were new and are kept", err=True)
    if outcomes:
        rows = [asdict(end) | {"state": end.state.value} for end in ends]
        emit(rows, ["rule", "session", "state", "findings", "reason"], output)
    else:
        findings.sort(key=lambda finding: (finding.session or 0, finding.time))
        emit([_finding(finding) for finding in findings], _FINDING[: 5 if output is Format.TABLE else None], output)
    counts = {state: sum(end.state is state for end in ends) for state in State}
    click.echo(", ".join(f"{count} {state.value}" for state, count in counts.items() if count), err=True)
    unknown = counts[State.NOT_EVALUATED] + counts[State.NOT_KNOWN]
    raise SystemExit(ExitCode.FINDINGS if findings else ExitCode.PARTLY if unknown else ExitCode.CLEAN)


_FINDING = ["session", "when", "level", "rule", "message", "title", "process", "rests_on"]


def _save(file: Path, findings: list[Finding]) -> int:
    from drakmet.store import Reader, Writer

    with Reader(file) as reader:
        _, rows = reader.select("SELECT session, rule, rests_on FROM finding")
        known = {(row["session"], row["rule"], row["rests_on"]) for row in rows}
    fresh = [finding for finding in findings if (finding.session, finding.rule, finding.rests_on) not in known]
    if fresh:
        with Writer(file) as writer:
            for finding in fresh:
                writer.put(finding)
    return len(fresh)


def _finding(finding: Finding) -> dict[str, Any]:
    import msgspec

    row: dict[str, Any] = msgspec.structs.asdict(finding)
    row["rests_on"] = msgspec.json.decode(row["rests_on"])
    return row | {"when": utc(row["time"])}


def _emit_issues(issues: list[Issue], output: Format) -> None:
    if output is not Format.TABLE:
        emit([asdict(issue) for issue in issues], ["level", "code", "where", "text", "hint"], output)
        return
    for issue in issues:
        click.echo(f"{issue.where}: {issue.level}: {issue.text} [{issue.code}]")
        if issue.hint:
            click.echo(f"  {issue.hint}")


def _no_rule(rule_id: str, loaded: RuleSet) -> UsageError:
    return UsageError(f"there is no rule {rule_id}", hint=did_you_mean(rule_id, [rule.id for rule in loaded.rules]))
