# SPDX-License-Identifier: GPL-2.0-or-later
"""Records in, rows out; and what happens when that cannot be."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drakmet.errors import StoreError
from drakmet.records import Address, Coverage, EventRecord, Process, Record, to_unsigned
from drakmet.store import Writer
from drakmet.store.batch import Inserter
from drakmet.store.checkpoint import Checkpointer
from drakmet.store.schema import table_of


class Sample(EventRecord):
    """One column of each type."""

    address: Annotated[Address | None, "an address"] = None
    words: Annotated[list[str] | None, "a list"] = None
    flag: Annotated[bool | None, "a truth"] = None
    size: Annotated[int | None, "a number"] = None
    share: Annotated[float | None, "a fraction"] = None
    text: Annotated[str | None, "a text"] = None
    data: Annotated[bytes | None, "some bytes"] = None


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def redefined(annotations: dict[str, Any], name: str = "Sample", **extra: Any) -> type[EventRecord]:
    space = {"__annotations__": annotations, "__module__": __name__, "__doc__": "Another.", **extra}
    return type(EventRecord)(name, (EventRecord,), space)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "watch.db"


def test_a_session_and_its_records_are_there(path: Path) -> None:
    with Writer(path, [Sample]) as writer:
        opened = writer.begin_session(host="dom0", guest="web1", source="xen:web1", begin=1, kernel="Linux 6.1")
        assert (opened.session, opened.next_process) == (1, 1)
        writer.put(Process(id=opened.next_process, session=1, time=2, pid=7, comm="sh"))
        writer.put(Sample(session=1, time=3, process=1, address=0xFFFFFFFF81000000, words=["a", "b"], flag=True))
        writer.end_session(1, "done", end=9, paused_attach=4)
    assert rows(path, "SELECT id, guest, source, begin, end, outcome, paused_attach FROM session") == [
        (1, 1, "xen:web1", 1, 9, "done", 4)
    ]
    assert rows(path, "SELECT id, process, address, words, flag FROM sample") == [
        (1, 1, 0xFFFFFFFF81000000 - (1 << 64), '["a","b"]', 1)
    ]
    assert rows(path, "SELECT g.name, h.name FROM guest g JOIN host h ON h.id = g.host") == [("web1", "dom0")]


def test_numbers_go_on_where_the_file_ends(path: Path) -> None:
    with Writer(path) as writer:
        writer.begin_session(host="dom0", guest="web1", source="xen:web1")
        writer.put(Process(id=41, session=1, time=2))
    with Writer(path) as writer:
        again = writer.begin_session(host="dom0", guest="web1", source="xen:web1")
        other = writer.begin_session(host="dom0", guest="web2", source="xen:web2")
    assert (again.session, again.host, again.guest, again.next_process) == (2, 1, 1, 42)
    assert (other.session, other.host, other.guest) == (3, 1, 2)


@given(
    values=st.fixed_dictionaries(
        {
            "address": st.none() | st.integers(0, 2**64 - 1),
            "words": st.none() | st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4),
            "flag": st.none() | st.booleans(),
            "size": st.none() | st.integers(-(2**63), 2**63 - 1),
            "share": st.none() | st.floats(allow_nan=False),
            "text": st.none() | st.text(st.characters(exclude_categories=["Cs"])),
            "data": st.none() | st.binary(),
        }
    )
)
@settings(max_examples=50, deadline=None)
def test_what_is_put_is_what_is_read(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    import json

    path = tmp_path_factory.mktemp("round") / "a.db"
    with Writer(path, [Sample]) as writer:
        writer.put(Sample(session=1, time=2, **values))
    ((address, words, *rest),) = rows(path, "SELECT address, words, flag, size, share, text, data FROM sample")
    assert (None if address is None else to_unsigned(address)) == values["address"]
    assert (None if words is None else json.loads(words)) == values["words"]
    assert rest == [values[name] for name in ("flag", "size", "share", "text", "data")]


def test_only_the_owner_can_read_the_files(path: Path) -> None:
    previous = os.umask(0)
    try:
        with Writer(path) as writer:
            writer.put(Process(id=1, session=1, time=1))
            writer.flush()
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(previous)
    assert modes == dict.fromkeys(("watch.db", "watch.db-wal", "watch.db-shm"), 0o600)


def test_an_interval_of_coverage_is_completed_not_doubled(path: Path) -> None:
    with Writer(path) as writer:
        for end in (None, 8):
            writer.put(Coverage(session=1, plugin="file", trap="open", tables=["file_open"], begin=3, end=end))
            writer.flush()
    assert rows(path, "SELECT tables, begin, end FROM coverage") == [('["file_open"]', 3, 8)]


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)
BAD: list[dict[str, Any]] = [
    {"size": 2**63},
    {"text": "\ud800"},
    {"size": "many"},
    {"text": object()},
    {"time": None},
    {"address": "0x1"},
    {"address": 2**64},
    {"address": -1},
    {"words": ["\ud800"]},
    {"words": [object()]},
    {"words": CIRCLE},
    {"flag": "yes"},
    {"share": "much"},
]


def test_a_row_that_sqlite_cannot_take_is_kept_apart_and_the_others_stored(path: Path) -> None:
    with Writer(path, [Sample]) as writer:
        for bad in BAD:
            writer.put(Sample(session=1, text="before"))
            writer.put(Sample(session=1, **bad))
        writer.put(Process(id=1, session=1, time=1))
        writer.flush()
        assert (writer.quarantined, writer.lost) == (len(BAD), 0)
    assert rows(path, "SELECT count(*) FROM sample WHERE text = 'before'") == [(len(BAD),)]
    kept = rows(path, "SELECT table_name, row, reason FROM drakmet_quarantine")
    assert len(kept) == len(BAD)
    assert all(table == "sample" and row.startswith(("{", "Sample(")) and reason for table, row, reason in kept)
    assert rows(path, "SELECT count(*) FROM process") == [(1,)]


def test_what_a_guest_did_is_stored_without_the_absurd_numbers_it_wrote(path: Path) -> None:
    with Writer(path, [Sample]) as writer:
        writer.put(Sample(session=1, text="seen", size=1 << 63, address=1 << 63, unreadable="data"))
        writer.put(Sample(session=1, text="seen as well", size=5, address=1 << 64))
        writer.flush()
        assert writer.quarantined == 2
    assert rows(path, "SELECT text, size, address, unreadable FROM sample") == [
        ("seen", None, -(1 << 63), "data,size"),
        ("seen as well", 5, None, "address"),
    ]


def test_a_class_may_come_late(path: Path) -> None:
    with Writer(path) as writer:
        writer.put(Sample(session=1, time=1, text="x"))
    assert rows(path, "SELECT text FROM sample") == [("x",)]


def test_a_class_that_has_grown_gets_its_columns(path: Path) -> None:
    with Writer(path, [Sample]) as writer:
        writer.put(Sample(session=1, time=1, text="old"))
    grown = redefined({"text": str | None, "color": Annotated[str, "new"]})
    with Writer(path, [grown]) as writer:
        writer.put(grown(session=1, time=2, text="new", color="red"))
    assert rows(path, "SELECT text, color, address FROM sample") == [("old", None, None), ("new", "red", None)]
    assert rows(path, "SELECT doc FROM drakmet_column WHERE name = 'color'") == [("new",)]


def test_a_column_that_is_no_longer_required_is_loosened(path: Path) -> None:
    strict = redefined({"text": Annotated[str, "required"], "gone": Annotated[str, "required"]})
    with Writer(path, [strict]) as writer:
        writer.put(strict(session=1, time=1, text="a", gone="b"))
    loose = redefined({"text": str | None}, text=None)
    with Writer(path, [loose]) as writer:
        writer.put(loose(session=1, time=2))
        writer.flush()
        assert writer.quarantined == 0
    assert rows(path, "SELECT id, text, gone FROM sample") == [(1, "a", "b"), (2, None, None)]


@pytest.mark.parametrize(
    "changed", [{"text": int | None}, {"address": int | None}, {"words": str | None}, {"text": Annotated[int, "x"]}]
)
def test_a_column_that_changes_its_meaning_is_refused(path: Path, changed: dict[str, Any]) -> None:
    Writer(path, [Sample]).close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"watch.db: table sample has \w+ as") as caught:
        Writer(path, [redefined(changed)])
    assert "--db" in str(caught.value)
    assert path.read_bytes() == before


def test_two_classes_that_want_one_table_are_refused(path: Path) -> None:
    with pytest.raises(StoreError, match="both want the table sample"):
        Writer(path, [Sample, redefined({"color": str | None})])


def test_a_late_class_that_conflicts_loses_its_own_records_only(path: Path) -> None:
    other = redefined({"text": int | None}, text=None)
    with Writer(path, [Sample]) as writer:
        writer.put(Sample(session=1, time=1))
        writer.put(other(session=1, time=1))
        with pytest.raises(StoreError, match="table sample has text"):
            writer.flush()
        writer.flush()
        assert (writer.stored, writer.lost) == (1, 1)
        writer.lost = 0
    assert rows(path, "SELECT count(*) FROM sample") == [(1,)]


@pytest.mark.parametrize("name", ["sqlite_x", "drakmet_x", "a b", "A", 'x"; DROP', ""])
def test_a_name_that_no_table_may_have_is_refused(name: str) -> None:
    with pytest.raises(StoreError, match="cannot be the name of a table"):
        table_of(redefined({}, table=name))


def test_indexes_are_those_the_class_asks_for(path: Path) -> None:
    indexed = redefined({"text": str | None}, indexes=(("process",),))
    Writer(path, [Sample]).close()
    for _ in range(2):
        Writer(path, [indexed]).close()
    assert rows(path, "SELECT count(*) FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'sample'") == [(1,)]


def test_two_writers_do_not_share_a_file(path: Path) -> None:
    with Writer(path), pytest.raises(StoreError, match="another drakmet is writing"):
        Writer(path)
    Writer(path).close()


def test_a_full_disk_is_told_and_nothing_is_lost_when_there_is_room_again(path: Path) -> None:
    with Writer(path, [Sample]) as writer:
        (pages,) = writer._connection.execute("PRAGMA page_count").fetchone()
        writer._connection.execute(f"PRAGMA max_page_count = {pages}")
        for number in range(500):
            writer.put(Sample(session=1, time=number, text="x" * 500))
        for _ in range(2):
            with pytest.raises(StoreError, match="the disk is full") as caught:
                writer.flush()
        assert "make room" in str(caught.value)
        writer._connection.execute("PRAGMA max_page_count = 100000")
        writer.flush()
        assert (writer.stored, writer.lost) == (500, 0)
    assert rows(path, "SELECT count(*), count(DISTINCT time) FROM sample") == [(500, 500)]


def test_memory_is_bounded_while_nothing_can_be_written_and_the_loss_is_counted(path: Path) -> None:
    writer = Writer(path, [Sample], keep=100)
    writer._connection.execute("PRAGMA query_only = 1")
    for number in range(250):
        writer.put(Sample(session=1, time=number))
    with pytest.raises(StoreError, match="cannot be written"):
        writer.flush()
    assert (writer.lost, len(writer._pending)) == (150, 100)
    with pytest.raises(StoreError, match="cannot be written"):
        writer.close()
    assert writer.lost == 250


def test_a_lock_for_a_moment_is_no_error_but_one_that_stays_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Writer(path, [Sample]) as writer:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        writer.put(Sample(session=1, time=1))
        writer.flush()
        assert writer.stored == 0
        monkeypatch.setattr("drakmet.store.writer._PATIENCE", 0.0)
        with pytest.raises(StoreError, match="another program holds a lock"):
            writer.flush()
        other.close()
        writer.flush()
        assert (writer.stored, writer.lost) == (1, 0)


def test_any_thread_may_put_while_another_flushes(path: Path) -> None:
    with Writer(path, [Sample]) as writer:

        def put_many() -> None:
            for number in range(3000):
                writer.put(Sample(session=1, time=number))

        threads = [threading.Thread(target=put_many) for _ in range(3)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            writer.flush()
    assert rows(path, "SELECT count(*) FROM sample") == [(9000,)]


def test_the_log_is_moved_into_the_file_beside_the_writer(path: Path) -> None:
    with Writer(path, [Sample]) as writer:
        writer._checkpointer.stop()
        writer._checkpointer = Checkpointer(path, lambda: writer.stored, pause=0.01)
        before = path.stat().st_size
        for _ in range(20):
            for number in range(200):
                writer.put(Sample(session=1, time=number, text="x" * 100))
            writer.flush()
        until = time.monotonic() + 10
        while path.stat().st_size < before + 400_000 and time.monotonic() < until:
            time.sleep(0.01)
        assert path.stat().st_size >= before + 400_000
        time.sleep(0.2)  # what was stored last is moved
        runs = writer._checkpointer.runs
        time.sleep(0.1)
        assert writer._checkpointer.runs <= runs + 1
    assert rows(path, "SELECT count(*) FROM sample") == [(4000,)]
    assert [file.name for file in path.parent.iterdir()] == ["watch.db"]


def test_files_that_are_not_ours_are_left_as_they_are(path: Path, tmp_path: Path) -> None:
    path.write_bytes(b"a letter to my mother\n" * 100)
    with pytest.raises(StoreError, match="not a SQLite database"):
        Writer(path)
    assert path.read_bytes().startswith(b"a letter")
    other = tmp_path / "other.db"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE mail (text)")
    connection.close()
    before = other.read_bytes()
    with pytest.raises(StoreError, match="another program's"):
        Writer(other)
    assert other.read_bytes() == before


def test_a_file_of_a_newer_drakmet_is_refused(path: Path) -> None:
    Writer(path).close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("INSERT INTO _sqlite_migrations (migration_set, name) VALUES ('drakmet', '9999 flying')")
    connection.close()
    with pytest.raises(StoreError, match="newer drakmet"):
        Writer(path)


@pytest.mark.parametrize(("name", "match"), [("missing/a.db", "No such file"), (".", "directory")])
def test_a_path_that_cannot_be_is_told(tmp_path: Path, name: str, match: str) -> None:
    with pytest.raises(StoreError, match=match) as caught:
        Writer(tmp_path / name)
    assert caught.value.hint


def test_every_core_table_is_documented_in_the_file(path: Path) -> None:
    Writer(path, [Sample]).close()
    undocumented = rows(
        path,
        "SELECT t.name, c.name FROM drakmet_table t JOIN pragma_table_info(t.name) c"
        " LEFT JOIN drakmet_column d ON d.table_name = t.name AND d.name = c.name WHERE d.name IS NULL OR t.doc = ''",
    )
    assert undocumented == []
    assert rows(
        path, "SELECT kind FROM drakmet_column WHERE table_name = 'sample' AND kind IS NOT NULL ORDER BY position"
    ) == [
        ("address",),
        ("json",),
        ("bool",),
    ]


class Keyed(Record):
    """A class that is no event."""

    table: ClassVar[str] = "keyed"
    value: Annotated[int, "a value"]


def test_rows_of_every_class_have_a_number(path: Path) -> None:
    with Writer(path, [Keyed]) as writer:
        writer.put(Keyed(value=3))
    assert rows(path, "SELECT id, value FROM keyed") == [(1, 3)]


KILLED = """
import os, signal, sys
from drakmet.records import Process
from drakmet.store import Writer
from drakmet.store.batch import Inserter
from drakmet.store.checkpoint import Checkpointer
writer = Writer(sys.argv[1])
writer.begin_session(host="h", guest="g", source="s")
for number in range(1, 31):
    writer.put(Process(id=number, session=1, time=number))
    if number % 10 == 0 and number < 30:
        writer.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_flushed_survives_a_kill(path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, path], check=False).returncode == -signal.SIGKILL
    with Writer(path) as writer:
        opened = writer.begin_session(host="h", guest="g", source="s")
        assert (opened.session, opened.next_process) == (2, 21)
    assert rows(path, "SELECT id, end IS NULL FROM session") == [(1, 1), (2, 1)]


