# SPDX-License-Identifier: GPL-2.0-or-later
"""What a writer of rules gets: the schema, the one form, the start of a rule, SARIF."""

import datetime as dt
import tomllib
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drakmet.cli.known import known_records
from drakmet.errors import RuleError
from drakmet.rules.attack import split, techniques
from drakmet.rules.check import Linter
from drakmet.rules.fmt import formatted
from drakmet.rules.format import RuleFile, load
from drakmet.rules.issues import CODES, Issue, sarif
from drakmet.rules.jsonschema import schema
from drakmet.rules.load import bundled, load_rules
from drakmet.rules.starter import starter, suitable
from drakmet.rules.trial import Laboratory
from drakmet.rules.usage import by_technique

from .conftest import RULE, Opened, rule

BUNDLED = sorted(bundled().glob("*.toml"))


def as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: as_json(one) for name, one in value.items()}
    if isinstance(value, list):
        return [as_json(one) for one in value]
    return value.isoformat() if isinstance(value, dt.date) else value


def faults(text: str) -> list[str]:
    validator = jsonschema.Draft202012Validator(schema(), format_checker=jsonschema.FormatChecker())
    return [error.message for error in validator.iter_errors(as_json(tomllib.loads(text)))]


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.stem)
def test_the_schema_takes_every_bundled_rule_and_each_is_in_the_one_form(path: Path) -> None:
    assert faults(path.read_text()) == []
    assert formatted(load(path)) == path.read_text()


@pytest.mark.parametrize(
    "text",
    [
        RULE.replace("level =", "leval ="),
        RULE.replace('"high"', '"huge"'),
        RULE.replace('"T1005"', '"10"'),
        RULE.replace('"opened"', '["opened", "opened"]', 1),
        RULE.replace('"opened"', "[]", 1),
        RULE.replace('"opened"', '"main.opened"', 1),
        RULE.partition("[[test]]")[0],
        RULE.rpartition("[[test]]")[0],
        RULE.replace("findings = 0", "findings = 3"),
        RULE.replace("findings = 0", "found = 0"),
        RULE.replace('title = "it is opened"\n', ""),
        'within = "soon"' + RULE,
        'once = { by = ["id"], within = "5 minutes" }' + RULE,
        'parameters.within = { default = 5, doc = "x" }' + RULE,
        'parameters.least = { default = [5], doc = "x" }' + RULE,
        "parameters.least = { default = 5 }" + RULE,
        'os = "plan9"' + RULE,
        'date = "yesterday"' + RULE,
    ],
)
def test_the_schema_refuses_what_the_loader_or_the_linter_refuses(laboratory: Laboratory, text: str) -> None:
    assert faults(text)
    with closing(Linter(laboratory, {})) as linter:
        try:
            assert [issue for issue in linter.check(RuleFile(Path("secret.toml"), text)) if issue.level == "error"]
        except RuleError as error:
            assert error.where


def test_every_key_of_a_rule_is_explained_to_editors() -> None:
    made = schema()
    for part in (made, *made["$defs"].values()):
        assert all(one.get("description") for one in part["properties"].values()), part


MESSY = """
# SPDX-License-Identifier: MIT

sql = '''
SELECT opened.id, path   
FROM opened
'''
# what it says
message = "{path}"
from   =   "opened"
attack = [ "T1005", "TA0009" ]
id = "secret"
title = "t"
level = "low"
status = "test"
description = "d"
[[test]]
findings = [ "/secret  " ]
rows.opened = [
    { path = "/secret  " },   # with blanks
]
title = "x"

# the second
[[test]]
title = "y"
rows.opened = []
findings = 0
# the end
"""  # noqa: W291 - blanks at ends of lines are what this is about


def test_the_one_form() -> None:
    made = formatted(RuleFile(Path("secret.toml"), MESSY))
    assert made.startswith("# SPDX-License-Identifier: MIT\n\nid = ")
    assert 'attack = ["T1005 Data from Local System", "TA0009 Collection"]\nfrom = "opened"\n' in made
    assert '# what it says\nmessage = "{path}"\n' in made
    assert "path\nFROM opened\n" in made
    assert '[[test]]\ntitle = "x"\nrows.opened = [\n    { path = "/secret  " },   # with blanks\n]\nfindings' in made
    assert made.endswith('# the second\n[[test]]\ntitle = "y"\nrows.opened = []\nfindings = 0\n# the end\n')
    assert formatted(RuleFile(Path("secret.toml"), made)) == made


