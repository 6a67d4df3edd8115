# SPDX-License-Identifier: GPL-2.0-or-later
"""`drakmet rules import sigma` as a person uses it: what is written, what is told, what it ends with."""

import functools
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from drakmet.cli.known import known_records
from drakmet.cli.rules import rules
from drakmet.errors import UsageError
from drakmet.records import Record
from drakmet.rules.trial import Laboratory

RULE = """
title: A shell is asked for
id: 6a0b5c1e-0000-4000-8000-000000000001
name: shell
logsource: {product: linux, category: process_creation}
detection:
  selection:
    Image|endswith: /bash
    CommandLine|contains: ' -i'
  condition: selection
level: high
tags: [attack.execution, attack.t1059.004, attack.t9999, cve.2020-1]
"""

LATER = """
title: A port is reached
name: port
logsource: {product: linux, category: network_connection}
detection:
  selection:
    DestinationPort: 4444
  condition: selection
"""


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(rules, [*map(str, arguments)])


def imported(directory: Path, *options: str, ends: int = 0) -> list[dict[str, Any]]:
    """Import a directory's rules into ``rules`` beside it."""
    to = directory.parent / "rules"
    told = run("import", "sigma", directory, "--output", to, "--json", *options)
    assert told.exit_code == ends, told.output
    rows: list[dict[str, Any]] = json.loads(told.stdout)
    return rows


def are_sound(directory: Path) -> None:
    """Assert that rules pass what any rule must pass."""
    for command in (["check"], ["test"], ["fmt", "--check"]):
        checked = run(*command, directory)
        assert checked.exit_code == 0, checked.output


