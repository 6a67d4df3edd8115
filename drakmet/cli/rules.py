# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet rules``: the group, and to list, show and run rules."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from drakmet.cli.known import rules_option
from drakmet.cli.output import Format, emit, output_options, printable
from drakmet.cli.rules_about import coverage, explain
from drakmet.cli.rules_check import check, fmt, new, schema, test
from drakmet.cli.rules_import import import_rules
from drakmet.errors import ExitCode, UsageError
from drakmet.rules import RuleSet, State, bundled, judge, load_rules
from drakmet.rules.format import LEVELS
from drakmet.rules.words import did_you_mean
from drakmet.store.functions import utc

if TYPE_CHECKING:
    from drakmet.records import Finding
    from drakmet.rules import Outcome, Rule

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
@click.argument("files", type=_PATHS, nargs=-1, required=True)
@click.option("--rule", "only", metavar="ID", multiple=True, help="only this rule (may be given several times)")
@click.option("--level", type=click.Choice(LEVELS), help="only rules of this level or above")
@click.option("--outcomes", is_flag=True, help="show what became of each rule instead of the findings")
@click.option("--save", is_flag=True, help="keep findings that are new in the file's table of findings")
@rules_option
@output_options
def run(
    files: tuple[Path, ...], only: tuple[str, ...], level: str | None, outcomes: bool, save: bool, **options: Any
) -> None:
    """Judge files with the rules.

    A directory is one that `drakmet export --format parquet` wrote; DuckDB judges it, and rules that it cannot judge
    are named (needs: pip install 'drakmet[parquet]').

    Ends with 1 if there are findings, and with 3 if there are none but some rules could not be evaluated. A finding's
    number, which `drakmet rules explain` takes, is known once it is kept in the file.

    \b
    Example:
      drakmet rules run run.db
      drakmet rules run run.db --rule port-scan --json
      drakmet rules run *.db --outcomes
    """
    output: Format = options["output"]
    loaded = load_rules([bundled(), *options["paths"]])
    chosen = _chosen(loaded, only, level)
    shown: list[dict[str, Any]] = []
    counts: Counter[State] = Counter()
    excepted = 0
    faulty: dict[str, Outcome] = {}
    for file in files:
        if file.is_dir():
            findings, ends = _judge_parquet(file, chosen, loaded, save=save)
        else:
            findings, ends = judge(file, chosen, loaded.lists, loaded.site.exceptions, where=loaded.where)
        if save:
            click.echo(f"{file}: {_save(file, findings)} findings were new and are kept", err=True)
        counts.update(end.state for end in ends)
        excepted += sum(end.excepted for end in ends)
        faulty |= {end.rule: end for end in ends if end.faulty}
        if outcomes:
            shown += [{"file": str(file)} | asdict(end) | {"state": end.state.value} for end in ends]
        else:
            findings.sort(key=lambda finding: (finding.session or 0, finding.time))
            numbers = {} if file.is_dir() else _numbers(file)
            shown += [{"file": str(file)} | _finding(finding, numbers) for finding in findings]
    columns = _OUTCOME if outcomes else _FINDING[:6] if output is Format.TABLE else _FINDING
    emit(shown, [*(["file"] if len(files) > 1 else []), *columns], output)
    for end in faulty.values():
        click.echo(printable(f"rule {end.rule}: {end.reason}"), err=True)
    told = [f"{counts[state]} {state.value}" for state in State if counts[state]]
    told += [f"{excepted} findings under the site's exceptions"] if excepted else []
    click.echo(", ".join(told), err=True)
    unknown = counts[State.NOT_EVALUATED] + counts[State.NOT_KNOWN]
    found = counts[State.FIRED]
    raise SystemExit(ExitCode.FINDINGS if found else ExitCode.PARTLY if unknown else ExitCode.CLEAN)


_OUTCOME = ["rule", "session", "state", "findings", "excepted", "reason"]
_FINDING = ["number", "session", "when", "level", "rule", "message", "title", "process", "rests_on", "coverage"]


def _judge_parquet(
    folder: Path, chosen: list[Rule], loaded: RuleSet, *, save: bool
) -> tuple[list[Finding], list[Outcome]]:
    """Judge Parquet. What a rule did not find is not known there, as coverage is not looked at."""
    from drakmet.rules import Outcome, duck

    if save:
        raise UsageError("findings are kept in files of SQLite only", where=str(folder), hint="leave out --save")
    excepted = {rule.id for rule in chosen if any(one.concerns(rule.id) for one in loaded.site.exceptions)}
    findings, unable = duck.judge(folder, [rule for rule in chosen if rule.id not in excepted], loaded.lists)
    unable |= dict.fromkeys(excepted, "the site has exceptions for it")
    counts = Counter(finding.rule for finding in findings)
    ends = []
    for rule in chosen:
        why = unable.get(rule.id)
        state = State.FIRED if counts[rule.id] else State.NOT_EVALUATED if why else State.NOT_KNOWN
        ends.append(Outcome(rule.id, None, state, counts[rule.id], why, faulty=why is not None))
    return findings, ends


def _chosen(loaded: RuleSet, only: tuple[str, ...], level: str | None) -> list[Rule]:
    known = {rule.id for rule in loaded.rules}
    for name in only:
        if name not in known:
            raise _no_rule(name, loaded)
    least = LEVELS.index(level) if level else 0
    return [rule for rule in loaded.rules if (not only or rule.id in only) and LEVELS.index(rule.level) >= least]


def _numbers(file: Path) -> dict[tuple[Any, ...], int]:
    from drakmet.store import Reader

    with Reader(file) as reader:
        _, rows = reader.select("SELECT id, session, rule, rests_on FROM finding")
        return {(row["session"], row["rule"], row["rests_on"]): row["id"] for row in rows}


def _save(file: Path, findings: list[Finding]) -> int:
    from drakmet.store import Writer

    known = _numbers(file)
    fresh = [finding for finding in findings if (finding.session, finding.rule, finding.rests_on) not in known]
    if fresh:
        with Writer(file) as writer:
            for finding in fresh:
                writer.put(finding)
    return len(fresh)


def _finding(finding: Finding, numbers: dict[tuple[Any, ...], int]) -> dict[str, Any]:
    import msgspec

    row: dict[str, Any] = msgspec.structs.asdict(finding)
    row["number"] = numbers.get((finding.session, finding.rule, finding.rests_on))
    row["rests_on"] = msgspec.json.decode(row["rests_on"])
    return row | {"when": utc(row["time"])}


def _no_rule(rule_id: str, loaded: RuleSet) -> UsageError:
    return UsageError(f"there is no rule {rule_id}", hint=did_you_mean(rule_id, [rule.id for rule in loaded.rules]))


for _command in (check, coverage, explain, fmt, import_rules, new, schema, test):
    rules.add_command(_command)
