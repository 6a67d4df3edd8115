# SPDX-License-Identifier: GPL-2.0-or-later
"""What was written is chained; whatever is done to the file afterwards is found, by us and by the verifier alone."""

import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drakmet.cli import cli
from drakmet.errors import UsageError
from drakmet.records import Coverage, EventRecord, Process
from drakmet.store import Writer, seals, verifier
from drakmet.text import Cut

VERIFIER = Path(verifier.__file__)


class Sight(EventRecord):
    """A row with a column of each type."""

    text: Annotated[str | None, "a text"] = None
    size: Annotated[int | None, "a number"] = None
    share: Annotated[float | None, "a fraction"] = None
    data: Annotated[bytes | None, "some bytes"] = None
    flag: Annotated[bool | None, "a truth"] = None


def write(path: Path, batches: int = 4) -> None:
    with Writer(path, [Sight]) as writer:
        opened = writer.begin_session(host="dom0", guest="web1", source="xen:web1")
        for batch in range(batches):
            # Numbered by the monitor, and not always in order.
            for number in (2 * batch + 2, 2 * batch + 1):
                writer.put(Process(id=number, session=1, time=number, comm=f"c{number}"))
            writer.put(Coverage(session=1, plugin="p", trap="t", tables=["sight"], begin=1, end=batch or None))
            for number in range(10):
                texts = ["", "é\n", None]
                row = Sight(
                    session=1,
                    time=batch * 10 + number,
                    text=texts[number % 3],
                    size=(-1) ** number * 7**number,
                    share=number / 3,
                    data=bytes([number]) * number,
                    flag=number % 2 == 0,
                )
                writer.put(row)
            writer.quarantine("sight", f"row {batch}", "it is one for the test")
            writer.flush()
        writer.end_session(opened.session, "done")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("evidence") / "run.db"
    write(path)
    return path


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(written, tmp_path / "copy.db"))


def tamper(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def alone(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-I", str(VERIFIER), *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def test_what_was_written_is_as_it_was_written(written: Path) -> None:
    found = verifier.verify(written)
    assert found.faults == []
    assert found.rows == 40 + 8 + 1 + 4 + 3
    assert found.adopted == 0
    code, text = alone(str(written))
    assert code == 0, text
    assert "56 rows" in text


PLAIN: dict[str, st.SearchStrategy[Any]] = {
    "time": st.integers(-(2**63), 2**63 - 1),
    "text": st.none() | st.text(max_size=4) | st.just("a\0b"),
    "size": st.none() | st.integers(-(2**63), 2**63 - 1),
    "share": st.none(),
    "data": st.none() | st.binary(max_size=4),
    "flag": st.none() | st.booleans(),
}
ODD: dict[str, st.SearchStrategy[Any]] = {
    "time": st.booleans(),
    "text": st.just(Cut("x")),
    "size": st.booleans() | st.sampled_from([5.0, "7"]),
    "share": st.floats() | st.integers(-9, 9),
    "data": st.sampled_from([bytearray(b"x"), memoryview(b"y")]),
    "flag": st.integers(0, 1),
}
BATCH = st.one_of(
    st.lists(st.fixed_dictionaries(PLAIN | {name: PLAIN[name] | odd}), max_size=20) for name, odd in ODD.items()
)


@given(batches=st.lists(BATCH, max_size=4))
@settings(max_examples=80, deadline=None)
def test_rows_are_chained_as_sqlite_keeps_them(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[dict[str, Any]]]
) -> None:
    path = tmp_path_factory.mktemp("evidence") / "run.db"
    with Writer(path, [Sight]) as writer:
        for batch in batches:
            for values in batch:
                writer.put(Sight(session=1, **values))
            if batch:
                writer.put_columns(Sight, {"session": [1] * len(batch), **{n: [v[n] for v in batch] for n in ODD}})
            writer.flush()
        assert not writer.quarantined
    found = verifier.verify(path)
    assert found.faults == []
    assert found.adopted == 0
    assert found.rows == sum(map(len, batches)) * 2


def test_the_verifier_is_short_and_stands_alone() -> None:
    text = VERIFIER.read_text()
    assert len(text.splitlines()) <= 300
    assert "import drakmet" not in text
    assert "from drakmet" not in text


def test_a_second_writer_goes_on_with_the_chain(copy: Path) -> None:
    before = verifier.verify(copy)
    write(copy, batches=1)
    after = verifier.verify(copy)
    assert after.faults == []
    assert after.adopted == 0
    assert after.blocks > before.blocks


@pytest.mark.parametrize(
    ("statements", "says"),
    [
        (["UPDATE sight SET text = 'x' WHERE id = 7"], "row 7 of sight was changed"),
        (["UPDATE sight SET flag = NULL WHERE id = 40"], "row 40 of sight was changed"),
        (["UPDATE process SET comm = 'init' WHERE id = 3"], "row 3 of process was changed"),
        (["UPDATE coverage SET end = 99"], "row 1 of coverage was changed"),
        (["UPDATE session SET outcome = 'guest gone'"], "row 1 of session was changed"),
        (["DELETE FROM sight WHERE id = 11"], "row 11 of sight was removed"),
        (["DELETE FROM sight"], "row 40 of sight was removed"),
        (["DELETE FROM coverage"], "row 1 of coverage was removed"),
        (["DELETE FROM drakmet_quarantine WHERE id = 2"], "row 2 of drakmet_quarantine was removed"),
        (["INSERT INTO sight (session, time) VALUES (1, 1)"], "row 41 of sight was added"),
        (
            ["INSERT INTO plugin_fault (session, time, plugin, error) VALUES (1, 1, 'p', 'e')"],
            "row 1 of plugin_fault was added",
        ),
        (
            [
                "UPDATE sight SET id = -1 WHERE id = 5",
                "UPDATE sight SET id = 5 WHERE id = 6",
                "DELETE FROM sight WHERE id = -1",
            ],
            "row 5 of sight was changed",
        ),
        (["DROP TABLE sight"], "the table sight is gone"),
        (["ALTER TABLE sight RENAME COLUMN text TO txt"], "has lost the column text"),
        (["DELETE FROM drakmet_chain WHERE seq = 3"], "blocks 3 to 3 of the chain are gone"),
        (["UPDATE drakmet_chain SET first = first + 1 WHERE seq = 2"], "block 2 of the chain is not what it was"),
        (["DELETE FROM drakmet_chain WHERE seq = (SELECT max(seq) FROM drakmet_chain)"], "cut off or made anew"),
    ],
)
def test_what_was_done_to_a_file_is_named(copy: Path, statements: list[str], says: str) -> None:
    tamper(copy, *statements)
    faults = verifier.verify(copy).faults
    assert any(says in fault for fault in faults), faults


VALUES = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text(), st.binary())