@given(
    batch=st.lists(
        st.fixed_dictionaries(
            {
                "time": st.integers(0, 9),
                "address": st.none() | st.integers(0, 2**64 - 1),
                "flag": st.none() | st.booleans(),
                "text": st.none() | st.sampled_from(["a", "b"]),
                "words": st.none() | st.just(["x"]),
            }
        ),
        max_size=70,
    )
)
@settings(max_examples=40, deadline=None)
def test_batches_of_every_size_and_pattern_keep_order_and_values(batch: list[dict[str, Any]]) -> None:
    inserter = Inserter(table_of(Sample))
    connection = sqlite3.connect(":memory:", isolation_level=None)
    names = [column.name for column in inserter.table.columns]
    connection.execute(f"CREATE TABLE sample (id INTEGER PRIMARY KEY, {', '.join(names)})")
    records = [Sample(session=1, **values) for values in batch]
    inserter.insert(connection, records)
    expected = [tuple(inserter.table.to_row(record)) for record in records]
    assert connection.execute(f"SELECT {', '.join(names)} FROM sample ORDER BY id").fetchall() == expected  # noqa: S608
    connection.close()


@pytest.mark.parametrize("broken", [False, True])
def test_columns_are_given_as_they_are_kept(path: Path, broken: bool) -> None:
    columns = {
        "session": [1, 1, 1],
        "address": [-4096, 4096, None],
        "words": ['["a","b"]', None, "[]"],
        "flag": [1, 0, None],
        "size": [1, 1 << 70 if broken else 2, 3],
    }
    with Writer(path, [Sample]) as writer:
        writer.put_columns(Sample, columns)
        writer.flush()
        assert writer.quarantined == broken
    kept = rows(path, "SELECT address, words, flag, size FROM sample ORDER BY id")
    assert kept == [(-4096, '["a","b"]', 1, 1), (4096, None, 0, None if broken else 2), (None, "[]", None, 3)]
