# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet rules import sigma``: other people's rules made rules of our own."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from drakmet.cli.known import known_records, plugins_option
from drakmet.cli.output import Format, emit, output_options
from drakmet.errors import ExitCode, RuleError, UsageError
from drakmet.rules import bundled

if TYPE_CHECKING:
    from drakmet.rules.lists import List
    from drakmet.rules.sigma.importer import Entry

_BETWEEN = 2.0
_PATHS = click.Path(path_type=Path)
_COLUMNS = ["where", "state", "kind", "rule", "reason"]


@click.group("import", short_help="Make rules out of rules in other formats.")
def import_rules() -> None:
    """Make rules out of rules in other formats."""


@import_rules.command("sigma")
@click.argument("paths", metavar="DIR...", type=_PATHS, nargs=-1, required=True)
@click.option("--output", "to", type=_PATHS, required=True, help="the directory to write rule files into")
@click.option("--outdated", is_flag=True, help="import rules that are deprecated or unsupported as well")
@click.option("--dry-run", is_flag=True, help="write nothing, only tell what would become of each rule")
@click.option("--summary", is_flag=True, help="count by log source and reason instead of telling of each rule")
@plugins_option
@output_options
def sigma(
    paths: tuple[Path, ...],
    to: Path,
    outdated: bool,
    dry_run: bool,
    summary: bool,
    plugins_dir: tuple[Path, ...],
    output: Format,
) -> None:
    """Make rules out of Sigma rules.

    DIR are directories of Sigma rules (*.yml, with all below them) or single files; filters and correlations are taken
    with the rules that they are about, so give them together. Each rule becomes a file with SQL and tests, which is
    tried before it is written; what could not be mapped stands in its notes. Ends with 0 if all rules were imported,
    with 3 if some were refused, with 2 if all were.

    \b
    Example:
      drakmet rules import sigma sigma/rules/linux --output site-rules
      drakmet rules import sigma sigma/rules/windows --output site-rules --summary
      drakmet rules check site-rules && drakmet watch xen:web1 --rules site-rules
    """
    try:
        from drakmet.rules.sigma.importer import IMPORTED, PART, REFUSED, convert_rules, read_rules, sigma_files
    except ImportError as error:
        raise UsageError(
            f"Sigma rules are read by pySigma, which is not installed ({error})",
            hint="pip install 'drakmet[sigma]'",
        ) from error
    from drakmet.rules.trial import Laboratory

    files = []
    for path in paths:
        if not path.exists():
            raise RuleError("there is no such file or directory", where=str(path), hint="give Sigma rules (*.yml)")
        files += sigma_files(path)
    if not files:
        raise RuleError("no Sigma rules are there", where=str(paths[0]), hint="their files are called *.yml")
    lists = _lists(to)
    laboratory = Laboratory(known_records(plugins_dir))
    seen = _Seen()
    read = read_rules(files, seen.file)
    entries = list(map(seen.rule, convert_rules(read, lists, laboratory, outdated=outdated)))
    if not dry_run:
        _write(to, entries)
    if summary:
        emit(_summary(entries), ["log_source", "state", "kind", "rules"], output)
    else:
        rows = [{name: getattr(entry, name) for name in [*_COLUMNS, "title", "notes"]} for entry in entries]
        emit(rows, _COLUMNS if output is Format.TABLE else [*_COLUMNS, "title", "notes"], output)
    states = Counter(entry.state for entry in entries)
    told = ", ".join(f"{states[state]} {state}" for state in (IMPORTED, PART, REFUSED) if states[state])
    click.echo(f"{len(entries)} rules in {len(files)} files: {told}", err=True)
    done = states[IMPORTED] + states[PART]
    raise SystemExit(ExitCode.CLEAN if not states[REFUSED] else ExitCode.PARTLY if done else ExitCode.USAGE)


class _Seen:
    """Says every two seconds how far it is."""

    def __init__(self) -> None:
        self._files = self._rules = 0
        self._said = time.monotonic()

    def file(self) -> None:
        self._files += 1
        self._say()

    def rule(self, entry: Entry) -> Entry:
        self._rules += 1
        self._say()
        return entry

    def _say(self) -> None:
        if time.monotonic() - self._said > _BETWEEN:
            self._said = time.monotonic()
            click.echo(f"drakmet: {self._files} files read, {self._rules} rules tried", err=True)


def _lists(to: Path) -> dict[str, List]:
    from drakmet.rules.lists import load_lists

    return load_lists([bundled(), to])


def _summary(entries: list[Entry]) -> list[dict[str, Any]]:
    counts = Counter((entry.category or "?", entry.state, entry.kind) for entry in entries)
    order = sorted(counts, key=lambda key: (key[0], key[1], key[2] or ""))
    return [
        {"log_source": category, "state": state, "kind": kind, "rules": counts[category, state, kind]}
        for category, state, kind in order
    ]


def _write(to: Path, entries: list[Entry]) -> None:
    from drakmet.rules.sigma.convert import HEAD

    first = HEAD.splitlines()[0]
    wanted = {to / f"{entry.rule}.toml": entry.text for entry in entries if entry.text}
    try:
        to.mkdir(parents=True, exist_ok=True)
        for path in wanted:
            if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(first):
                raise UsageError(
                    "the file is there, and is none that an import wrote",
                    where=str(path),
                    hint="rename it, or remove it",
                )
        for path, text in wanted.items():
            fresh = path.with_name(f".{path.name}.new")
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(path)
    except OSError as error:
        raise RuleError(error.strerror or str(error), where=error.filename or str(to)) from error
