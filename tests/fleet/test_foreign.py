# SPDX-License-Identifier: GPL-2.0-or-later
"""A result is taken as what an attacker on the host would send: each trick is named, and nothing of it is merged."""

from __future__ import annotations

import gzip
import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from fleet.results import RECORDS, change, pack, write

from drakmet.fleet.foreign import BrokenResultError, read_result
from drakmet.fleet.merge import Merger
from drakmet.fleet.records import FleetHost
from drakmet.records import Process, Session
from drakmet.store import Writer
from drakmet.store.verifier import verify

MOST = 1 << 22
# SQLite keeps to a STRICT table's types, so the attacker first makes it one that is not.
LOOSE = (
    "PRAGMA writable_schema = ON",
    "UPDATE sqlite_schema SET sql = rtrim(rtrim(sql), 'STRICT') WHERE sql LIKE '%STRICT'",
)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    return tmp_path / "incoming" / "host.db.gz"


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["CREATE VIEW v AS SELECT 1"], "more than tables"),
        (["CREATE TRIGGER t AFTER INSERT ON process BEGIN SELECT 1; END"], "more than tables"),
        (["CREATE VIRTUAL TABLE v USING fts5(x)"], "more than tables"),
        (["ALTER TABLE process ADD COLUMN z TEXT GENERATED ALWAYS AS (hex(zeroblob(100000000))) VIRTUAL"], "computes"),
        (["PRAGMA application_id = 7"], "no drakmet wrote it"),
        (["DROP TABLE session"], "no table session"),
        (["UPDATE process SET comm = 'other' WHERE id = 2"], "not as they were written"),
        (["UPDATE open_file SET session = 40"], "refers to session 40"),
        (["UPDATE open_file SET process = -1"], "refers to process -1"),
        (["UPDATE process SET life = 4000"], "refers to process 4000"),
        (["UPDATE process SET id = 1152921504606846976 WHERE id = 6"], "impossible numbers"),
        (["UPDATE hidden_object SET seen_in = '{}'"], "no list"),
        (["UPDATE hidden_object SET seen_in = '" + "[" * 5000 + "'"], "no list"),
        ([*LOOSE, "PRAGMA writable_schema = RESET", "UPDATE process SET pid = 'text'"], "holds str, not INTEGER"),
        ([*LOOSE, "PRAGMA writable_schema = RESET", "UPDATE process SET comm = X'0001'"], "holds bytes, not TEXT"),
        (["UPDATE process SET comm = CAST(X'ff' AS TEXT)"], "UTF-8"),
    ],
)
def test_each_trick_is_named(tmp_path: Path, packed: Path, statements: list[str], said: str) -> None:
    pack(change(write(tmp_path / "a.db"), *statements), packed)
    with pytest.raises(BrokenResultError, match=said):
        read_result(packed, RECORDS, most=MOST)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("unpacked")] == []


def test_what_is_no_file_is_not_followed(tmp_path: Path, packed: Path) -> None:
    pack(write(tmp_path / "a.db"), tmp_path / "good.gz")
    packed.parent.mkdir()
    packed.symlink_to(tmp_path / "good.gz")
    with pytest.raises(BrokenResultError, match="no file came"):
        read_result(packed, RECORDS, most=MOST)
    packed.unlink()
    for make in (Path.mkdir, os.mkfifo):
        make(packed)
        with pytest.raises(BrokenResultError, match="no file"):
            read_result(packed, RECORDS, most=MOST)
        packed.rmdir() if packed.is_dir() else packed.unlink()


def test_a_bomb_is_not_unpacked(packed: Path) -> None:
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(bytes(MOST * 4)))
    with pytest.raises(BrokenResultError, match="more than 4 MiB"):
        read_result(packed, RECORDS, most=MOST)


def test_what_is_cut_off_or_damaged_is_said(tmp_path: Path, packed: Path) -> None:
    whole = pack(write(tmp_path / "a.db"), packed).read_bytes()
    for cut in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        packed.write_bytes(whole[:cut])
        with pytest.raises(BrokenResultError):
            read_result(packed, RECORDS, most=MOST)


def test_damaged_databases_are_broken_results_or_the_same_rows(tmp_path: Path, packed: Path) -> None:
    data = write(tmp_path / "a.db").read_bytes()
    good = read_result(pack(tmp_path / "a.db", packed), RECORDS, most=MOST).columns
    chance = random.Random(6)  # noqa: S311 - no secret
    for _ in range(150):
        changed = bytearray(data)
        for _ in range(chance.choice((1, 4, 64))):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        packed.write_bytes(gzip.compress(bytes(changed), 1))
        try:
            found = read_result(packed, RECORDS, most=MOST)
        except BrokenResultError:
            continue
        # The chain covers every row: what is taken is what was written.
        assert found.columns == good


def test_results_are_merged_under_free_numbers_and_chained(tmp_path: Path, packed: Path) -> None:
    database = tmp_path / "fleet.db"
    with Writer(database, [*RECORDS, FleetHost]) as writer:
        merger = Merger(writer)
        for number, name in enumerate(("one", "two", "three"), 1):
            pack(write(tmp_path / "a.db", guests=number, processes=number + 1), packed)
            result = read_result(packed, RECORDS, most=MOST)
            done = merger.add(result, FleetHost(name=name, begin=1, end=2, outcome="done", head=result.head))
            assert done.rows == sum(result.count(record) for record in RECORDS) - 1
            assert result.count(Session) == number
            assert result.count(Process) == number * (number + 1)
    assert not verify(database).faults
    with closing(sqlite3.connect(database)) as connection:
        hidden = connection.execute("SELECT DISTINCT address, seen_in FROM hidden_object").fetchall()
        assert hidden == [(-4096, '["list","idr"]')]
        rows = connection.execute(
            "SELECT h.name, g.name, p.pid, f.path, p.life - p.id, p.parent IN"
            " (SELECT id FROM process q WHERE q.session = p.session AND q.pid = 0)"
            " FROM open_file f JOIN process p ON p.id = f.process AND p.session = f.session"
            " JOIN session s ON s.id = f.session JOIN guest g ON g.id = s.guest JOIN host h ON h.id = g.host"
        ).fetchall()
    assert sorted(rows) == sorted(
        (name, f"web{guest}", pid, f"/web{guest}/{pid}", 0, 1)
        for number, name in enumerate(("one", "two", "three"), 1)
        for guest in range(number)
        for pid in range(number + 1)
    )


def test_a_host_cannot_speak_for_the_fleet(tmp_path: Path, packed: Path) -> None:
    source = write(tmp_path / "a.db")
    with Writer(source, [*RECORDS, FleetHost]) as writer:
        writer.put(FleetHost(name="another", begin=1, end=2, outcome="done"))
    result = read_result(pack(source, packed), [*RECORDS, FleetHost], most=MOST)
    assert FleetHost not in result.columns
