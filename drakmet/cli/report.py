# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet report``: what a file tells, as one page to open in a browser, or as JSON."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

from drakmet.cli.output import json_line
from drakmet.errors import UsageError
from drakmet.store import Reader

_PATH = click.Path(path_type=Path)


@click.command(short_help="Make one HTML page of what a file tells.")
@click.argument("file", type=_PATH)
@click.option("-o", "--output", type=_PATH, help="page to write; the default is FILE with .html, - is standard output")
@click.option("--session", type=int, help="only this session (see the table session)")
@click.option("--json", "as_json", is_flag=True, help="what the page tells as JSON, to standard output or -o")
def report(file: Path, output: Path | None, session: int | None, *, as_json: bool) -> None:
    """Make one HTML page of what a file tells.

    Findings, guests, processes, what happened when, connections, and what was not seen; with one filter by guest and
    process over all of it. The page needs no network and nothing beside itself: send it, open it from disk, print it.
    Of large files it counts everything, lists a part, and says which.

    \b
    Example:
      drakmet report run.db                    writes run.html
      drakmet report tonight.db -o tonight.html
      drakmet report run.db --json | jq .levels
    """
    from drakmet.report.model import model
    from drakmet.report.page import page

    note = _Notes()
    note("asking what rules could see")
    rules = rule_states(file, session)
    with Reader(file) as reader:
        if session is not None and not any(
            True for _ in reader.select("SELECT 1 FROM session WHERE id = :n", {"n": session})[1]
        ):
            raise UsageError(f"there is no session {session}", where=str(file))
        text = (
            json_line(model(reader, session, rules=rules, note=note)) + "\n"
            if as_json
            else page(reader, session, rules=rules, note=note)
        )
    if as_json and output is None:
        output = Path("-")
    path = output or file.with_suffix(".html")
    if str(path) == "-":
        click.echo(text, nl=False)
        return
    _write(path, text)
    click.echo(f"drakmet: {len(text) / 1e6:.1f} MB in {path}", err=True)


class _Notes:
    """Says what is done to whoever has waited for two seconds."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def __call__(self, what: str) -> None:
        if time.monotonic() - self._begun > 2:
            click.echo(f"drakmet: {what}", err=True)


def rule_states(file: Path, session: int | None = None) -> list[dict[str, Any]]:
    """Return for each rule its worst state in a file's sessions, in how many, and why; nothing is evaluated anew.

    "clean" means that all it reads was collected, and that no finding of it is stored.
    """
    from drakmet.rules import Evaluator, State, load_rules

    ruleset = load_rules()
    evaluator = Evaluator(file, ruleset.rules, ruleset.lists, where=ruleset.where, start="end", whole=True)
    try:
        outcomes = evaluator.outcomes(session)
    finally:
        evaluator.close()
    with Reader(file) as reader:
        fired = Counter(
            {row["rule"]: row["n"] for row in reader.select("SELECT rule, count(*) AS n FROM finding GROUP BY 1")[1]}
        )
    order = [State.NOT_EVALUATED, State.NOT_KNOWN, State.CLEAN]
    levels = {rule.id: rule.level for rule in ruleset.rules}
    states: dict[str, dict[str, Any]] = {}
    for state in order:
        for outcome in outcomes:
            if outcome.state is state and outcome.rule not in states:
                alike = sum(1 for one in outcomes if one.rule == outcome.rule and one.state is state)
                word = "fired" if fired[outcome.rule] else state.value
                states[outcome.rule] = {
                    "rule": outcome.rule,
                    "level": str(levels.get(outcome.rule)),
                    "state": word,
                    "sessions": alike,
                    "reason": outcome.reason,
                }
    return [states[rule] for rule in sorted(states)]


def _write(path: Path, text: str) -> None:
    """Write a file that only its owner can read, as it tells what guests did."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"cannot write it: {error.strerror}", where=str(path)) from error