@given(row=st.lists(VALUES, max_size=20).map(tuple))
def test_rows_are_packed_as_messagepack(row: tuple[object, ...]) -> None:
    assert verifier.packed(row) == msgspec.msgpack.encode(row)


@given(length=st.sampled_from([15, 16, 31, 32, 255, 256, 65535, 65536]))
def test_long_values_are_packed_as_messagepack(length: int) -> None:
    row = ("x" * length, b"x" * length)
    assert verifier.packed(row) == msgspec.msgpack.encode(row)


COLUMNS = {
    "sight": {"session": "int", "time": "int", "text": "text", "size": "int", "share": "float", "data": "blob"},
    "process": {"time": "int", "comm": "text", "pid": "int"},
    "coverage": {"begin": "int", "gap": "text", "missed": "int"},
    "session": {"outcome": "text", "end": "int"},
    "drakmet_quarantine": {"row": "text", "reason": "text"},
    "drakmet_chain": {"first": "int", "rows": "blob", "digest": "blob", "adopted": "int"},
}
KINDS = {
    "int": st.integers(0, 2**63 - 1),
    "text": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "blob": st.binary(max_size=64),
}


@st.composite
def edits(draw: st.DrawFn) -> Callable[[sqlite3.Connection], bool]:
    """An edit of one place; it returns whether the file differs after it."""
    table = draw(st.sampled_from(sorted(COLUMNS)))
    column = draw(st.sampled_from(sorted(COLUMNS[table])))
    value = draw(KINDS[COLUMNS[table][column]])
    place = draw(st.integers(0, 50))
    removes = draw(st.booleans())

    def edit(connection: sqlite3.Connection) -> bool:
        key = "seq" if table == "drakmet_chain" else "id"
        numbers = [number for (number,) in connection.execute(f"SELECT {key} FROM {table} ORDER BY {key}")]  # noqa: S608
        number = numbers[place % len(numbers)]
        if removes:
            connection.execute(f"DELETE FROM {table} WHERE {key} = ?", (number,))  # noqa: S608
            return True
        sql = f"SELECT {column} FROM {table} WHERE {key} = ?"  # noqa: S608
        before = connection.execute(sql, (number,)).fetchone()
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (value, number))  # noqa: S608
        return connection.execute(sql, (number,)).fetchone() != before

    return edit


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edit=edits())
def test_every_edit_is_found(written: Path, tmp_path: Path, edit: Callable[[sqlite3.Connection], bool]) -> None:
    path = Path(shutil.copy(written, tmp_path / "edited.db"))
    connection = sqlite3.connect(path, isolation_level=None)
    differs = edit(connection)
    connection.close()
    try:
        found = bool(verifier.verify(path).faults)
    except ValueError:
        found = True
    assert found == differs