LINES = st.lists(
    st.sampled_from(
        [
            *("# a comment", "", "   ", "\t# indented", 'tags = ["a",\n  # inside\n\n  "b"]', 'since = "0.1"'),
            *('author = """x\n\n  [y]  \n"""', "notes = ['#']", "date = 2026-01-01 # day", 'os="linux"'),
            *("\n# header\n", "references = [\n]", "license = '''\n[[test]]\n'''"),
        ]
    ),
    unique=True,
)


@given(above=LINES, inside=LINES.map(lambda lines: [line for line in lines if not line.strip() or "#" in line[:2]]))
@settings(max_examples=80, deadline=None)
def test_formatting_twice_is_formatting_once_and_keeps_comments_and_meaning(
    above: list[str], inside: list[str]
) -> None:
    head, first, second = RULE.split("[[test]]")
    text = "[[test]]".join(["\n".join([*above, head]), "\n".join(["", *inside]) + first, second])
    once = formatted(RuleFile(Path("secret.toml"), text))
    assert formatted(RuleFile(Path("secret.toml"), once)) == once
    assert sorted(line.strip() for line in text.split("\n") if line.strip().startswith("#")) == sorted(
        line.strip() for line in once.split("\n") if line.strip().startswith("#")
    )
    before, after = tomllib.loads(text), tomllib.loads(once)
    assert after.pop("attack") == ["T1005 Data from Local System"]
    assert before.pop("attack") == ["T1005"]
    assert before == after


def test_every_table_of_events_can_begin_a_rule() -> None:
    # DRAKVUF's tables, some fifty, are made alike; two will do.
    few = ("drakvuf_filetracer", "drakvuf_clipboardmon")
    records = [one for one in known_records() if one.table in few or not one.table.startswith("drakvuf_")]
    laboratory = Laboratory(records)
    begun = 0
    with closing(Linter(laboratory, load_rules().lists)) as linter:
        for record in filter(suitable, records):
            file = RuleFile(Path("my-rule.toml"), starter("my-rule", record))
            assert [issue.code for issue in linter.check(file) if issue.level == "error"] == [], record.table
            assert [verdict.fault for verdict in laboratory.try_rule(file, {}) if verdict.fault] == []
            assert faults(file.text) == []
            begun += 1
    assert begun > 5
    assert suitable(Opened)


def test_sarif_has_each_issue_at_its_place() -> None:
    issues = [Issue("error", "quotes", "a b/x.toml:7", "wrong", "do so"), Issue("warning", "format", "/y.toml", "bad")]
    (run,) = sarif(issues)["runs"]
    places = [result["locations"][0]["physicalLocation"] for result in run["results"]]
    assert [(place["artifactLocation"]["uri"], place["region"]["startLine"]) for place in places] == [
        ("a%20b/x.toml", 7),
        ("file:///y.toml", 1),
    ]
    assert [result["message"]["text"] for result in run["results"]] == ["wrong: do so", "bad"]


def test_the_linter_says_nothing_that_sarif_has_no_words_for() -> None:
    source = "".join(path.read_text() for path in Path(Linter.check.__code__.co_filename).parent.glob("check*.py"))
    for code in CODES:
        assert f'"{code}"' in source or code == "format", code


def test_names_of_attack() -> None:
    assert split("T1059.004  Unix Shell") == ("T1059.004", "Unix Shell")
    assert split("T1059") == ("T1059", None)
    assert [split(wrong) for wrong in ("T10", "t1059", "T1059x", "Unix Shell", "")] == [None] * 5
    known = techniques()
    assert known["T1059.004"].entry == "T1059.004 Unix Shell"
    assert all(tactic in known for one in known.values() for tactic in one.tactics)
    assert len(known) > 600


def test_a_rule_counts_for_its_techniques_tactics() -> None:
    rows = {row["id"]: row["rules"] for row in by_technique([rule().rule])}
    assert (rows["T1005"], rows["TA0009"], rows["TA0040"]) == (["secret"], ["secret"], [])
