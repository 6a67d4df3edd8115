# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet rules`` as a person meets it."""

import json
import sqlite3
from pathlib import Path
from typing import Annotated

import pytest
from click.testing import CliRunner, Result

from drakmet.cli import rules as command
from drakmet.cli import rules_about, rules_check
from drakmet.errors import DrakmetError, ExitCode
from drakmet.records import Coverage, EventRecord, Process
from drakmet.store import Writer


class Opened(EventRecord):
    """A file was opened."""

    path: Annotated[str | None, "its path"] = None


RULE = """
id = "secret"
title = "A secret was read"
level = "high"
status = "test"
description = "Somebody opened a secret."
attack = ["T1005"]
from = "opened"
message = "{exe} opened {path}"
sql = '''
SELECT opened.id, path, exe FROM opened
LEFT JOIN process ON process.id = opened.process
WHERE path GLOB '/secret/*'
'''
[[test]]
title = "a secret"
rows.opened = [{ path = "/secret/a" }]
findings = 1
[[test]]
title = "no secret"
rows.opened = [{ path = "/etc/passwd" }]
findings = []
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (rules_check, rules_about):
        monkeypatch.setattr(module, "known_records", lambda _directories: [Opened])
    for module in (command, rules_check, rules_about):
        monkeypatch.setattr(module, "bundled", lambda: tmp_path)
    (tmp_path / "secret.toml").write_text(RULE)
    return tmp_path


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "run.db"
    with Writer(path, [Opened]) as writer:
        writer.begin_session(host="h", guest="g", source="s", begin=0)
        writer.put(Process(id=1, session=1, time=0, exe="/bin/\x1b[31mcat"))
        writer.put(Coverage(session=1, plugin="p", trap="t", tables=["opened"], begin=0))
        writer.put(Opened(session=1, time=10**9, process=1, path="/secret/a"))
        writer.put(Opened(session=1, time=2 * 10**9, process=1, path="/open/a"))
        writer.end_session(1, "done")
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command.rules, [str(argument) for argument in arguments])


def test_findings_end_with_1(site: Path, database: Path) -> None:
    result = run("run", database)
    assert result.exit_code == ExitCode.FINDINGS
    assert "1970-01-01T00:00:01.000000Z" in result.stdout
    assert "1 fired" in result.stderr
    assert all(line.isprintable() for line in result.output.splitlines())


def test_findings_are_the_same_for_programs(site: Path, database: Path) -> None:
    (finding,) = json.loads(run("run", database, "--json").stdout)
    assert finding["rests_on"] == [["opened", 1], ["process", 1]]
    assert (finding["rule"], finding["level"], finding["session"]) == ("secret", "high", 1)
    assert finding["message"] == "/bin/\x1b[31mcat opened /secret/a"


def test_a_clean_file_ends_with_0_and_an_unknown_one_with_3(site: Path, tmp_path: Path) -> None:
    for name, tables, code in [("clean", ["opened"], ExitCode.CLEAN), ("blind", ["other"], ExitCode.PARTLY)]:
        with Writer(tmp_path / f"{name}.db", [Opened]) as writer:
            writer.begin_session(host="h", guest="g", source="s")
            writer.put(Coverage(session=1, plugin="p", trap="t", tables=tables, begin=0))
            writer.end_session(1, "done")
        assert run("run", tmp_path / f"{name}.db").exit_code == code
    result = run("run", tmp_path / "blind.db", "--outcomes")
    assert "not evaluated" in result.stdout
    assert "opened was not collected" in result.stdout


def test_rules_are_chosen_by_id_and_level(site: Path, database: Path) -> None:
    (site / "minor.toml").write_text(RULE.replace('"secret"', '"minor"').replace('"high"', '"low"'))
    assert len(json.loads(run("run", database, "--json").stdout)) == 2
    assert [f["rule"] for f in json.loads(run("run", database, "--json", "--level", "high").stdout)] == ["secret"]
    assert [f["rule"] for f in json.loads(run("run", database, "--json", "--rule", "minor").stdout)] == ["minor"]
    result = run("run", database, "--rule", "minar")
    assert isinstance(result.exception, DrakmetError)
    assert result.exception.exit_code == ExitCode.USAGE
    assert "did you mean minor" in str(result.exception)


def test_check_and_test_are_content_with_a_good_rule(site: Path) -> None:
    assert run("check", site / "secret.toml").exit_code == ExitCode.CLEAN
    result = run("test")
    assert (result.exit_code, result.stdout) == (ExitCode.CLEAN, "")
    assert "1 rules, 2 tests, 0 failed" in result.stderr


def test_check_says_what_is_wrong_and_where(site: Path) -> None:
    bad = site / "bad.toml"
    bad.write_text(RULE.replace('"secret"', '"bad"').replace("WHERE path", "WHERE pth"))
    (site / "broken.toml").write_text("id =")
    result = run("check")
    assert result.exit_code == ExitCode.USAGE
    assert f"{bad}:13: error: there is no column pth [unknown-column]\n  did you mean path?" in result.stdout
    assert f"{site / 'broken.toml'}:1: error: not TOML" in result.stdout
    codes = {issue["code"] for issue in json.loads(run("check", "--json").stdout)}
    assert codes == {"unknown-column", "format"}


def test_check_looks_at_what_a_site_says_of_bundled_rules(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drakmet.rules.load.bundled", lambda: site)
    mine = tmp_path / "mine"
    mine.mkdir()
    for text in ("[parameters.secret]\nleast = 5", "[parameters.secrat]\nleast = 5", "[parameters"):
        (mine / "site.toml").write_text(text)
        result = run("check", mine)
        assert result.exit_code == ExitCode.USAGE
        assert "site.toml" in result.stdout
    (mine / "site.toml").write_text('[[exception]]\nrule = "secret"\nreason = "ours"')
    assert run("check", mine).exit_code == ExitCode.CLEAN


def test_check_can_be_strict(site: Path) -> None:
    (site / "secret.toml").write_text(RULE.replace('attack = ["T1005"]', ""))
    assert run("check").exit_code == ExitCode.CLEAN
    assert run("check", "--strict").exit_code == ExitCode.USAGE


def test_test_says_which_test_failed(site: Path) -> None:
    (site / "secret.toml").write_text(RULE.replace("/etc/passwd", "/secret/b"))
    result = run("test")
    assert result.exit_code == ExitCode.USAGE
    assert "no secret\n  it finds 1 ('? opened /secret/b') instead of nothing" in result.stdout
    faults = [bool(verdict["fault"]) for verdict in json.loads(run("test", "--json").stdout)]
    assert faults == [False, True]


def test_findings_are_kept_once(site: Path, database: Path) -> None:
    for new in (1, 0):
        assert f"{new} findings were new" in run("run", database, "--save").stderr
    connection = sqlite3.connect(database)
    assert connection.execute("SELECT rule, rests_on FROM finding").fetchall() == [
        ("secret", '[["opened", 1], ["process", 1]]')
    ]
    connection.close()


def test_several_files_are_judged_and_findings_are_numbered_once_kept(site: Path, database: Path) -> None:
    again = database.with_name("again.db")
    again.write_bytes(database.read_bytes())
    run("run", again, "--save")
    found = json.loads(run("run", database, again, "--json").stdout)
    assert [(row["file"], row["number"]) for row in found] == [(str(database), None), (str(again), 1)]


def test_a_finding_is_explained(site: Path, database: Path) -> None:
    run("run", database, "--save")
    text = run("explain", f"{database}:1").stdout
    for words in ("high: A secret was read", "opened 1", "/secret/a", str(site / "secret.toml"), "[[exception]]"):
        assert words in text
    assert all(line.isprintable() for line in text.splitlines())
    told = json.loads(run("explain", f"{database}:1", "--json").stdout)
    assert [(row["table"], row["id"]) for row in told["rows"]] == [("opened", 1), ("process", 1)]
    assert told["rule"]["attack"] == ["T1005"]
    for wrong in (f"{database}:7", str(database), "x", f"{database}:{'9' * 30}"):
        assert isinstance(run("explain", wrong).exception, DrakmetError)


def test_what_explain_says_silences_the_finding(site: Path, database: Path) -> None:
    run("run", database, "--save")
    told = json.loads(run("explain", f"{database}:1", "--json").stdout)
    (site / "site.toml").write_text(told["silence"]["exception"].replace("...", "it is allowed"))
    result = run("run", database, "--rules", site)
    assert (result.exit_code, result.stdout.count("secret")) == (ExitCode.CLEAN, 0)
    (end,) = json.loads(run("run", database, "--rules", site, "--outcomes", "--json").stdout)
    assert (end["state"], end["excepted"]) == ("clean", 1)


def test_the_coverage_names_techniques_and_tables_without_rules(site: Path) -> None:
    rows = {row["id"]: row for row in json.loads(run("coverage", "--json").stdout)}
    assert (rows["T1005"]["name"], rows["T1005"]["rules"]) == ("Data from Local System", ["secret"])
    assert rows["TA0009"]["rules"] == ["secret"]
    assert rows["TA0001"]["rules"] == []
    assert rows["opened"]["rules"] == ["secret"]
    (site / "secret.toml").unlink()
    assert "opened" in run("coverage", "--kind", "table", "--unused").stdout


def test_a_new_rule_passes_its_checks(site: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    assert run("new", "my-rule", "--from", "opened", "--directory", mine).exit_code == ExitCode.CLEAN
    for command_name in ("check", "test"):
        assert run(command_name, mine / "my-rule.toml").exit_code == ExitCode.CLEAN
    assert run("fmt", "--check", mine).exit_code == ExitCode.CLEAN
    for wrong in (["my-rule", "--from", "opened"], ["x", "--from", "opend"], ["../x", "--from", "opened"]):
        assert isinstance(run("new", *wrong, "--directory", mine).exception, DrakmetError)


def test_fmt_changes_files_once(site: Path) -> None:
    assert run("fmt", "--check", site).exit_code == ExitCode.USAGE
    assert (site / "secret.toml").read_text() == RULE
    assert "was changed" in run("fmt", site).stdout
    assert 'attack = ["T1005 Data from Local System"]' in (site / "secret.toml").read_text()
    assert run("fmt", "--check", site).exit_code == ExitCode.CLEAN
    assert run("check", site, "--strict").exit_code == ExitCode.CLEAN


def test_check_writes_sarif(site: Path) -> None:
    (site / "bad.toml").write_text(RULE.replace('"secret"', '"bad"').replace("WHERE path", "WHERE pth"))
    log = json.loads(run("check", "--sarif").stdout)
    (result,) = log["runs"][0]["results"]
    assert log["version"] == "2.1.0"
    assert (result["ruleId"], result["level"]) == ("unknown-column", "error")
    place = result["locations"][0]["physicalLocation"]
    assert place == {"artifactLocation": {"uri": f"file://{site}/bad.toml"}, "region": {"startLine": 13}}
    known = log["runs"][0]["tool"]["driver"]["rules"]
    assert known[result["ruleIndex"]]["id"] == "unknown-column"


def test_the_schema_is_json(site: Path) -> None:
    assert json.loads(run("schema").stdout)["$schema"].startswith("https://json-schema.org/")


def test_rules_are_listed_and_shown(site: Path) -> None:
    assert "A secret was read" in run("list").stdout
    assert run("show", "secret").stdout == f"# {site / 'secret.toml'}\n{RULE}"
    assert isinstance(run("show", "secrat").exception, DrakmetError)
