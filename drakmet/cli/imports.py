# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet import``: logs of DRAKVUF into a file of ours, with the same rules over them."""

from __future__ import annotations

import gc
import itertools
import sys
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from drakmet.cli.known import plugins_option, rules_option
from drakmet.cli.output import Format, emit, json_line, printable
from drakmet.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from drakmet.drakvuf.importer import Imported
    from drakmet.drakvuf.rows import Tally
    from drakmet.records import Finding
    from drakmet.sources.drakvuf import DrakvufSource
    from drakmet.store import Writer

_PATH = click.Path(path_type=Path)
_FEWER_LOOKS = 200_000
_ABOUT = ("host", "guest", "os", "uuid", "kernel")


@click.command("import", short_help="Store a DRAKVUF log and judge it by the rules.")
@click.argument("log", metavar="FILE")
@click.option("--db", "database", type=_PATH, help="file to store in; the default bears the log's name")
@click.option("--host", help="the Xen host that the log comes from; no line of it says so")
@click.option("--guest", help="the guest that it is about; the default is the log's name")
@click.option("--os", "system", type=click.Choice(["linux", "windows"]), help="what the guest runs; else it is seen")
@click.option("--about", type=_PATH, help="a TOML file that says host, guest, os, uuid, kernel; the default: FILE.toml")
@click.option("--again", is_flag=True, help="store it even if the file has it already")
@click.option("--no-rules", is_flag=True, help="judge nothing, only store")
@click.option("--json", "as_json", is_flag=True, help="the summary, and the findings, as one JSON object")
@plugins_option
@rules_option
@click.pass_context
def import_(ctx: click.Context, /, log: str, database: Path | None, *, as_json: bool, **options: Any) -> None:
    """Store a DRAKVUF log and judge it by the rules.

    FILE is what `drakvuf -o json` wrote, plain or compressed (gzip, Zstandard); a directory in which DRAKVUF Sandbox
    has split it into PLUGIN.log files; or - for standard input, which may still grow. Each line becomes a row of its
    plugin's table, complete; where it means the same as a record of drakmet's own, it becomes that as well. What is no
    whole line is kept in drakmet_quarantine with the reason. Importing the same log again stores nothing.

    \b
    Example:
      drakmet import drakmon.log --guest win10 --host xen3
      drakmet import drakmon.log.gz --db win10.db --no-rules --json
      drakvuf -r kernel.json -d web1 -o json | drakmet import - --guest web1 --db web1.db
    """
    from drakmet.sources.drakvuf import DrakvufSource

    source = DrakvufSource(log.removeprefix("drakvuf:"))
    about = _about(log, options)
    path = database or Path(f"{_name(log)}.db")
    imported = _Import(source, path, about, options).run()
    if as_json:
        sys.stdout.write(json_line(imported) + "\n")
    else:
        _show(imported)
    ctx.exit(int(imported["exit"]))


class _Import:
    """One import."""

    def __init__(self, source: DrakvufSource, path: Path, about: dict[str, str], options: dict[str, Any]) -> None:
        self.source = source
        self.path = path
        self.about = about
        self.options = options
        self.findings: list[Finding] = []
        self._begun = time.monotonic()
        self._told = self._begun

    def run(self) -> dict[str, Any]:
        """Import, judge, and return the summary."""
        from drakmet.cli.known import known_records
        from drakmet.store import Writer

        if not self.options["again"] and not self.source.live and (known := self._known()):
            return {"already_imported": known, "database": str(self.path), "exit": ExitCode.CLEAN}
        own = known_records(self.options["plugins_dir"])
        with Writer(self.path, own) as writer:
            return self._into(writer, own)

    def _into(self, writer: Writer, own: list[Any]) -> dict[str, Any]:
        from drakmet.drakvuf.importer import Importer, covered, system

        blocks = self.source.blocks()
        first = next(blocks, b"")
        seen = self.about.get("os") or system(first)
        session = writer.begin_session(
            host=self.about.get("host", "unknown"),
            guest=self.about.get("guest", "unknown"),
            source=self.source.uri,
            os=seen,
            uuid=self.about.get("uuid"),
            kernel=self.about.get("kernel"),
        )
        judging = self._judge(writer, session.session)
        # Rows hold no cycles; looking for some among tens of thousands is a tenth of the time.
        pace = gc.get_threshold()
        gc.set_threshold(_FEWER_LOOKS, *pace[1:])
        importer = Importer(writer, session.session, session.next_process, own, system=seen)
        outcome = "it was cut off"
        try:
            imported = importer.run(itertools.chain([first], blocks), self._tick)
            for coverage in covered(imported, session.session):
                writer.put(coverage)
            outcome = "; ".join(["done", *self.source.faults])
        except KeyboardInterrupt:
            imported = importer.finish()
            outcome = "stopped"
        finally:
            gc.set_threshold(*pace)
            done = outcome.startswith("done")
            content = self.source.content() if done else None
            # What the log is about ended with it, however long ago, and not when it is stored.
            begin, end = importer.begin or 0, importer.end or 0
            writer.end_session(session.session, outcome, begin=begin, end=end, content=content)
        rules = judging.finish() if judging else []
        writer.flush()
        return self._summary(imported, outcome, seen, rules, writer)

    def _judge(self, writer: Writer, session: int) -> Any:
        if self.options["no_rules"]:
            return None
        from drakmet.cli.judging import Judge
        from drakmet.rules import bundled, load_rules

        def found(finding: Finding) -> None:
            writer.put(finding)
            self.findings.append(finding)

        return Judge(self.path, load_rules([bundled(), *self.options["paths"]]), found, session=session)

    def _known(self) -> str | None:
        """Return when the same log was imported, if it was."""
        from drakmet.store import Reader

        if not self.path.exists() or not self.path.stat().st_size:
            return None
        with Reader(self.path) as reader:
            if not any(
                c.name == "content" for table in reader.tables() if table.name == "session" for c in table.columns
            ):
                return None
            _, rows = reader.select("SELECT content, source FROM session WHERE content IS NOT NULL")
            contents = {row["content"]: row["source"] for row in rows}
        return contents.get(self.source.known_by()) if contents else None

    def _tick(self, tally: Tally) -> None:
        now = time.monotonic()
        if now - self._told > 2:
            self._told = now
            speed = tally.lines / (now - self._begun)
            click.echo(f"drakmet: {tally.lines} lines, {speed:.0f} a second", err=True)

    def _summary(
        self, imported: Imported, outcome: str, seen: str | None, rules: list[Any], writer: Writer
    ) -> dict[str, Any]:
        tally = imported.tally
        lost = max(0, writer.quarantined - tally.quarantined)
        partly = tally.quarantined or lost or self.source.faults or outcome == "stopped"
        unknown = sorted({one.rule for one in rules if one.state.value in ("not known", "not evaluated")})
        return {
            "outcome": outcome,
            "database": str(self.path),
            "os": seen,
            "seconds": round(time.monotonic() - self._begun, 3),
            "bytes": tally.bytes,
            "lines": tally.lines,
            "records": tally.records - lost,
            "quarantined": tally.quarantined + lost,
            "blank": tally.blank,
            "joined": tally.joined,
            "parted": tally.parted,
            "balanced": tally.balanced,
            "backwards": tally.backwards,
            "by_plugin": dict(tally.by_plugin.most_common()),
            "reasons": dict(tally.reasons),
            "own_records": imported.own,
            "processes": imported.processes,
            "skipped": self.source.skipped,
            "rules_not_evaluated": unknown,
            "findings": [
                {"time": f.time, "level": f.level, "rule": f.rule, "message": f.message} for f in self.findings
            ],
            "exit": ExitCode.FINDINGS if self.findings else ExitCode.PARTLY if partly else ExitCode.CLEAN,
        }


