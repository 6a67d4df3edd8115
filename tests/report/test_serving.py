# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet serve`` as it is run: a process of its own, asked over HTTP."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import urllib.parse
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from drakmet.cli import cli
from drakmet.errors import StoreError, UsageError
from drakmet.report.questions import QUESTIONS
from report.files import hostile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest.importorskip("datasette", reason="needs the extra serve")
PATIENCE = 120


class Served:
    """A file that is being served."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-m", "drakmet", "serve", str(path), "--port", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.told = self.process.stderr.readline()
        address = next(word for word in self.told.split() if word.startswith("http://"))
        self.host = str(urllib.parse.urlsplit(address).netloc)
        self.name = path.stem

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.host, timeout=PATIENCE)
        try:
            connection.request("GET", urllib.parse.quote(f"/{path}", safe="/?&=_%.+"), headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def rows(self, path: str) -> list[dict[str, Any]]:
        status, text = self.get(f"{self.name}/{path}.json?_shape=array")
        assert status == 200, text
        found: list[dict[str, Any]] = json.loads(text)
        return found

    def end(self) -> tuple[int, str, str]:
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


@pytest.fixture(scope="module")
def served(watched: Path) -> Iterator[Served]:
    served = Served(watched)
    yield served
    code, out, err = served.end()
    assert (code, out) == (0, "")
    assert "Traceback" not in err


def test_it_is_for_this_machine_alone(served: Served) -> None:
    assert served.host.startswith("127.0.0.1:")
    assert served.get("", Host="rebound.example")[0] == 421
    assert served.get("", Host=f"localhost:{served.host.rpartition(':')[2]}")[0] == 200


def test_each_question_is_answered(served: Served) -> None:
    asked = {question.name for question in QUESTIONS} - {"listening"}
    answers = {name: served.rows(name) for name in asked}
    assert all(answers.values()), [name for name, rows in answers.items() if not rows]
    assert "listening" not in served.get(served.name)[1]
    assert (
        answers["findings_with_rows"][0] | {"level": "critical", "row_of": "file_write"}
        == answers["findings_with_rows"][0]
    )
    assert "bash /root/intrusion.sh" in {row["arguments"] for row in answers["execs"]}
    below = {row["process"]: row["depth"] for row in answers["process_tree"] if row["pid"] == 185}
    assert list(below.values()) == [2]
    assert {row["name"] for row in answers["names_asked"]} == {"intruder.duckdns.org", "pool.supportxmr.com"}
    assert [row["trap"] for row in answers["coverage_gaps"]] == ["identity"]


def test_tables_say_what_they_mean(served: Served) -> None:
    status, text = served.get(f"{served.name}/file_write")
    assert status == 200
    assert "A regular file was written to for the first time" in text
    assert "address of the kernel&#39;s struct file" in text
    assert "0xffff" in text
    assert "-12" not in "".join(part.partition("<")[0] for part in text.split('class="col-file')[2:])


def test_nothing_can_be_written(served: Served) -> None:
    for sql in ("delete from finding", "select 1; drop table finding", "attach '/etc/passwd' as x"):
        status, _ = served.get(f"{served.name}.json?sql={sql}")
        assert status == 400
    assert len(served.rows("finding")) == 30


def test_hostile_texts_are_shown_as_text(tmp_path: Path) -> None:
    served = Served(hostile(tmp_path / "evil.db"))
    try:
        pages = [served.get(f"evil/{name}")[1] for name in ("file_open", "finding", "execs", "findings_with_rows")]
    finally:
        code, out, err = served.end()
    assert (code, out) == (0, "")
    assert "\x1b" not in err
    for page in pages:
        assert "</script>&lt;img" not in page
        assert "<img src=x" not in page
        assert "<svg onload" not in page
        assert "&lt;/script&gt;&lt;img src=x" in page


def test_bad_use_is_said(tmp_path: Path) -> None:
    def run(*arguments: str) -> BaseException | None:
        return CliRunner().invoke(cli, ["serve", *arguments], standalone_mode=False).exception

    assert isinstance(run(str(tmp_path / "none.db"), "--port", "0"), StoreError)
    assert isinstance(run(str(tmp_path / "none.db"), "--host", "192.0.2.1", "--port", "0"), UsageError)
