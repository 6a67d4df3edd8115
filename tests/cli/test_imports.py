# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet import`` and ``drakmet tree``, as they are used."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zstandard
from click.testing import CliRunner
from drakvuf.logs import LINUX, WINDOWS, line, unpacked

from drakmet.cli import cli
from drakmet.errors import StoreError, UsageError
from drakmet.store import Reader, verifier


def run(*words: Any, code: int = 0) -> str:
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result.stdout


def summary(*words: Any, code: int = 0) -> dict[str, Any]:
    return dict(json.loads(run("import", *words, "--json", "--no-rules", code=code)))


def ask(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with Reader(path) as reader:
        _, rows = reader.select(sql)
        return [tuple(row.values()) for row in rows]


def test_the_windows_log_is_accounted_for_and_its_tree_is_right(tmp_path: Path) -> None:
    path = tmp_path / "w.db"
    text = run("import", WINDOWS, "--db", path, "--guest", "win10", "--host", "xen3")
    assert "4001 lines = 4001 records + 0 quarantined" in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ask(path, "SELECT g.name, g.os, h.name FROM guest g JOIN host h ON h.id = g.host") == [
        ("win10", "windows", "xen3")
    ]
    rows = json.loads(run("tree", path, "--json"))
    pids = {row["process"]: row["pid"] for row in rows}
    edges = {row["pid"]: pids.get(row["parent"]) for row in rows}
    # 79 that run already, one that is made; what DRAKVUF Sandbox 0.21 makes of the same log.
    assert len(rows) == len(edges) == 80
    chain = [5388, 772, 636, 552, 480]
    assert [edges[pid] for pid in chain[:2]] == chain[1:3]
    assert [edges[4852], edges[3564], edges[3888], edges[2852]] == [3888, 4852, 2852, 5640]
    made = next(row for row in rows if row["pid"] == 5388)
    assert made["argv"] == [r"C:\\Windows\\system32\\DllHost.exe", "/Processid:{AB8902B4-09CA-4BB6-B78D-A8F59079A8D5}"]
    assert "malware.exe" in run("tree", path)
    # The plugins' own keys can be asked for under the guard that queries and rules have.
    sql = "SELECT sql FROM (SELECT count(*) AS sql FROM drakvuf_sysret WHERE info = 'STATUS_SUCCESS' AND ret = 0)"
    assert ask(path, sql)[0][0] > 500


@pytest.mark.parametrize("path", LINUX, ids=lambda path: path.name.split("-")[2].partition(".")[0])
def test_every_line_of_a_linux_log_is_a_record(path: Path, tmp_path: Path) -> None:
    found = summary(path, "--db", tmp_path / "l.db")
    assert (found["records"], found["quarantined"], found["balanced"], found["os"]) == (
        unpacked(path).count(b"\n"), 0, True, "linux",
    )  # fmt: skip


@pytest.mark.parametrize("path", [WINDOWS, *LINUX], ids=lambda path: path.name.removesuffix(".gz"))
def test_what_was_imported_can_be_verified(path: Path, tmp_path: Path) -> None:
    found = summary(path, "--db", tmp_path / "l.db")
    # With computed columns in its tables, SQLite 3.40 did not read the file at all.
    assert found["records"] < verifier.verify(tmp_path / "l.db").rows
    assert "as they were written" in run("verify", tmp_path / "l.db")


def test_each_form_of_a_log_gives_the_same(tmp_path: Path) -> None:
    log = unpacked(LINUX[1])
    plain, packed, squeezed = tmp_path / "a.log", tmp_path / "b.log.gz", tmp_path / "c.zst"
    plain.write_bytes(log)
    packed.write_bytes(gzip.compress(log[:1000]) + gzip.compress(log[1000:]))
    squeezed.write_bytes(zstandard.compress(log[:2000]) + zstandard.compress(log[2000:]))
    found = []
    for one in (plain, packed, squeezed):
        summary(one, "--db", one.with_suffix(".db"))
        found.append(
            ask(one.with_suffix(".db"), "SELECT time, process, tid, method, event, fields FROM drakvuf_procmon")
        )
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 1354


def test_a_log_that_sandbox_has_split_is_put_together_in_the_order_of_time(tmp_path: Path) -> None:
    split = tmp_path / "analysis"
    split.mkdir()
    logs: dict[str, list[bytes]] = {}
    for text in unpacked(WINDOWS).splitlines(keepends=True):
        logs.setdefault(json.loads(text.decode("utf-8", "surrogateescape"))["Plugin"], []).append(text)
    for plugin, lines in logs.items():
        (split / f"{plugin}.log").write_bytes(b"".join(lines))
    (split / "drakrun.log").write_text("not one of these\n")
    found = summary(split, "--db", tmp_path / "s.db")
    assert (found["records"], found["quarantined"], found["skipped"]) == (4001, 0, ["drakrun.log"])
    assert len(json.loads(run("tree", tmp_path / "s.db", "--json"))) == 80


def test_the_same_log_is_imported_once_unless_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "w.db"
    assert summary(LINUX[2], "--db", path)["records"] == 92
    copy = tmp_path / "copy.gz"
    copy.write_bytes(LINUX[2].read_bytes())
    assert summary(copy, "--db", path) == {"already_imported": f"drakvuf:{LINUX[2]}", "database": str(path), "exit": 0}
    assert "already imported" in run("import", f"drakvuf:{copy}", "--db", path)
    assert summary(LINUX[1], "--db", path)["records"] == 1354
    assert summary(copy, "--db", path, "--again")["records"] == 92
    assert ask(path, "SELECT count(*) FROM drakvuf_ptracemon") == [(184,)]


def test_what_is_broken_is_kept_with_its_reason_and_the_exit_code_says_so(tmp_path: Path) -> None:
    log, path = tmp_path / "x.log", tmp_path / "x.db"
    log.write_bytes(b"junk\xff\n\n" + line("regmon", [("Key", "a")]) + b'\n{"Plugin":"regmon","TimeSt')
    found = summary(log, "--db", path, code=3)
    assert (found["lines"], found["records"], found["quarantined"], found["blank"]) == (4, 1, 2, 1)
    assert found["balanced"]
    kept = ask(path, "SELECT row, reason FROM drakmet_quarantine ORDER BY id")
    assert [row for row, _ in kept] == [r"junk\xff", '{"Plugin":"regmon","TimeSt']


def test_a_compressed_log_that_is_cut_gives_what_is_there(tmp_path: Path) -> None:
    whole = LINUX[1].read_bytes()
    log = tmp_path / "cut.gz"
    log.write_bytes(whole[: len(whole) // 2])
    found = summary(log, "--db", tmp_path / "cut.db", code=3)
    assert "ends early" in found["outcome"]
    assert 100 < found["records"] < 1354


def test_a_damaged_compressed_log_gives_all_up_to_the_damage(tmp_path: Path) -> None:
    lines = b"".join(line("regmon", [("Key", f"k{number}")]) + b"\n" for number in range(100))
    packed = gzip.compress(lines)
    log = tmp_path / "crc.gz"
    log.write_bytes(packed[:-8] + bytes(8))  # a checksum and a length that are not its own
    found = summary(log, "--db", tmp_path / "crc.db", code=3)
    assert "damaged" in found["outcome"]
    assert found["records"] + found["quarantined"] == found["lines"] == 100


def test_a_damaged_log_of_zstandard_gives_all_up_to_the_damage(tmp_path: Path) -> None:
    frames = [
        b"".join(line("regmon", [("Key", f"k{number}")]) + b"\n" for number in range(start, start + 100))
        for start in (0, 100)
    ]
    packed = zstandard.ZstdCompressor(write_checksum=True)
    whole = b"".join(packed.compress(frame) for frame in frames)
    log = tmp_path / "crc.zst"
    log.write_bytes(whole[:-4] + bytes(4))  # a checksum that is not its own
    found = summary(log, "--db", tmp_path / "crc.db", code=3)
    assert "damaged" in found["outcome"]
    assert found["records"] == found["lines"] == 200


def test_a_line_that_is_too_long_is_one_line(tmp_path: Path) -> None:
    lines = [line("regmon", [("Key", key)], EventUID=uid) for key, uid in (("a", "0x1"), ("x" * (35 << 20), "0x2"))]
    log = tmp_path / "long.log"
    log.write_bytes(b"\n".join([*lines, line("regmon", [("Key", "b")], EventUID="0x3"), b""]))
    found = summary(log, "--db", tmp_path / "long.db", code=3)
    assert (found["lines"], found["records"], found["quarantined"]) == (3, 2, 3)
    assert (found["parted"], found["balanced"]) == (2, True)
    assert found["reasons"] == {"a piece of a line that is too long": 3}
    assert ask(tmp_path / "long.db", "SELECT line FROM drakvuf_regmon ORDER BY id") == [(1,), (3,)]
    with contextlib.closing(sqlite3.connect(tmp_path / "long.db")) as connection:
        kept = connection.execute("SELECT sum(length(row)) FROM drakmet_quarantine").fetchone()
    assert kept == (len(lines[1]),)


@pytest.mark.parametrize("log", [WINDOWS, LINUX[0]])
def test_a_session_ends_with_its_log_and_not_when_it_is_stored(log: Path, tmp_path: Path) -> None:
    summary(log, "--db", tmp_path / "a.db")
    ((begin, end, last),) = ask(
        tmp_path / "a.db", "SELECT begin, end, (SELECT max(end) FROM coverage) AS last FROM session"
    )
    assert begin < end == last
    assert end - begin < 86_400 * 10**9


def test_a_number_too_large_for_a_column_loses_nothing(tmp_path: Path) -> None:
    log, path = tmp_path / "x.log", tmp_path / "x.db"
    log.write_bytes(line("regmon", [("Key", 10**40)], TID=2**64) + b"\n" + line("regmon", [], PID=-(2**63)))
    assert summary(log, "--db", path)["records"] == 2
    assert ask(path, "SELECT count(*) FROM drakvuf_regmon") == [(2,)]


def test_a_file_beside_the_log_says_what_it_is_about(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_bytes(line("rootkitmon", []))
    Path(f"{log}.toml").write_text('host = "h1"\nguest = "g1"\nos = "windows"\n')
    summary(log, "--db", tmp_path / "x.db", "--guest", "g2")
    sql = "SELECT g.name, g.os, h.name FROM guest g JOIN host h ON h.id = g.host"
    assert ask(tmp_path / "x.db", sql) == [("g2", "windows", "h1")]
    Path(f"{log}.toml").write_text("os = 7\n")
    run("import", log, code=1)


def test_rules_judge_what_drakvuf_saw(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    told = [("CommandLine", "sh -c id"), ("ImagePathName", "/bin/dash"), ("ouid", 33), ("euid", 33)]
    log.write_bytes(line("procmon", told, method="do_execveat_common", ProcessName="/usr/sbin/nginx", UserId=33))
    text = run("import", log, "--db", tmp_path / "x.db", code=1)
    assert "shell-from-network-service" in text
    assert ask(tmp_path / "x.db", "SELECT rule FROM finding") == [("shell-from-network-service",)]


def test_standard_input_is_stored_while_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "live.db"
    command = [sys.executable, "-m", "drakmet", "import", "-", "--db", str(path), "--no-rules", "--json"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ) as process:
        assert process.stdin is not None
        process.stdin.write(line("regmon", [("Key", "a")]) + b"\n" + line("regmon", [], EventUID="0x2")[:30])
        process.stdin.flush()
        for _ in range(100):
            subprocess.run(["sleep", "0.1"], check=True)
            with contextlib.suppress(StoreError, UsageError):
                if ask(path, "SELECT count(*) FROM drakvuf_regmon") == [(1,)]:
                    break
        else:
            pytest.fail("the first line was not stored while the input went on")
        process.stdin.write(line("regmon", [], EventUID="0x2")[30:] + b"\n")
        output, _ = process.communicate(timeout=20)
    assert json.loads(output)["records"] == 2


@pytest.mark.parametrize("name", ["missing.log", "drakvuf:missing.log"])
def test_a_log_that_is_not_there(name: str) -> None:
    result = CliRunner().invoke(cli, ["import", name])
    assert "no such file" in str(result.exception)
