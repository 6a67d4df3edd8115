# SPDX-License-Identifier: GPL-2.0-or-later
"""What a site says about rules: other parameters, exceptions with a reason and an end; and the systems of guests."""

import datetime as dt
import json
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from drakmet.errors import RuleError
from drakmet.records import Finding, Guest, Host, Process, Session
from drakmet.rules import Evaluator, State, load_rules
from drakmet.rules.check import check_site
from drakmet.rules.explain import exception
from drakmet.rules.format import Rule
from drakmet.rules.site import Exemption, Site, load_site

from .conftest import Opened, rule
from .test_evaluate import insert

DAY = 86_400 * 10**9
COUNTED = rule(
    sql="SELECT id, path, result AS exe FROM opened WHERE result >= :least",
    message='"{path} in {pause}: {exe} of {least}"',
    **{
        "parameters.least": '{ default = 3, doc = "results" }',
        "parameters.pause": '{ default = "5m", doc = "a pause" }',
    },
)


def site(directory: Path, text: str) -> Site:
    (directory / "site.toml").write_text(text)
    return load_site([directory])


def test_a_site_sets_parameters(tmp_path: Path, connection: sqlite3.Connection) -> None:
    said = site(tmp_path, '[parameters.secret]\nleast = 5\npause = "1h"')
    changed = said.apply(COUNTED.rule)
    assert (changed.bindings, COUNTED.rule.bindings["least"]) == ({"least": 5, "pause": 3600 * 10**9}, 3)
    evaluator = Evaluator(connection, [changed])
    insert(connection, evaluator, [Opened(session=1, time=n, path="/x", result=n) for n in range(7)])
    assert [finding.message for finding in evaluator.step()] == ["/x in 1h: 5 of 5", "/x in 1h: 6 of 5"]


def test_a_site_sets_how_far_back_a_rule_looks() -> None:
    looking = rule(within='"5s"').rule
    assert Site(parameters={"secret": {"within": "1m"}}).apply(looking).reach == 60 * 10**9
    with pytest.raises(RuleError, match="no parameter within"):
        Site(parameters={"secret": {"within": "1m"}}).apply(COUNTED.rule)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ('least = "5"', "not of the kind"),
        ("least = 5.5", "not of the kind"),
        ("least = true", "not of the kind"),
        ("pause = 5", "no duration"),
        ('pause = "soon"', "no duration"),
        ("most = 5", "no parameter most"),
    ],
)
def test_a_wrong_parameter_is_told(tmp_path: Path, value: str, match: str) -> None:
    with pytest.raises(RuleError, match=match) as caught:
        site(tmp_path, f"[parameters.secret]\n{value}").apply(COUNTED.rule)
    assert "site.toml" in str(caught.value.where)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a =", 1),
        ("[[exception]]\nrule = 'x'", 1),
        ("[[exception]]\nrule = 'x'\nreason = 'y'\n\n[[exception]]\nrule = 'x'\nreason = ' '", 5),
        ("[[exception]]\nrule = 'x'\nreason = 'y'\n\n[[exception]]\nrule = 'x'\nreason = 'y'\nuntil = 'soon'", 5),
        ("[[exception]]\nrule = 'x'\nreason = 'y'\nguests = 'z'", 1),
    ],
)
def test_a_wrong_site_file_is_told_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(RuleError) as caught:
        site(tmp_path, text)
    assert caught.value.where == f"{tmp_path / 'site.toml'}:{line}"


def test_a_site_file_is_no_rule_and_counts_beside_others(tmp_path: Path) -> None:
    for name, text in [("a", "least = 4"), ("b", 'pause = "1s"')]:
        (tmp_path / name).mkdir()
        site(tmp_path / name, f"[parameters.secret]\n{text}\n[[exception]]\nrule = '{name}'\nreason = 'r'")
    (tmp_path / "a" / "secret.toml").write_text(COUNTED.text)
    loaded = load_rules([tmp_path / "a", tmp_path / "b"])
    assert loaded.rules[0].bindings == {"least": 4, "pause": 10**9}
    assert [one.rule for one in loaded.site.exceptions] == ["a", "b"]
    (tmp_path / "b" / "site.toml").write_text("[parameters.secret]\nleast = 'x'")
    with pytest.raises(RuleError):
        load_rules([tmp_path / "a", tmp_path / "b"])
    assert len(load_rules([tmp_path / "a", tmp_path / "b"], strict=False).errors) == 1


