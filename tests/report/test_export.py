# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes out is what came in; and what other tools want of it is there."""

import csv
import gzip
import json
import shutil
import sqlite3
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

import drakmet
from drakmet.cli import cli
from drakmet.errors import UsageError
from drakmet.report import ocsf
from drakmet.report.rows import Rows
from drakmet.store import Reader
from drakmet.text import unescape

DATA = Path(__file__).parent.parent / "data"
LOGS = sorted(path.name for path in DATA.glob("drakvuf-*.gz"))
DEMO = Path(drakmet.__file__).parent / "demo" / "demo.drec"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], standalone_mode=False)


def exported(database: Path, form: str, output: Path, *more: str) -> list[str]:
    result = run("export", database, "--format", form, "-o", output, *more)
    assert result.exception is None, result.exception
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    return output.read_text(errors="surrogateescape").splitlines()


def imported(log: Path, database: Path) -> Path:
    result = run("import", log, "--db", database, "--no-rules", "--guest", "g", "--host", "h")
    assert result.exception is None, result.exception
    return database


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    database = tmp_path_factory.mktemp("export") / "demo.db"
    result = run("replay", DEMO, "--db", database, "--no-rules")
    assert result.exception is None, result.exception
    return database


@pytest.mark.parametrize("name", LOGS)
def test_drakvufs_own_lines_come_out_as_they_came_in(name: str, tmp_path: Path) -> None:
    database = imported(DATA / name, tmp_path / "in.db")
    with gzip.open(DATA / name, "rt", errors="surrogateescape") as file:
        came = [json.loads(line, object_pairs_hook=list) for line in file if line.strip()]
    went = exported(database, "drakvuf", tmp_path / "out.log")
    assert [json.loads(line, object_pairs_hook=list) for line in went] == came


def test_an_exported_log_gives_the_same_records_again(tmp_path: Path) -> None:
    first = imported(DATA / "drakvuf-linux-filetracer.jsonl.gz", tmp_path / "first.db")
    exported(first, "drakvuf", tmp_path / "out.log")
    second = imported(tmp_path / "out.log", tmp_path / "second.db")
    for table in ("file_open", "file_close", "drakvuf_filetracer", "process"):
        assert rows(first, table) == rows(second, table)


def test_what_drakmet_saw_goes_through_drakvufs_lines(demo: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in exported(demo, "drakvuf", tmp_path / "demo.log")]
    common = ["Plugin", "TimeStamp", "PID", "PPID", "TID", "UserId", "ProcessName", "Method", "EventUID"]
    events = [line for line in lines if "RunningProcess" not in line]
    assert all(list(line)[: len(common)] == common for line in events)
    again = imported(tmp_path / "demo.log", tmp_path / "again.db")
    wanted = values(demo, "process_start", "path")
    assert wanted
    assert values(again, "process_start", "path") == wanted
    # DRAKVUF has the arguments in one text: they cannot be taken apart again, and nothing is guessed.
    told = [line["CommandLine"] for line in events if line["Method"] == "do_execveat_common"]
    assert told == [unescape(" ".join(json.loads(argv))).decode() for argv in values(demo, "process_start", "argv")]


def test_every_row_is_an_object_of_ndjson(demo: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in exported(demo, "ndjson", tmp_path / "demo.ndjson", "--table", "file_open")]
    assert len(lines) == len(rows(demo, "file_open"))
    assert {line["table"] for line in lines} == {"file_open"}
    assert [line["path"] for line in lines] == values(demo, "file_open", "path")


def test_every_table_is_a_csv(demo: Path, tmp_path: Path) -> None:
    result = run("export", demo, "--format", "csv", "-o", tmp_path / "tables")
    assert result.exception is None, result.exception
    with (tmp_path / "tables" / "net_connect.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["address"] or None for row in found] == values(demo, "net_connect", "address")


def test_events_of_ocsf_say_what_their_class_requires(demo: Path, tmp_path: Path) -> None:
    events = [json.loads(line) for line in exported(demo, "ocsf", tmp_path / "demo.ocsf")]
    assert {event["class_uid"] for event in events} >= {1001, 1007, 4001, 4003}
    own = {1001: "file", 1007: "process", 4001: "dst_endpoint", 4003: "query"}
    for event in events:
        assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
        assert event["category_uid"] == event["class_uid"] // 1000
        assert {"time", "severity_id", "metadata", "device"} <= event.keys()
        assert own.get(event["class_uid"], "metadata") in event
    starts = [event for event in events if event["type_uid"] == 100701]
    assert len(starts) == len(rows(demo, "process_start"))


def test_all_events_of_ocsf_are_valid_by_the_published_schema(demo: Path, tmp_path: Path) -> None:
    schemas = OcsfJsonSchemaEmbedded(get_ocsf_schema(version=ocsf.VERSION))
    validators: dict[int, Draft202012Validator] = {}
    judged = tmp_path / "judged.db"
    shutil.copy(demo, judged)
    run("rules", "run", judged, "--save")
    kinds: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    for file in (judged, imported(DATA / "drakvuf-windows-93b2d184.log.gz", tmp_path / "windows.db")):
        with Reader(file) as reader:
            for event in ocsf.events(Rows(reader)):
                number = event["class_uid"]
                if number not in validators:
                    name = schemas.lookup_class_name_from_uid(class_uid=number)
                    profiles = event["metadata"]["profiles"]
                    validators[number] = Draft202012Validator(schemas.get_class_schema(name, profiles))
                kinds[event["metadata"]["uid"].partition(":")[0]] += 1
                told = json.loads(json.dumps(event))
                faults.update(f"{number}: {error.message}" for error in validators[number].iter_errors(told))
    assert not faults
    assert kinds.keys() == ocsf.MAKERS.keys()


def test_events_of_ocsf_make_up_no_process_number() -> None:
    assert ocsf._process(None) == {"uid": "unknown", "name": "unknown"}
    assert "pid" not in ocsf._process({"id": 3, "pid": None})
    assert ocsf._process({"id": 3, "pid": 0})["pid"] == 0


def test_a_table_that_is_not_there_is_named(demo: Path, tmp_path: Path) -> None:
    result = run("export", demo, "--format", "csv", "--table", "nothing", "-o", tmp_path / "x.csv")
    assert isinstance(result.exception, UsageError)
    assert "no table nothing" in str(result.exception)


def rows(database: Path, table: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(database)
    try:
        return connection.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()  # noqa: S608 - a test's own name
    finally:
        connection.close()


def values(database: Path, table: str, column: str) -> list[Any]:
    connection = sqlite3.connect(database)
    try:
        found = connection.execute(f"SELECT {column} FROM {table} ORDER BY id")  # noqa: S608 - a test's own names
        return [value for (value,) in found]
    finally:
        connection.close()
