# SPDX-License-Identifier: GPL-2.0-or-later
"""The format and the linter: each fault is told with its line and a way out."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drakmet.errors import RuleError
from drakmet.rules.check import Linter
from drakmet.rules.compiled import render
from drakmet.rules.format import RuleFile, duration, placeholders
from drakmet.rules.lists import List, load_lists
from drakmet.rules.load import bundled, load_rules
from drakmet.rules.trial import Laboratory
from drakmet.rules.words import did_you_mean, tokens, unqualified

from .conftest import RULE, rule

LISTS = {"secrets": List(title="t", values=["/a"])}


@pytest.fixture(scope="module")
def linter(laboratory: Laboratory) -> Iterator[Linter]:
    with closing(Linter(laboratory, LISTS)) as opened:
        yield opened


def line_of(text: str, word: str) -> int:
    return next(number for number, line in enumerate(text.split("\n"), start=1) if word in line)


def test_a_rule_without_fault_has_none(linter: Linter) -> None:
    assert linter.check(rule()) == []


@pytest.mark.parametrize(
    ("changes", "code", "word", "text", "hint"),
    [
        ({"id": '"other"'}, "id", "id =", "not its file's name", "other.toml"),
        ({"attack": '["T10"]'}, "attack", "attack =", "'T10' is no ATT&CK id", "T1059"),
        ({"tables": '"opend"'}, "unknown-table", "from =", "there is no table opend", "did you mean opened"),
        ({"tables": '"connected"'}, "from", "sql =", "does not read connected", "new rows"),
        ({"tables": '"session"'}, "from", "from =", "rows of session have no session and time", "events"),
        ({"message": '"{pathh}"'}, "message", "message =", "no column pathh", "did you mean path"),
        ({"once": '{ by = ["pid"], within = "1m" }'}, "once", "once =", "no column pid", "did you mean id"),
        ({"sql": "SELECT id,\n pth AS path, 1 AS exe\nFROM opened"}, "unknown-column", " pth AS", "pth", "mean path?"),
        (
            {"sql": "SELECT opened.id, path, 1 AS exe\nFROM opened\nJOIN proces"},
            "unknown-table",
            "JOIN proces",
            "proces",
            "mean process",
        ),
        (
            {"sql": "SELECT id, path, 1 AS exe\nFROM opened\nWHERE path IN lists.secret"},
            "unknown-table",
            "IN lists",
            "secret",
            "mean secrets",
        ),
        (
            {"sql": "SELECT id, path, 1 AS exe\nFROM opened\nWHERE basenam(path)"},
            "unknown-function",
            "basenam(",
            "basenam",
            None,
        ),
        ({"sql": "SELECT id, path, 1 AS exe\nFROM opened\nWHERE path GLOB 'x' AN 1"}, "syntax", "AN 1", "near", None),
        (
            {"sql": 'SELECT id, path, 1 AS exe\nFROM opened\nWHERE path = "/etc"'},
            "quotes",
            '"/etc"',
            "is no column",
            "'/etc'",
        ),
        (
            {"sql": 'SELECT id, path, 1 AS exe\nFROM opened\nWHERE "port" = 1'},
            "quotes",
            '"port"',
            "is no column",
            "'port'",
        ),
        (
            {"sql": "SELECT id, path, 1 AS exe\nFROM opened\nWHERE 'result' = 1"},
            "quotes",
            "'result'",
            "is a string, though",
            "write result",
        ),
        (
            {"sql": "SELECT id, path, 1 AS exe\nFROM opened\nWHERE random()"},
            "denied",
            "random",
            "not allowed",
            "SELECT",
        ),
        ({"sql": "UPDATE opened\nSET path = 1"}, "denied", "UPDATE", "UPDATE is not allowed", "SELECT"),
        ({"sql": "SELECT path, 1 AS exe FROM opened"}, "id-column", "SELECT", "does not select id", "SELECT opened.id"),
        (
            {
                "tables": '["opened", "connected"]',
                "sql": "SELECT o.id AS opened_id, path, 1 AS exe FROM opened o, connected c",
            },
            "id-column",
            "SELECT o",
            "connected_id",
            "connected.id AS connected_id",
        ),
        (
            {"tables": '["opened", "connected"]', "once": '{ by = ["path"], within = "1m" }'},
            "once",
            "once =",
            "single table",
            "later",
        ),
        (
            {"sql": "SELECT o.id, o.path, 1 AS exe FROM opened o\nJOIN opened p ON p.id < o.id"},
            "history",
            "opened o",
            "2 times",
            "main.opened",
        ),
        (
            {"sql": "SELECT o.id, o.path, c.port AS exe FROM opened o, main.connected c"},
            "slow",
            "connected c",
            "reads all of connected",
            "index",
        ),
        ({"sql": "SELECT *, 1 AS exe FROM opened, process"}, "doubled", "SELECT *", "selects id twice", "AS"),
        (
            {"sql": "SELECT o.id, o.path, 1 AS exe FROM opened o\nJOIN main.connected AS c ON c.address = o.path"},
            "slow",
            "AS c",
            "reads all",
            "index",
        ),
    ],
)
def test_each_fault_is_found_at_its_line(
    linter: Linter, changes: dict[str, str], code: str, word: str, text: str, hint: str | None
) -> None:
    file = rule(**changes)
    issues = [issue for issue in linter.check(file) if issue.code == code]
    assert issues, linter.check(file)
    assert issues[0].where == f"secret.toml:{line_of(file.text, word)}"
    assert text in issues[0].text
    assert hint is None or hint in str(issues[0].hint)


def test_a_rule_must_show_what_fires_and_what_does_not(linter: Linter) -> None:
    fires, silent = RULE.split("[[test]]")[1:]
    head = RULE.split("[[test]]")[0]
    for tests, text in [
        ("", "finds"),
        (f"[[test]]{fires}", "must not find"),
        (f"[[test]]{silent}", "what the rule finds"),
    ]:
        issues = linter.check(RuleFile(Path("secret.toml"), head + tests))
        assert any(issue.code == "tests" and text in issue.text for issue in issues)


@pytest.mark.parametrize(
    ("text", "line", "match"),
    [
        ("a = ", 1, "not TOML"),
        ('id = "x"\ntitle = "y', 2, "not TOML"),
        (RULE.replace("level =", "leval ="), 4, "unknown key `leval`"),
        (RULE.replace('"high"', '"huge"'), 4, "Invalid enum value 'huge'"),
        (RULE.replace('title = "it is', 'titel = "it is'), 18, "unknown key `titel`"),
        (RULE.replace('message = "{exe} opened {path}"', ""), 2, "missing key `message`"),
        (RULE.replace("{path}", "{path!r}"), 9, "more than the name"),
        (RULE.replace("{path}", "{path.__class__}"), 9, "more than the name"),
        (RULE.replace("{path}", "{0}"), 9, "more than the name"),
        (RULE.replace("{path}", "{path"), 9, "expected '}'"),
        (RULE.replace("{path}", "{path:>99999999999}"), 9, "more than the name"),
        ('once = { by = [], within = "soon" }' + RULE, 1, "no duration"),
        (RULE.replace('from = "opened"', "from = []"), 8, "names no table"),
        (RULE.replace('from = "opened"', 'from = "a b"'), 8, "names no table"),
        ("a = " + "[" * 100_000, 1, "not TOML"),
    ],
)
def test_a_file_that_is_no_rule_is_told_with_its_line(text: str, line: int, match: str) -> None:
    with pytest.raises(RuleError, match=match) as caught:
        RuleFile(Path("secret.toml"), text)
    assert str(caught.value.where) in (f"secret.toml:{line}", "secret.toml")


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "long.toml").write_bytes(b"#" * (2 << 20))
    for name, match in [("binary", "not UTF-8"), ("long", "too long"), ("missing", "no such file")]:
        with pytest.raises(RuleError, match=match):
            load_rules([tmp_path / f"{name}.toml"])


def test_a_sites_rules_stand_beside_the_bundled_ones_and_over_them(tmp_path: Path) -> None:
    (tmp_path / "secret.toml").write_text(RULE)
    (tmp_path / "broken.toml").write_text("a =")
    loaded = load_rules([tmp_path], strict=False)
    assert [one.id for one in loaded.rules] == ["secret"]
    assert [str(error.where) for error in loaded.errors] == [f"{tmp_path}/broken.toml:1"]
    with pytest.raises(RuleError):
        load_rules([tmp_path])


def test_a_sites_rule_takes_the_place_of_the_bundled_one_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "port-scan.toml").write_text(RULE.replace('"secret"', '"port-scan"'))
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "shells.toml").write_text('title = "Shells"\nvalues = ["xonsh"]\nextend = true')
    loaded = load_rules([bundled(), tmp_path])
    assert [file.path.parent for file in loaded.files if file.rule.id == "port-scan"] == [tmp_path]
    assert len(loaded.files) == len(list(bundled().glob("*.toml")))
    assert {"xonsh", "bash"} <= set(loaded.lists["shells"].values)


def test_lists_are_extended_or_replaced(tmp_path: Path) -> None:
    ours, site = tmp_path / "ours", tmp_path / "site"
    for directory, name, text in [
        (ours, "a", 'title = "A"\nvalues = [1, 2]'),
        (ours, "b", 'title = "B"\nvalues = [1, 2]'),
        (ours, "c", 'title = "C"\nrows = [{ x = 1, y = "a" }, { x = 2 }]'),
        (site, "a", 'title = "A"\nvalues = [2, 3]\nextend = true'),
        (site, "b", 'title = "B"\nvalues = [9]'),
    ]:
        (directory / "lists").mkdir(parents=True, exist_ok=True)
        (directory / "lists" / f"{name}.toml").write_text(text)
    tables = {name: content.table() for name, content in load_lists([ours, site]).items()}
    assert tables == {
        "a": (["value"], [(1,), (2,), (3,)]),
        "b": (["value"], [(9,)]),
        "c": (["x", "y"], [(1, "a"), (2, None)]),
    }


@pytest.mark.parametrize(
    "text", ["a =", 'title = "x"\nvalues = [[1]]', 'values = ["x"]', 'title="x"\nvalues=[1]\nrows=[{a=1}]']
)
def test_a_wrong_list_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "x.toml").write_text(text)
    with pytest.raises(RuleError, match=r"list") as caught:
        load_lists([tmp_path])
    assert str(caught.value.where).startswith(str(tmp_path / "lists" / "x.toml"))


def verdicts(laboratory: Laboratory, file: RuleFile) -> list[str | None]:
    return [verdict.fault for verdict in laboratory.try_rule(file, LISTS)]


def test_a_rules_tests_pass_or_say_what_is_wrong(laboratory: Laboratory) -> None:
    assert verdicts(laboratory, rule()) == [None, None]
    fails = rule(message='"{path}"')
    assert "instead of" in str(verdicts(laboratory, fails)[0])
    (verdict, _) = laboratory.try_rule(fails, LISTS)
    assert verdict.where == f"secret.toml:{line_of(fails.text, 'it is opened')}"


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ("rows.opend = [{ path = 'x' }]", "no table opend"),
        ("rows.opened = [{ pth = 'x' }]", "no column pth"),
        ("rows.opened = [{ path = 3 }]", "Expected `str | null`, got `int`"),
        ("rows.opened = [{ path = '/secret/{n}', repeat = 20000 }]", "more than 10000 rows"),
        ("rows.opened = [{ path = '/secret/{n}', repeat = 'x' }]", "are numbers"),
    ],
)
def test_wrong_rows_are_told(laboratory: Laboratory, rows: str, fault: str) -> None:
    text = RULE.replace("""rows.opened = [{ path = "/etc/passwd" }]""", rows)
    assert fault in str(verdicts(laboratory, RuleFile(Path("secret.toml"), text))[1])


def test_history_that_is_lost_while_watching_fails_the_rules_test(laboratory: Laboratory) -> None:
    # opened instead of main.opened: it works over a whole file, and never while watching.
    file = rule(
        sql="SELECT o.id, o.path, '/bin/cat' AS exe FROM opened o JOIN opened p ON p.id < o.id",
        message='"{path}"',
    )
    file = RuleFile(Path("secret.toml"), file.text.replace('["/bin/cat opened /secret/a", "? opened /secret/b"]', "1"))
    assert "row by row, as while watching, it finds nothing" in str(verdicts(laboratory, file)[0])


def test_rows_repeat_in_time(laboratory: Laboratory) -> None:
    file = rule(
        sql="SELECT id, path, time / 1000000 % 60000 AS exe FROM opened WHERE path GLOB '/secret/*'",
        message='"{path} {exe}"',
    )
    text = (
        file.text.split("[[test]]")[0]
        + """
