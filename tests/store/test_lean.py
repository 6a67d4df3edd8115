# SPDX-License-Identifier: GPL-2.0-or-later
"""Who writes computes no computed columns; everyone else has them."""

import sqlite3
from pathlib import Path
from typing import Annotated

import pytest

from drakmet.records import EventRecord
from drakmet.store import Reader, Writer, verifier


class Told(EventRecord):
    """A row with two columns that are computed."""

    computed = {  # noqa: RUF012 - as the record classes of DRAKVUF's plugins have it
        "size": ("json_extract(fields, '$.\"Size\"')", "a number"),
        "name": ("json_extract(fields, '$.\"Name\"')", "a name"),
    }
    fields: Annotated[str, "JSON"]


def computed(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM pragma_table_xinfo('told') WHERE hidden > 1").fetchone()[0])


def put(writer: Writer, count: int) -> None:
    for number in range(count):
        writer.put(Told(session=1, time=number, fields=f'{{"Size":{number},"Name":"n{number}"}}'))
    writer.flush()


def read(path: Path) -> list[tuple[object, ...]]:
    with Reader(path) as reader:
        return [tuple(row.values()) for row in reader.select("SELECT size, name FROM told ORDER BY id")[1]]


def test_the_file_has_computed_columns_while_the_writer_has_none(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Writer(path, [Told]) as writer:
        assert computed(writer._connection) == 0
        put(writer, 5)
        assert read(path) == [(number, f"n{number}") for number in range(5)]
        with sqlite3.connect(path) as other:
            assert computed(other) == 2
            before = other.execute("SELECT * FROM sqlite_schema ORDER BY name").fetchall()
        other.close()
    with Writer(path, [Told]) as writer:
        assert computed(writer._connection) == 0
        put(writer, 2)
    assert read(path)[4:] == [(4, "n4"), (0, "n0"), (1, "n1")]
    assert verifier.verify(path).faults == []
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT * FROM sqlite_schema ORDER BY name").fetchall() == before
        assert other.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    other.close()


@pytest.mark.parametrize("while_open", [False, True])
def test_an_index_of_somebody_s_over_a_computed_column_is_kept_right(tmp_path: Path, while_open: bool) -> None:
    path = tmp_path / "a.db"

    def index() -> None:
        other = sqlite3.connect(path)
        other.execute("CREATE INDEX theirs ON told (size)")
        other.close()

    with Writer(path, [Told]) as writer:
        put(writer, 5)
        if while_open:
            index()
            put(writer, 5)
    if not while_open:
        index()
    with Writer(path, [Told]) as writer:
        assert computed(writer._connection) == 2
        put(writer, 5)
    with sqlite3.connect(path) as other:
        assert other.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        sql = "SELECT count(*) FROM told INDEXED BY theirs WHERE size = 3"
        assert other.execute(sql).fetchone() == (3 if while_open else 2,)
    other.close()
