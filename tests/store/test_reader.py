# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading a file: what a query may do, what it gets, and how it is stopped."""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drakmet.errors import DrakmetError, StoreError, UsageError
from drakmet.records import Address, EventRecord
from drakmet.store import Reader, Writer, functions


class Seen(EventRecord):
    """A thing was seen."""

    address: Annotated[Address | None, "where"] = None
    words: Annotated[list[str] | None, "what"] = None
    flag: Annotated[bool | None, "whether"] = None
    path: Annotated[str | None, "its path"] = None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "watch.db"
    with Writer(file, [Seen]) as writer:
        writer.put(Seen(session=1, time=1, address=2**64 - 1, words=["a"], flag=True, path="/etc/x"))
        writer.put(Seen(session=1, time=2))
    return file


@pytest.fixture
def reader(path: Path) -> Iterator[Reader]:
    with Reader(path) as opened:
        yield opened


def ask(reader: Reader, sql: str, **options: Any) -> list[dict[str, Any]]:
    return list(reader.select(sql, **options)[1])


def test_columns_mean_what_their_records_say(reader: Reader) -> None:
    assert ask(reader, "SELECT id, address, words, flag FROM seen AS s") == [
        {"id": 1, "address": "0xffffffffffffffff", "words": ["a"], "flag": True},
        {"id": 2, "address": None, "words": None, "flag": None},
    ]
    assert ask(reader, "SELECT max(address) AS other FROM seen") == [{"other": -1}]


def test_columns_mean_the_same_when_they_are_asked_for_again(reader: Reader) -> None:
    sql = "SELECT * FROM seen"
    assert ask(reader, sql) == ask(reader, sql)


def test_two_columns_of_one_name_are_kept_apart(reader: Reader) -> None:
    names, rows = reader.select("SELECT a.id, b.id FROM seen a JOIN seen b ON b.id > a.id")
    assert (names, list(rows)) == (["id", "id:2"], [{"id": 1, "id:2": 2}])


def test_the_file_describes_itself(reader: Reader) -> None:
    tables = {table.name: table for table in reader.tables()}
    assert set(tables) >= {"seen", "process", "session", "finding"}
    assert (tables["seen"].doc, tables["seen"].event, tables["seen"].rows) == ("A thing was seen.", True, 2)
    assert [(c.name, c.kind, c.doc) for c in tables["seen"].columns][-1] == ("path", None, "its path")
    assert not tables["process"].event


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO seen (session, time) VALUES (1, 1)",
        "UPDATE seen SET time = 0",
        "DELETE FROM seen",
        "DROP TABLE seen",
        "CREATE TABLE x (a)",
        "CREATE TEMP TABLE x (a)",
        "CREATE TEMP TRIGGER t AFTER INSERT ON seen BEGIN SELECT 1; END",
        "CREATE VIEW v AS SELECT 1",
        "CREATE VIRTUAL TABLE v USING fts5(a)",
        "ATTACH ':memory:' AS other",
        "ATTACH '/etc/passwd' AS other",
        "DETACH main",
        "PRAGMA query_only = 0",
        "PRAGMA table_info(seen)",
        "SELECT * FROM pragma_table_info('seen')",
        "SELECT load_extension('x')",
        "SELECT fts3_tokenizer('x')",
        "SELECT random()",
        "SELECT writefile('/tmp/x', 'y')",
        "BEGIN",
        "SAVEPOINT a",
        "VACUUM",
        "VACUUM INTO '/tmp/x.db'",
        "REINDEX",
        "ANALYZE",
        "SELECT 1; DELETE FROM seen",
        "",
        "-- nothing",
        "SELECT nothing FROM seen",
        "SELECT 1 FROM nowhere",
        "SELECT :missing",
        "SELECT '\ud800'",
        "SELECT '\0'",
        "SELECT " + "(" * 500 + "1" + ")" * 500,
    ],
)
def test_a_query_can_only_read(reader: Reader, path: Path, sql: str) -> None:
    before = path.read_bytes()
    with pytest.raises(UsageError):
        ask(reader, sql)
    assert path.read_bytes() == before
    assert len(ask(reader, "SELECT * FROM seen")) == 2


@pytest.mark.parametrize(
    "sql",
    [
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i < 0",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION SELECT i + 1 FROM n) SELECT count(*) FROM n a, n b",
    ],
)
def test_a_query_without_end_is_stopped(reader: Reader, sql: str) -> None:
    begin = time.monotonic()
    with pytest.raises(UsageError, match=r"longer than 0\.2 s"):
        for _ in reader.select(sql, seconds=0.2)[1]:
            pass
    assert time.monotonic() - begin < 2
    assert len(ask(reader, "SELECT * FROM seen")) == 2


@pytest.mark.parametrize(
    "sql", ["SELECT zeroblob(900000000)", "SELECT printf('%.*c', 900000000, 'x')", "SELECT hex(zeroblob(16000000))"]
)
def test_a_query_cannot_eat_the_memory(reader: Reader, sql: str) -> None:
    with pytest.raises(UsageError):
        ask(reader, sql)


def test_a_file_is_read_while_it_is_written(tmp_path: Path) -> None:
    with Writer(tmp_path / "a.db", [Seen]) as writer, Reader(tmp_path / "a.db") as reader:
        for number in range(1, 4):
            writer.put(Seen(session=1, time=number))
            writer.flush()
            assert ask(reader, "SELECT count(*) AS n FROM seen") == [{"n": number}]