def judged(connection: sqlite3.Connection, rules: list[Rule], *exceptions: dict[str, Any]) -> Evaluator:
    made = [msgspec.convert({"rule": "secret", "reason": "r"} | one, Exemption) for one in exceptions]
    evaluator = Evaluator(connection, rules, exceptions=made)
    insert(
        connection,
        evaluator,
        [
            Host(id=1, name="xen1"),
            Guest(id=1, host=1, name="web1", os="linux"),
            Session(id=1, guest=1, source="s", begin=0),
            Process(id=1, session=1, time=0, exe="/usr/bin/backup"),
            Opened(session=1, time=3 * DAY, process=1, path="/secret/a"),
            Opened(session=1, time=3 * DAY, path="/secret/b"),
        ],
    )
    return evaluator


@pytest.mark.parametrize(
    ("wanted", "left"),
    [
        ({}, []),
        ({"rule": "*"}, []),
        ({"rule": ["other", "sec*"]}, []),
        ({"rule": "other"}, ["a", "b"]),
        ({"process": "/usr/bin/*"}, ["b"]),
        ({"process": "/usr/bin/BACKUP"}, ["a", "b"]),
        ({"path": "/secret/b"}, ["a"]),
        ({"path": ["/secret/b", "/secret/?"]}, []),
        ({"guest": "web*", "host": "xen1", "path": "/secret/a"}, ["b"]),
        ({"guest": "db*", "path": "/secret/a"}, ["a", "b"]),
        ({"host": "xen2"}, ["a", "b"]),
        ({"until": dt.date(1970, 1, 4)}, []),
        ({"until": dt.date(1970, 1, 3)}, ["a", "b"]),
    ],
)
def test_exceptions_take_what_fits_all_they_say(
    connection: sqlite3.Connection, wanted: dict[str, Any], left: list[str]
) -> None:
    evaluator = judged(connection, [rule().rule], wanted)
    assert [finding.message[-1] for finding in evaluator.step()] == left
    (end,) = evaluator.outcomes()
    assert (end.findings, end.excepted) == (len(left), 2 - len(left))
    assert end.state is (State.FIRED if left else State.CLEAN)


def test_what_is_excepted_begins_no_burst(connection: sqlite3.Connection) -> None:
    once = rule(once='{ by = ["what"], within = "1h" }', sql="SELECT id, path, 1 AS exe, 1 AS what FROM opened").rule
    assert [finding.message for finding in judged(connection, [once], {"path": "/secret/a"}).step()] == [
        "1 opened /secret/b"
    ]


def test_a_rule_for_one_system_leaves_other_guests_alone(connection: sqlite3.Connection) -> None:
    rules = [rule(id=f'"{name}"', os=f'"{name}"').rule for name in ("linux", "windows")]
    evaluator = judged(connection, rules)
    assert {finding.rule for finding in evaluator.step()} == {"linux"}
    ends = {end.rule: end for end in evaluator.outcomes()}
    assert ends["linux"].state is State.FIRED
    assert ends["windows"].state is State.NOT_EVALUATED
    assert "it is for windows, and the guest's system is linux" in str(ends["windows"].reason)


def test_exceptions_of_no_use_are_told() -> None:
    made = Site(
        exceptions=[
            Exemption(rule="secrets", reason="r", where="s.toml:1"),
            Exemption(rule="sec*", reason="r", until=dt.date(2026, 1, 1), where="s.toml:9"),
            Exemption(rule="secret", reason="r", until=dt.date(2027, 1, 1), where="s.toml:20"),
        ]
    )
    issues = list(check_site(made, ["secret"], dt.date(2026, 11, 23)))
    assert [(issue.where, issue.level, issue.code) for issue in issues] == [
        ("s.toml:1", "warning", "exception"),
        ("s.toml:9", "warning", "exception"),
    ]
    assert "did you mean secret" in str(issues[0].hint)


@pytest.mark.parametrize("path", ["/a*[x]?b", 'quote"\\back', "\x7f\x85é\u202e"])
def test_the_exception_that_is_proposed_takes_the_finding(tmp_path: Path, path: str) -> None:
    row = {"rule": "secret", "guest": "web1"}
    text = exception(row, [{"table": "opened", "id": 1, "row": {"path": path}}])
    (made,) = site(tmp_path, text).exceptions
    assert made.fits(rule="secret", day=dt.date(2026, 1, 1), found={"guest": ["web1"], "path": [path]})
    assert not made.fits(rule="secret", day=dt.date(2026, 1, 1), found={"guest": ["web1"], "path": [path + "x"]})
    assert not made.fits(rule="secret", day=dt.date(2026, 1, 1), found={"guest": ["web2"], "path": [path]})


def test_a_finding_without_rows_is_about_nothing(connection: sqlite3.Connection) -> None:
    evaluator = judged(connection, [rule().rule])
    strange = Finding(
        session=99, time=2**62, found=0, rule="secret", level="low", title="t", message="m", rests_on=json.dumps([])
    )
    assert evaluator._rules[0].exempting.taken(strange) is None