def test_the_verifier_alone_and_the_command_agree(written: Path, tmp_path: Path) -> None:
    for number, statement in enumerate(
        ["UPDATE sight SET text = 'x' WHERE id = 7", "DELETE FROM process", "SELECT 1", "DROP TABLE drakmet_chain"]
    ):
        path = Path(shutil.copy(written, tmp_path / f"{number}.db"))
        tamper(path, statement)
        result = CliRunner().invoke(cli, ["verify", str(path)], standalone_mode=False)
        ours = 2 if isinstance(result.exception, UsageError) else int(result.return_value)
        assert (ours, alone(str(path))[0]) in {(0, 0), (1, 1), (2, 2)}
        assert ours == [1, 1, 0, 2][number]


def test_a_file_that_is_cut_short_fails_against_its_signed_head(copy: Path, tmp_path: Path) -> None:
    key = tmp_path / "operator.key"
    public = seals.make_key(key)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    seals.sign(copy, key)
    signed = verifier.verify(copy, verifier.read_key(public))
    assert signed.faults == []
    assert signed.sealed_up_to == signed.blocks
    assert alone(str(copy), "--key", str(public))[0] == 0

    # Whoever cuts the end off, and takes our own seals along, is left with no signature.
    tamper(
        copy,
        "DELETE FROM sight WHERE id > 30",
        "DELETE FROM drakmet_chain WHERE seq = (SELECT max(seq) FROM drakmet_chain)",
        "DELETE FROM drakmet_seal",
    )
    assert any("no seal is signed" in fault for fault in verifier.verify(copy, verifier.read_key(public)).faults)
    assert alone(str(copy), "--key", str(public))[0] == 1


def test_rows_after_the_signature_are_told_of(copy: Path, tmp_path: Path) -> None:
    key = tmp_path / "operator.key"
    public = seals.make_key(key)
    seals.sign(copy, key)
    write(copy, batches=1)
    found = verifier.verify(copy, verifier.read_key(public))
    assert found.faults == []
    assert any("under no signature" in note for note in found.notes)


def test_another_ones_signature_does_not_count(copy: Path, tmp_path: Path) -> None:
    seals.sign(copy, _key(tmp_path / "theirs"))
    public = seals.make_key(tmp_path / "ours")
    assert verifier.verify(copy, verifier.read_key(public)).faults == ["no seal is signed with the key that was given"]


def test_a_forged_signature_is_found(copy: Path, tmp_path: Path) -> None:
    key = tmp_path / "ours"
    public = seals.make_key(key)
    seals.sign(copy, key)
    tamper(copy, "UPDATE drakmet_seal SET signature = zeroblob(64) WHERE signature IS NOT NULL")
    faults = verifier.verify(copy, verifier.read_key(public)).faults
    assert any("signature" in fault and "wrong" in fault for fault in faults)


def test_rows_that_no_writer_chained_are_taken_up_and_counted(copy: Path) -> None:
    tamper(copy, "INSERT INTO sight (session, time) VALUES (1, 1)", "INSERT INTO sight (session, time) VALUES (1, 2)")
    with Writer(copy, [Sight]):
        pass
    found = verifier.verify(copy)
    assert found.faults == []
    assert found.adopted == 2


def test_a_file_without_a_chain_is_told(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    tamper(path, "CREATE TABLE t (a)")
    with pytest.raises(ValueError, match="no chain"):
        verifier.verify(path)
    assert alone(str(path))[0] == 2
    assert alone(str(tmp_path / "absent.db"))[0] == 2


def test_a_key_is_not_written_over(tmp_path: Path) -> None:
    key = _key(tmp_path / "mine")
    with pytest.raises(UsageError, match="cannot be written"):
        seals.make_key(key)


def _key(path: Path) -> Path:
    seals.make_key(path)
    return path