[[test]]
title = "times"
rows.opened = [
    { at = 2, repeat = 2, every = 0.5, path = "/secret/{n}" },
    { path = "/secret/c" },
    { at = 0, path = "/secret/first" },
]
findings = ["/secret/0 2000", "/secret/1 2500", "/secret/c 2501", "/secret/first 0"]
"""
    )
    assert verdicts(laboratory, RuleFile(Path("secret.toml"), text)) == [None]


def test_words_of_sql() -> None:
    sql = "SELECT a.x, 'from b' -- from b\nFROM a /* from b */ JOIN main.b ON \"c\" = :p, d AS e, [f]"
    assert [(word.text, word.line) for word in tokens(sql) if word.kind in ("name", "quoted")][-3:] == [
        ("AS", 1),
        ("e", 1),
        ("[f]", 1),
    ]
    assert [unqualified(sql, name) for name in ("a", "b", "d")] == [1, 0, 1]


@given(st.text())
def test_any_text_can_be_split_into_words(text: str) -> None:
    assert all(word.text in text for word in tokens(text))


@given(st.text(), st.lists(st.text(), max_size=5))
def test_there_is_always_a_hint(word: str, known: list[str]) -> None:
    assert isinstance(did_you_mean(word, known), str)


@pytest.mark.parametrize(("text", "value"), [("5s", 5 * 10**9), ("250ms", 250 * 10**6), ("2h", 7200 * 10**9)])
def test_durations(text: str, value: int) -> None:
    assert duration(text) == value


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "-5s", "1.5h", "99999999s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(RuleError):
        duration(text)


def test_messages() -> None:
    assert placeholders("{a} and {b}, {{c}}") == ["a", "b"]
    assert render("{a} and {b}, {{c}}", {"a": None, "b": 3, "d": 4}) == "? and 3, {c}"
    assert render("{a}", {"a": "x\n y" + "z" * 9999})[:7] == "x yzzzz"
    assert len(render("{a}", {"a": "z" * 9999})) == 2000
