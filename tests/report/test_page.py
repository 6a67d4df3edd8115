# SPDX-License-Identifier: GPL-2.0-or-later
"""The report as data and as a page, without a browser."""

from __future__ import annotations

import json
import re
import stat
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from drakmet.cli import cli
from drakmet.errors import UsageError
from drakmet.holes.records import HOLE_RECORDS, Advisory, Hole
from drakmet.report.limits import LONGEST, Limits
from drakmet.report.model import model
from drakmet.report.pack import packed
from drakmet.report.page import MOST_BYTES, SCRIPTS, page
from drakmet.store import Reader, Writer
from report.files import DATA, crowd, hostile


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], standalone_mode=False)


class Page(HTMLParser):
    """What a page's markup is made of, and the data in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        name = "data" if self.tags and self.tags[-1][1].get("id") == "data" else self.tags[-1][0] if self.tags else ""
        self.texts[name] = self.texts.get(name, "") + data


def told(path: Path, **options: Any) -> dict[str, Any]:
    with Reader(path) as file:
        return model(file, **options)


def test_the_demo_is_told_whole(watched: Path) -> None:
    found = told(watched)
    assert found["levels"] == {"critical": 2, "high": 17, "medium": 9, "low": 2}
    assert len(found["findings"]) == 30
    assert found["left_out"] == []
    lanes = {lane["table"]: lane["rows"] for lane in found["timeline"]["lanes"]}
    assert lanes["process_start"] == found["totals"]["process_start"]
    counted = dict.fromkeys(lanes, 0)
    for cell in found["timeline"]["cells"]:
        counted[found["timeline"]["lanes"][cell["lane"]]["table"]] += cell["number"]
    assert counted == lanes
    known = {one["id"] for one in found["processes"]}
    for part in ("findings", "events", "connections"):
        assert {one["process"] for one in found[part]} <= {*known, None}
    assert found["seen"] == {"traps": 27, "with_gaps": 1}
    few = told(watched, limits=Limits(intervals=1))
    assert (few["seen"], [one["trap"] for one in few["coverage"]]) == (found["seen"], ["identity"])
    first = found["findings"][0]
    assert (first["level"], first["rule"], first["coverage"]) == ("critical", "ld-preload-changed", "complete")
    assert "path: /etc/ld.so.preload" in first["rests_on"][0]["text"]


def test_a_page_has_all_it_needs_and_names_nothing_outside(watched: Path) -> None:
    with Reader(watched) as file:
        text = page(file)
    parsed = Page(text)
    (policy,) = (a["content"] for _, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert not [tag for tag, attributes in parsed.tags if {"src", "srcset", "data", "action"} & attributes.keys()]
    assert all(str(a["href"]).startswith("#") for _, a in parsed.tags if "href" in a)
    assert {tag for tag, _ in parsed.tags}.isdisjoint({"link", "iframe", "img", "base", "object", "embed"})
    # The name of SVG's namespace is no address that anything would be fetched from.
    del parsed.texts["data"]
    assert set(re.findall(r"https?://[^\s\"']+", str(parsed.texts))) == {"http://www.w3.org/2000/svg"}


def test_scripts_make_no_markup_of_strings_and_ask_nobody() -> None:
    static = Path(page.__code__.co_filename).parent / "static"
    assert {path.name for path in static.glob("*.js")} == set(SCRIPTS)
    script = "".join((static / name).read_text() for name in SCRIPTS)
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "fetch(",
                 "XMLHttpRequest", "WebSocket", "import(", "localStorage", "cookie"):  # fmt: skip
        assert word not in script, word


def test_hostile_texts_stay_data(tmp_path: Path) -> None:
    path = hostile(tmp_path / "{{script}}.db")
    with Reader(path) as file:
        text = page(file)
        data = json.loads(Page(text).texts["data"])
    assert text.count("<script") == text.count("</script>") == 2
    assert "<img" not in text
    assert not any("{{" in part for name, part in Page(text).texts.items() if name not in ("data", "title"))
    texts = "".join(data["texts"]) + json.dumps(data["data"], ensure_ascii=False)
    assert "</script><img src=x onerror=alert(1)>" in texts
    assert all(character.isprintable() for character in texts)


def test_much_is_bounded_and_what_is_left_out_is_told(tmp_path: Path) -> None:
    path = crowd(tmp_path / "crowd.db", processes=400, events=3000)
    limits = Limits(processes=50, findings=20, cells=300, events=40, connections=30, rows=10, intervals=5)
    found = told(path, limits=limits)
    assert len(found["processes"]) <= 50
    assert found["processes_total"] == 400
    assert len(found["findings"]) == 20
    assert found["levels"] == found["guests"][0]["levels"] == {"low": 100}
    assert max(one["findings"] for one in found["processes"]) == 1
    assert sum(one["findings"] for one in told(path)["processes"]) == 100
    assert found["seen"] == {"traps": 0, "with_gaps": 0}
    assert found["connections_total"] > len(found["connections"])
    assert len(found["timeline"]["cells"]) <= 300
    assert sum(cell["number"] for cell in found["timeline"]["cells"]) == 3000
    assert len(found["connections"]) == 30
    assert max(lane["listed"] for lane in found["timeline"]["lanes"]) <= 40
    for word in ("processes", "finding", "timeline", "connections", "net_connect"):
        assert any(sentence.startswith(word) for sentence in found["left_out"]), word
    kept = {one["id"] for one in found["processes"]}
    assert all(one["parent"] in kept for one in found["processes"] if one["parent"] is not None)
    assert all(len(one["argv"]) <= LONGEST + 1 for one in found["processes"] if one["argv"])
    with Reader(path) as file:
        assert len(page(file).encode()) < MOST_BYTES


@pytest.mark.parametrize("name", ["drakvuf-windows-93b2d184.log.gz", "drakvuf-linux-filetracer.jsonl.gz"])
def test_logs_of_drakvuf_become_pages(name: str, tmp_path: Path) -> None:
    path = tmp_path / "in.db"
    assert run("import", DATA / name, "--db", path, "--no-rules", "--guest", "g", "--host", "h").exception is None
    output = tmp_path / "page.html"
    assert run("report", path, "-o", output).exception is None
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert b"</html>" in output.read_bytes()
    lines = json.loads(run("report", path, "--json").stdout)
    assert lines["timeline"]["lanes"]
    assert lines["guests"][0]["name"] == "g"


def test_an_empty_file_is_a_page(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    Writer(path, []).close()
    result = run("report", path, "-o", "-")
    assert result.exception is None
    assert result.stdout.endswith("</html>\n")
    found = json.loads(run("report", path, "--json").stdout)
    assert (found["findings"], found["processes"], found["timeline"]["lanes"]) == ([], [], [])


def test_rules_without_findings_say_whether_they_could_find(watched: Path) -> None:
    rules = {rule["rule"]: rule for rule in json.loads(run("report", watched, "--json").stdout)["rules"]}
    assert rules["ld-preload-changed"]["state"] == "fired"
    assert rules["shell-on-socket"]["state"] == "not evaluated"
    assert "not collected" in rules["shell-on-socket"]["reason"]


def test_one_session_alone(tmp_path: Path) -> None:
    path = crowd(tmp_path / "crowd.db", processes=4, events=10)
    assert len(json.loads(run("report", path, "--session", "1", "--json").stdout)["sessions"]) == 1
    assert isinstance(run("report", path, "--session", "7").exception, UsageError)
    assert isinstance(run("report", path, "-o", tmp_path / "no" / "where").exception, UsageError)


def test_the_name_of_the_page_is_the_files(tmp_path: Path) -> None:
    path = crowd(tmp_path / "crowd.db", processes=4, events=10)
    assert run("report", path).exception is None
    assert (tmp_path / "crowd.html").is_file()


def test_packed_rows_carry_each_text_once() -> None:
    rows = [{"name": "the same", "number": number, "inner": [{"a": None}]} for number in range(20)]
    found = json.loads(packed({"rows": rows, "few": rows[:2]}))
    assert found["texts"] == ["the same"]
    assert found["data"]["rows"]["#columns"]["name"] == {"t": [0] * 20}
    assert found["data"]["few"] == rows[:2]


def test_holes_of_the_last_comparison_are_told_the_open_ones_first(tmp_path: Path) -> None:
    path = tmp_path / "holes.db"
    with Writer(path, HOLE_RECORDS) as writer:
        session = writer.begin_session(host="xen1", guest="web1", source="xen:web1").session
        for time, state in ((1, "affected"), (2, "fixed"), (2, "may be affected")):
            common = {"session": session, "time": time}
            writer.put(Advisory(**common, name="</script>debian.json", kind="tracker", digest="ab", date=10**18))
            writer.put(Hole(**common, hole="CVE-1", state=state, package="p", versions=["p 1", "p 2"], paths=[]))
        writer.end_session(session, "done")
    found = told(path)
    assert [(row["state"], row["version"], row["guest"]) for row in found["holes"]] == [
        ("may be affected", "p 1, p 2", 1),
        ("fixed", "p 1, p 2", 1),
    ]
    assert [row["date"] for row in found["advisories"]] == [10**18, 10**18]
    assert found["applications"] == []
