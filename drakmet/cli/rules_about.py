# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet rules explain`` and ``coverage``: what a finding rests on, and what rules look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from drakmet.cli.known import known_records, plugins_option, rules_option
from drakmet.cli.output import Format, emit, json_line, output_options, printable
from drakmet.errors import UsageError
from drakmet.rules import bundled, load_rules
from drakmet.store.functions import utc

if TYPE_CHECKING:
    from drakmet.rules.format import RuleFile

_WIDEST = 2_000


@click.command()
@click.argument("finding", metavar="FILE:NUMBER")
@click.option("--json", "as_json", is_flag=True, help="one JSON object")
@rules_option
def explain(finding: str, as_json: bool, paths: tuple[Path, ...]) -> None:
    """Explain a finding: the rows it rests on, the rule, and how to silence it.

    FILE is what drakmet wrote, NUMBER the finding's number in it; `drakmet rules run FILE --save` shows the numbers.

    \b
    Example:
      drakmet rules explain run.db:3
    """
    from drakmet.rules import explain as about
    from drakmet.store import Reader

    file, _, number = finding.rpartition(":")
    if not file or not number.isdecimal() or len(number) > 18:
        raise UsageError(f"{finding!r} names no finding", hint="write FILE:NUMBER, such as run.db:3")
    with Reader(Path(file)) as reader:
        row = about.finding_row(reader, int(number))
        if row is None:
            hint = f"`drakmet rules run {file} --save` keeps findings and shows their numbers"
            raise UsageError(f"there is no finding {number}", where=file, hint=hint)
        rows = about.rows_of(reader, row)
    loaded = load_rules([bundled(), *paths], strict=False)
    rule_file = next((one for one in loaded.files if one.rule.id == row["rule"]), None)
    site = (paths[-1] if paths and paths[-1].is_dir() else Path("my-rules")) / "site.toml"
    silence = {"file": str(site), "exception": about.exception(row, rows)}
    if rule_file and (parameters := about.parameters(loaded.site.apply(rule_file.rule))):
        silence["parameters"] = parameters
    if as_json:
        row["time"], row["found"] = utc(row["time"]), utc(row["found"])
        rule = _described(rule_file) if rule_file else None
        click.echo(json_line({"finding": row, "rows": rows, "rule": rule, "silence": silence}))
        return
    _tell(row, rows, rule_file, silence)


@click.command()
@click.option("--kind", type=click.Choice(["technique", "tactic", "table"]), help="only these")
@click.option("--unused", is_flag=True, help="only what no rule is about")
@rules_option
@plugins_option
@output_options
def coverage(
    kind: str | None, unused: bool, paths: tuple[Path, ...], plugins_dir: tuple[Path, ...], output: Format
) -> None:
    """Show which ATT&CK techniques rules are about, and which tables of records none uses.

    \b
    Example:
      drakmet rules coverage
      drakmet rules coverage --kind table --unused
    """
    from drakmet.rules.usage import by_table, by_technique

    rules = load_rules([bundled(), *paths]).rules
    rows = [*by_technique(rules), *by_table(rules, known_records(plugins_dir))]
    rows = [row for row in rows if kind in (None, row["kind"]) and not (unused and row["rules"])]
    if output is Format.TABLE:
        rows = [row | {"tactics": ", ".join(row["tactics"]), "rules": " ".join(row["rules"]) or "-"} for row in rows]
    emit(rows, ["kind", "id", "name", "tactics", "rules"], output)


def _described(file: RuleFile) -> dict[str, Any]:
    rule = file.rule
    names = ("id", "title", "level", "status", "description", "attack", "references", "false_positives", "sql")
    return {"file": str(file.path), **{name: getattr(rule, name) for name in names}}


def _tell(row: dict[str, Any], rows: list[dict[str, Any]], file: RuleFile | None, silence: dict[str, str]) -> None:
    where = f"on {printable(row['guest'])} " if row["guest"] else ""
    click.echo(f"{row['level']}: {printable(row['title'])} ({printable(row['rule'])})")
    click.echo(f"{utc(row['time'])} {where}{printable(row['message'])}")
    if row.get("coverage"):
        click.echo(f"What was seen of such things: {printable(row['coverage'])}")
    click.echo("\nIt rests on:")
    for one in rows:
        click.echo(f"  {printable(one['table'])} {one['id']}" + ("" if one["row"] else ": no such row"))
        for name, value in (one["row"] or {}).items():
            shown = utc(value) if name == "time" else value
            click.echo(f"    {name:<14} {printable(shown)[:_WIDEST]}")
    click.echo("\nThe rule:")
    if file is None:
        click.echo("  it is not among those that are here; give its directory with --rules")
    else:
        click.echo(f"  {file.path}")
        for text in (file.rule.description.strip(), *file.rule.attack):
            click.echo("".join(f"  {line}\n" for line in text.splitlines()), nl=False)
        for name, texts in {"harmless may be": file.rule.false_positives, "see": file.rule.references}.items():
            click.echo("".join(f"  {name}: {text}\n" for text in texts), nl=False)
        click.echo("".join(f"    {line}\n" for line in file.rule.sql.strip().splitlines()), nl=False)
    click.echo(f"\nTo silence it, if it is harmless, write into {silence['file']}:\n")
    click.echo(silence["exception"])
    if "parameters" in silence:
        click.echo(f"\nor other parameters for the rule:\n\n{silence['parameters']}")
