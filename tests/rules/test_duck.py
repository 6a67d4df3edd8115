# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules over Parquet find what they find in SQLite, or are named with the reason why they are not judged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from click.testing import CliRunner

from drakmet.cli.export import export as export_command
from drakmet.cli.known import known_records
from drakmet.cli.rules import rules as rules_command
from drakmet.errors import StoreError
from drakmet.fleet.foreign import Result
from drakmet.fleet.merge import Merger
from drakmet.fleet.records import FleetHost
from drakmet.rules import bundled, duck, load_rules
from drakmet.rules.evaluate import judge
from drakmet.rules.trial import Laboratory
from drakmet.store import Writer
from drakmet.store.parquet import export
from drakmet.store.schema import table_of

if TYPE_CHECKING:
    from pathlib import Path

    from drakmet.records import Finding, Record


def key(finding: Finding) -> tuple[Any, ...]:
    return (finding.rule, finding.session, finding.time, finding.process, finding.message, finding.rests_on)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the rows of every test of every bundled rule, each test a host."""
    path = tmp_path_factory.mktemp("rules") / "all.db"
    records = known_records()
    laboratory = Laboratory(records)
    with Writer(path, records) as writer:
        merger = Merger(writer)
        for file in load_rules([bundled()]).files:
            for place, test in enumerate(file.rule.tests):
                rows = list(laboratory._rows(file, place, test))
                columns: dict[type[Record], dict[str, list[Any]]] = {}
                for row in [*laboratory._frame(file, rows), *rows]:
                    table = table_of(type(row))
                    into = columns.setdefault(type(row), {column.name: [] for column in table.columns})
                    for name, value in zip(into, table.to_row(row), strict=True):
                        into[name].append(value)
                about = FleetHost(name=f"{file.rule.id} {place}", begin=1, end=2, outcome="done")
                merger.add(Result(columns, 0, "", ""), about)
    return path


def test_bundled_rules_find_the_same_or_say_why_not(everything: Path, tmp_path: Path) -> None:
    counts = export(everything, tmp_path / "parquet")
    assert counts["process_start"] > 50
    loaded = load_rules([bundled()])
    there, unable = duck.judge(tmp_path / "parquet", loaded.rules, loaded.lists)
    here, _ = judge(everything, loaded.rules, loaded.lists)
    assert sorted(map(key, there)) == sorted(key(finding) for finding in here if finding.rule not in unable)
    assert {finding.rule for finding in there} > {"running-program-from-memory", "shell-on-socket", "port-scan"}
    assert len(unable) < 6, unable
    assert all(unable.values())
    assert (tmp_path / "parquet" / "process.parquet").stat().st_mode & 0o077 == 0


def test_sql_is_translated_outside_of_texts() -> None:
    given = "SELECT a ->> 0, b.c ->> '$.x', ':no LIKE' FROM t WHERE d LIKE :one -- :two LIKE"
    wanted = "SELECT json_extract_string(a, '$[0]'), json_extract_string(b.c, '$.x'), ':no LIKE'"
    assert duck.translated(given) == f"{wanted} FROM t WHERE d ILIKE $one -- :two LIKE"


def test_a_rule_reads_nothing_else_of_the_machine(everything: Path, tmp_path: Path) -> None:
    export(everything, tmp_path / "parquet")
    secret = tmp_path / "secret.csv"
    secret.write_text("id\n1\n")
    (rule,) = (rule for rule in load_rules([bundled()]).rules if rule.id == "hidden-kernel-object")
    before = (tmp_path / "parquet" / "host.parquet").read_bytes()
    for sql in (
        f"SELECT 1 AS id FROM read_csv('{secret}')",  # noqa: S608 - an attack
        f"SELECT id FROM '{secret}'",  # noqa: S608
        "COPY host TO '/dev/null'",
        f"SELECT 1 AS id); COPY guest TO '{tmp_path}/parquet/host.parquet'; SELECT * FROM (SELECT 1 AS id",  # noqa: S608
    ):
        found, unable = duck.judge(tmp_path / "parquet", [msgspec.structs.replace(rule, sql=sql)])
        assert not found
        assert rule.id in unable
    assert (tmp_path / "parquet" / "host.parquet").read_bytes() == before


def test_no_parquet_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no Parquet"):
        duck.judge(tmp_path, [])


def test_a_directory_is_judged_by_the_same_command(everything: Path, tmp_path: Path) -> None:
    made = CliRunner().invoke(export_command, [str(everything), "--format", "parquet", "-o", str(tmp_path / "out")])
    assert made.exit_code == 0, made.output
    result = CliRunner().invoke(rules_command, ["run", str(tmp_path / "out"), "--nl"])
    assert result.exit_code == 1, result.output
    assert "rule reverse-shell-command: its SQL means something else there" in result.stderr
    of_file = CliRunner().invoke(rules_command, ["run", str(everything), "--nl"])
    unable = ("reverse-shell-command", "kernel-module-loader")
    told = [
        sorted((row["rule"], row["session"], row["message"]) for row in map(json.loads, lines.stdout.splitlines()))
        for lines in (result, of_file)
    ]
    assert told[0] == [row for row in told[1] if row[0] not in unable]
