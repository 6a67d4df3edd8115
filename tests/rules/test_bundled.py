# SPDX-License-Identifier: GPL-2.0-or-later
"""Every bundled rule: no fault that the linter knows, and all of its own tests pass, on the bundled plugins' tables."""

from collections.abc import Iterator
from contextlib import closing
from functools import cache

import pytest

from drakmet.cli.known import known_records
from drakmet.rules.check import Linter
from drakmet.rules.format import RuleFile
from drakmet.rules.load import RuleSet, bundled, load_rules
from drakmet.rules.trial import Laboratory
from drakmet.rules.words import tokens

FILES = sorted(bundled().glob("*.toml"))


@cache
def loaded() -> RuleSet:
    return load_rules()


@pytest.fixture(scope="module")
def laboratory() -> Laboratory:
    return Laboratory(known_records())


@pytest.fixture(scope="module")
def linter(laboratory: Laboratory) -> Iterator[Linter]:
    with closing(Linter(laboratory, loaded().lists)) as opened:
        yield opened


def file_of(name: str) -> RuleFile:
    return next(file for file in loaded().files if file.rule.id == name)


def test_there_are_enough() -> None:
    assert len(FILES) >= 15


@pytest.mark.parametrize("name", [file.stem for file in FILES])
def test_a_bundled_rule_is_without_fault_and_does_what_it_says(
    laboratory: Laboratory, linter: Linter, name: str
) -> None:
    file = file_of(name)
    assert linter.check(file) == []
    assert [verdict for verdict in laboratory.try_rule(file, loaded().lists) if verdict.fault] == []
    assert file.rule.description.strip()
    assert file.rule.references
    assert file.rule.since


def test_every_list_is_used() -> None:
    words = {word.text for file in loaded().files for word in tokens(file.rule.sql)}
    assert set(loaded().lists) <= words
    assert all(content.values or content.rows for content in loaded().lists.values())
