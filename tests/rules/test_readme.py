# SPDX-License-Identifier: GPL-2.0-or-later
"""What the README of the rules shows works as it stands there."""

import re
from contextlib import closing
from pathlib import Path

import click
import pytest

from drakmet.cli.known import known_records
from drakmet.cli.rules import rules
from drakmet.rules.check import Linter
from drakmet.rules.format import RuleFile
from drakmet.rules.load import bundled, load_rules
from drakmet.rules.site import load_site
from drakmet.rules.trial import Laboratory
from drakmet.rules.views import VIEWS, create_views
from drakmet.store.functions import FUNCTIONS

README = (bundled() / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def laboratory() -> Laboratory:
    return Laboratory(known_records())


def test_the_rule_and_its_test_pass(laboratory: Laboratory) -> None:
    whole = next(block for block in blocks("toml") if block.startswith("id ="))
    example = next(block for block in blocks("toml") if block.startswith("[[test]]"))
    silent = '[[test]]\ntitle = "nothing"\nrows.process_start = []\nfindings = 0\n'
    file = RuleFile(Path("shell-from-network-service.toml"), f"{whole}\n{example}\n{silent}")
    lists = load_rules().lists
    with closing(Linter(laboratory, lists)) as linter:
        assert linter.check(file) == []
    assert [verdict.fault for verdict in laboratory.try_rule(file, lists)] == [None, None]


@pytest.mark.parametrize("sql", [block for block in blocks("sql") if block.startswith("FROM")])
def test_the_sql_is_right(laboratory: Laboratory, sql: str) -> None:
    with closing(laboratory.connection()) as connection:
        create_views(connection)
        connection.execute(f"EXPLAIN SELECT 1 {sql}", {"within": 1, "least": 1})


def test_the_parameters_are_right(laboratory: Laboratory) -> None:
    (text,) = (block for block in blocks("toml") if block.startswith("parameters."))
    base = next(block for block in blocks("toml") if block.startswith("id ="))
    file = RuleFile(Path("x.toml"), f"{base}\n{text}")
    assert file.rule.bindings == {"least": 20, "pause": 300 * 10**9}


def test_the_site_file_is_right(tmp_path: Path) -> None:
    (text,) = (block for block in blocks("toml") if "[[exception]]" in block)
    (tmp_path / "site.toml").write_text(text)
    site = load_site([tmp_path])
    for one in load_rules().rules:
        site.apply(one)
    assert site.exceptions[0].concerns("port-scan")


def test_every_function_and_view_is_told_of() -> None:
    for name in FUNCTIONS:
        assert f"`{name}(" in README, name
    for name, view in VIEWS.items():
        assert f"`{name} ({', '.join(view.columns)})`" in README


def test_every_command_is_there() -> None:
    named = set(re.findall(r"drakmet rules ([a-z]+)", README))
    assert isinstance(rules, click.Group)
    assert named <= set(rules.commands)
    assert {"new", "check", "test", "fmt", "run", "schema", "explain"} <= named