@pytest.fixture(autouse=True)
def plugins_are_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what plugins and tables there are, which each command would find out anew."""
    for place in ("rules_import", "rules_check"):
        monkeypatch.setattr(f"drakmet.cli.{place}.known_records", _known_records)
    monkeypatch.setattr("drakmet.rules.trial.Laboratory", _laboratory)


@functools.cache
def _known_records(directories: tuple[Path, ...] = ()) -> tuple[type[Record], ...]:
    return tuple(known_records(directories))


_laboratory = functools.cache(Laboratory)


@pytest.fixture
def sigma(tmp_path: Path) -> Path:
    directory = tmp_path / "sigma"
    directory.mkdir()
    return directory


def test_what_is_imported_passes_check_test_and_fmt(sigma: Path) -> None:
    (sigma / "shell.yml").write_text(RULE)
    (row,) = imported(sigma)
    are_sound(sigma.parent / "rules")
    assert (row["rule"], row["state"], row["reason"]) == ("sigma-shell", "imported", None)
    made = tomllib.loads((sigma.parent / "rules" / "sigma-shell.toml").read_text())
    assert (made["level"], made["os"], made["attack"]) == (
        "high", "linux", ["TA0002 Execution", "T1059.004 Unix Shell"],
    )  # fmt: skip
    assert made["tags"] == ["cve.2020-1"]
    assert "6a0b5c1e-0000-4000-8000-000000000001" in made["source"]
    assert any("t9999" in note for note in made["notes"])
    assert [test["findings"] > 0 for test in made["test"]] == [True, False]


def test_it_is_imported_again_but_over_nothing_that_a_person_wrote(sigma: Path) -> None:
    (sigma / "shell.yml").write_text(RULE)
    imported(sigma)
    imported(sigma)
    (sigma.parent / "rules" / "sigma-shell.toml").write_text('id = "mine"\n')
    told = run("import", "sigma", sigma, "--output", sigma.parent / "rules")
    assert told.exit_code != 0
    assert "none that an import wrote" in str(told.exception)
    assert (sigma.parent / "rules" / "sigma-shell.toml").read_text() == 'id = "mine"\n'


def test_some_refused_ends_partly_and_all_refused_as_bad_input(sigma: Path) -> None:
    (sigma / "shell.yml").write_text(RULE)
    (sigma / "other.yml").write_text(RULE.replace("process_creation", "application"))
    told = imported(sigma, ends=3)
    assert [(row["state"], row["kind"]) for row in told] == [("refused", "log source"), ("imported", None)]
    assert told[0]["where"].endswith("other.yml:2")
    (sigma / "shell.yml").unlink()
    assert imported(sigma, "--dry-run", ends=2)[0]["reason"].startswith("linux/application")


def test_a_dry_run_writes_nothing_and_a_summary_counts(sigma: Path) -> None:
    (sigma / "shell.yml").write_text(RULE)
    told = run("import", "sigma", sigma, "--output", sigma.parent / "rules", "--dry-run", "--summary", "--json")
    assert json.loads(told.stdout) == [
        {"log_source": "linux/process_creation", "state": "imported", "kind": None, "rules": 1}
    ]
    assert not (sigma.parent / "rules").exists()


def test_documents_of_a_file_are_rules_and_a_global_one_is_in_all_of_them(sigma: Path) -> None:
    (sigma / "two.yml").write_text(
        "action: global\ntitle: Both\nlogsource: {product: linux, category: process_creation}\n"
        "---\ndetection: {a: {Image: /a}, condition: a}\n---\ndetection: {b: {Image: /b}, condition: b}\n"
    )
    told = imported(sigma)
    assert [(row["rule"], row["title"]) for row in told] == [("sigma-two", ""), ("sigma-two-2", "")]
    made = [tomllib.loads((sigma.parent / "rules" / f"{row['rule']}.toml").read_text()) for row in told]
    assert [(one["title"], "'/b'" in one["sql"]) for one in made] == [("Both", False), ("Both", True)]


def test_a_filter_is_taken_into_the_rules_that_it_names(sigma: Path) -> None:
    (sigma / "shell.yml").write_text(RULE)
    (sigma / "filter.yml").write_text(
        "title: Ours\nlogsource: {product: linux, category: process_creation}\n"
        "filter:\n  rules: [6a0b5c1e-0000-4000-8000-000000000001]\n"
        "  ours: {ParentImage: /usr/sbin/sshd}\n  condition: not ours\n"
    )
    assert [row["rule"] for row in imported(sigma)] == ["sigma-shell"]
    assert "'/usr/sbin/sshd'" in (sigma.parent / "rules" / "sigma-shell.toml").read_text()


def test_a_placeholder_is_a_list_of_the_site(sigma: Path) -> None:
    (sigma / "shell.yml").write_text(RULE.replace("Image|endswith: /bash", "Image|expand: '/bin/%Our Shells%'"))
    assert imported(sigma, ends=2)[0]["kind"] == "placeholder"
    lists = sigma.parent / "rules" / "lists"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / "our_shells.toml").write_text('title = "shells"\nvalues = ["sh", "zsh"]\n')
    imported(sigma)
    assert "IN ('/bin/sh', '/bin/zsh')" in (sigma.parent / "rules" / "sigma-shell.toml").read_text()


def correlation(how: str) -> str:
    counts = how.endswith("count")
    field = ", field: DestinationIp" if how == "value_count" else ""
    condition = f"  condition: {{gte: 5{field}}}\n" if counts else ""
    aliases = "" if counts else "  aliases: {who: {shell: ParentImage, port: Image}}\n"
    return (
        f"title: Together {{x}}\nlevel: high\ncorrelation:\n  type: {how}\n"
        f"  rules: {'[port]' if counts else '[shell, port]'}\n  group-by: [{'Image' if counts else 'who'}]\n"
        f"  timespan: 10m\n{aliases}{condition}"
    )


def test_correlations_are_rules_and_what_they_name_is_not_one_by_itself(sigma: Path) -> None:
    kinds = ["event_count", "value_count", "temporal", "temporal_ordered"]
    (sigma / "all.yml").write_text("---\n".join([RULE, LATER, *map(correlation, kinds)]))
    told = imported(sigma)
    assert [row["state"] for row in told] == ["part of another"] * 2 + ["imported"] * 4
    are_sound(sigma.parent / "rules")


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ("type: value_median\n  condition: {gte: 5, field: DestinationPort}", "modifier"),
        ("type: event_count\n  condition: {lt: 5}", "modifier"),
        ("type: event_count\n  group-by: [Nobody]\n  condition: {gte: 5}", "field"),
    ],
)
def test_correlations_that_sql_cannot_say_are_refused(sigma: Path, change: str, kind: str) -> None:
    text = f"title: Together\ncorrelation:\n  rules: [port]\n  timespan: 10m\n  {change}\n"
    (sigma / "all.yml").write_text(f"{LATER.strip()}\n---\n{text}")
    assert imported(sigma, ends=3)[-1]["kind"] == kind


def test_without_the_extra_its_name_is_told(sigma: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (sigma / "shell.yml").write_text(RULE)
    monkeypatch.delitem(sys.modules, "drakmet.rules.sigma.importer", raising=False)
    monkeypatch.setitem(sys.modules, "sigma.collection", None)
    told = run("import", "sigma", sigma, "--output", sigma.parent / "rules")
    assert isinstance(told.exception, UsageError)
    assert "drakmet[sigma]" in str(told.exception)


def test_a_directory_without_rules_is_bad_input(sigma: Path) -> None:
    told = run("import", "sigma", sigma, "--output", sigma.parent / "rules")
    assert isinstance(told.exception, UsageError)
    assert "*.yml" in str(told.exception)