def _show(imported: dict[str, Any]) -> None:
    if "already_imported" in imported:
        where = printable(imported["already_imported"])
        click.echo(f"already imported from {where} into {imported['database']}; --again stores it once more")
        return
    for finding in imported["findings"]:
        click.echo(f"{finding['level']:<13} {finding['rule']}: {printable(finding['message'])}")
    rows = [{"plugin": plugin or "others", "records": count} for plugin, count in imported["by_plugin"].items()]
    emit(rows, ["plugin", "records"], Format.TABLE)
    parts = [f"{imported['records']} records", f"{imported['quarantined']} quarantined"]
    for name, text in (("blank", "blank"), ("joined", "that go on with the line before")):
        if imported[name]:
            parts.append(f"{imported[name]} {text}")
    parted = f" + {imported['parted']} that share a line" if imported["parted"] else ""
    sums = f"{imported['lines']} lines{parted} = {' + '.join(parts)}"
    click.echo(f"\n{sums}" + ("" if imported["balanced"] else "; the sums do not come out: please report this"))
    for reason, count in imported["reasons"].items():
        click.echo(f"  quarantined {count}: {reason}")
    if imported["own_records"]:
        made = ", ".join(f"{table} {count}" for table, count in sorted(imported["own_records"].items()))
        click.echo(f"of these also: {made}; {imported['processes']} process rows")
    if imported["backwards"]:
        click.echo(f"{imported['backwards']} times the clock goes back; the lines are stored in the log's order")
    for name in imported["skipped"]:
        click.echo(f"left out, as it is no log of DRAKVUF's: {printable(name)}", err=True)
    if imported["rules_not_evaluated"]:
        names = ", ".join(imported["rules_not_evaluated"])
        click.echo(f"{len(imported['rules_not_evaluated'])} rules are not known or not evaluated: {names}")
    click.echo(f"{imported['outcome']} in {imported['seconds']:.1f} s; {len(imported['findings'])} findings, stored in "
               f"{imported['database']}")  # fmt: skip


def _about(log: str, options: dict[str, Any]) -> dict[str, str]:
    """Return what the options and the file beside the log say of it."""
    beside = options["about"] or Path(log.removeprefix("drakvuf:") + ".toml")
    found: dict[str, str] = {"guest": _name(log)}
    if options["about"] or beside.is_file():
        try:
            told = tomllib.loads(beside.read_text())
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot read what the log is about: {error}", where=str(beside)) from error
        for name, value in told.items():
            if name not in _ABOUT or not isinstance(value, str):
                raise UsageError(f"{name} cannot be told so", where=str(beside), hint=f"strings: {', '.join(_ABOUT)}")
            found[name] = value
    given = {"host": options["host"], "guest": options["guest"], "os": options["system"]}
    found |= {name: value for name, value in given.items() if value is not None}
    if found.get("os") not in (None, "linux", "windows"):
        raise UsageError("os must be linux or windows", where=str(beside))
    return found


def _name(log: str) -> str:
    name = Path(log.removeprefix("drakvuf:").rstrip("/")).name
    for ending in (".gz", ".zst", ".log", ".json", ".jsonl"):
        name = name.removesuffix(ending)
    return name if name not in ("", "-") else "drakvuf"