def test_an_open_cursor_does_not_hinder_the_writer(path: Path) -> None:
    with Reader(path) as reader, Writer(path, [Seen]) as writer:
        _, rows = reader.select("SELECT * FROM seen")
        next(rows)
        for number in range(10):
            writer.put(Seen(session=1, time=number))
            writer.flush()
        assert writer.stored == 10


def test_a_file_on_a_read_only_disk_can_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sqlite3.connect

    def refuse_shared_memory(database: str, **options: Any) -> sqlite3.Connection:
        return real(database if "immutable" in database else "file:/proc/nothing?mode=ro", **options)

    monkeypatch.setattr(sqlite3, "connect", refuse_shared_memory)
    with Reader(path) as reader:
        assert len(ask(reader, "SELECT * FROM seen")) == 2


def test_files_that_are_not_ours_are_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.db").write_bytes(b"a letter to my mother\n" * 100)
    (tmp_path / "empty.db").touch()
    connection = sqlite3.connect(tmp_path / "other.db")
    connection.execute("CREATE TABLE mail (text)")
    connection.close()
    for name, match in [
        ("letter.db", "not a SQLite database"),
        ("empty.db", "wrote nothing into it"),
        ("other.db", "another program's"),
        ("missing.db", "no such file"),
        (".", "not a file"),
    ]:
        with pytest.raises(StoreError, match=match):
            Reader(tmp_path / name)


def test_a_damaged_file_is_told(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(DrakmetError, match="damaged"), Reader(path) as reader:
        ask(reader, "SELECT * FROM seen")


VALUES = (
    st.none() | st.integers() | st.floats() | st.text() | st.binary() | st.sampled_from(["10.0.0.1", "/a/b", "[1]"])
)


@given(first=VALUES, second=VALUES)
def test_no_function_ever_raises(first: object, second: object) -> None:
    for function, arguments in functions.FUNCTIONS.values():
        function(*(first, second)[:arguments])


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("hex_address(-1)", "0xffffffffffffffff"),
        ("hex_address(255)", "0x00000000000000ff"),
        (r"guest_bytes('a\\\x00\xff')", b"a\\\0\xff"),
        (r"guest_bytes('\q')", None),
        ("basename('/usr/bin/sh')", "sh"),
        ("basename('sh')", "sh"),
        ("dirname('/usr/bin/sh')", "/usr/bin"),
        ("dirname('/sh')", "/"),
        ("dirname('sh')", ""),
        ("""argv_text('["sh", "-c", "id"]')""", "sh -c id"),
        ("argv_text('{}')", None),
        ("ip_in('10.1.2.3', '10.0.0.0/8')", 1),
        ("ip_in('::ffff:10.1.2.3', '10.0.0.0/8')", 1),
        ("ip_in('11.1.2.3', '10.0.0.0/8')", 0),
        ("ip_in('2001:db8::1', '2001:db8::/32')", 1),
        ("ip_in('2001:db8::1', '10.0.0.0/8')", 0),
        ("ip_in('nonsense', '10.0.0.0/8')", None),
        ("ip_public('8.8.8.8')", 1),
        ("ip_public('192.168.1.1')", 0),
        ("ip_public('::1')", 0),
        ("ip_public('2a00:1450::1')", 1),
        ("in_domain('a.example.ORG.', 'example.org')", 1),
        ("in_domain('badexample.org', 'example.org')", 0),
        ("in_domain('example.org', '.example.org')", 1),
        ("utc(1790000000123456789)", "2026-09-21T14:13:20.123456Z"),
    ],
)
def test_functions_in_sql(reader: Reader, expression: str, result: object) -> None:
    assert ask(reader, f"SELECT {expression} AS value") == [{"value": result}]


def test_a_file_with_traps_of_its_own_is_read_without_harm(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(
        "CREATE VIEW spin AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    )
    connection.execute("CREATE VIEW gone AS SELECT * FROM nowhere")
    for name in ("spin", "gone", 'x"; DROP TABLE seen; --'):
        connection.execute("INSERT INTO drakmet_table VALUES (?, '\x1b[2J', 1)", (name,))
    connection.close()
    begin = time.monotonic()
    with Reader(path) as reader:
        with pytest.raises(UsageError, match="longer than"):
            ask(reader, "SELECT count(*) FROM spin", seconds=0.1)
        with pytest.raises(StoreError):
            reader.tables()
        assert len(ask(reader, "SELECT * FROM seen")) == 2
    assert time.monotonic() - begin < 5


def test_what_a_schema_computes_is_only_run_if_it_is_ours(tmp_path: Path) -> None:
    class Line(EventRecord):
        """A line."""

        computed: ClassVar = {"key": ("json_extract(fields, '$.\"Key\"')", "a key")}
        fields: Annotated[str, "JSON"]

    path = tmp_path / "a.db"
    with Writer(path, [Line]) as writer:
        writer.put(Line(fields='{"Key":7}'))
    with Reader(path) as reader:
        assert list(reader.select("SELECT key FROM line")[1]) == [{"key": 7}]
    connection = sqlite3.connect(path)
    connection.execute("CREATE VIEW bad AS SELECT argv_text(fields) AS key FROM line")
    connection.commit()
    connection.close()
    with Reader(path) as reader, pytest.raises(UsageError, match="unsafe"):
        list(reader.select("SELECT key FROM bad")[1])
