# SPDX-License-Identifier: GPL-2.0-or-later
"""Sigma's modifiers and conditions in rules of our own, over events that they must and must not find."""

from pathlib import Path

import pytest

from drakmet.cli.known import known_records
from drakmet.rules import bundled
from drakmet.rules.trial import Laboratory
from rules.sigma_rules import RULES, Result, results, table

NAMES = sorted(path.stem for path in RULES.glob("*.yml"))


@pytest.fixture(scope="module")
def found() -> dict[str, Result]:
    return {result.name: result for result in results(Laboratory(known_records()))}


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_finds_what_it_should(found: dict[str, Result], name: str) -> None:
    assert found[name].fault is None


def test_the_table_in_the_documentation_is_what_becomes_of_them(found: dict[str, Result]) -> None:
    assert table(list(found.values())) in (bundled() / "sigma.md").read_text(encoding="utf-8")


def test_there_is_a_rule_for_each_modifier() -> None:
    from sigma.modifiers import modifier_mapping

    asked = "\n".join((RULES / f"{name}.yml").read_text(encoding="utf-8") for name in NAMES)
    # Those of times of day are all refused in one place, and these are other names of ones that are there.
    left_out = {"minute", "day", "week", "month", "year", "ignorecase", "multiline", "dotall"}
    assert [one for one in modifier_mapping if f"|{one}" not in asked and one not in left_out] == []


def test_the_rules_are_ours() -> None:
    assert len(NAMES) >= 40
    assert all("SPDX" in Path(RULES / f"{name}.yml").read_text(encoding="utf-8") for name in NAMES)
