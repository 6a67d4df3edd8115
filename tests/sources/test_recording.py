# SPDX-License-Identifier: GPL-2.0-or-later
"""Recordings: what was read can be read again, in the same order, and nothing else."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drakmet.errors import UsageError
from drakmet.guest.memory import SparseMemory, Unreadable, missing
from drakmet.sources import open_source
from drakmet.sources.recording import Head, Moment, PageStore, RecordedMemory, Recorder, Recording, ReplayedMemory

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 4 * 4096


class Changing:
    """A memory whose every byte is another at each read."""

    size = SIZE

    def __init__(self) -> None:
        self.reads = 0

    def read(self, gpa: int, length: int) -> bytes:
        self.reads += 1
        return bytes((self.reads + gpa + i) & 255 for i in range(length))

    def read_u64(self, gpa: int) -> int:
        return int.from_bytes(self.read(gpa, 8), "little")


def head() -> Head:
    return Head(
        host="h", guest="g", uuid=None, xen=None, vcpus=1, uri="xen:g", size=SIZE, base=0, slide=0, levels=4,
        registers=["rip"], places={}, profile={}, begin=5,
    )  # fmt: skip


def recording(path: Path, moments: int = 3) -> Path:
    memory = Changing()
    recorder = Recorder(path, memory)
    for number in range(moments):
        recorder.memory.read(number * 100, 50)
        recorder.note("hit", number, vcpu=1, place=2**63 + number, registers=(number, 2**64 - 1), text="t")
    recorder.finish(head())
    return path


reads = st.lists(st.lists(st.tuples(st.integers(0, SIZE - 64), st.integers(0, 64)), max_size=8), max_size=6)


@given(reads)
def test_every_read_comes_again_also_of_bytes_that_change_all_the_time(moments: list[list[tuple[int, int]]]) -> None:
    live = RecordedMemory(Changing())
    told = [([live.read(*one) for one in moment], live.take()) for moment in moments]
    replayed = ReplayedMemory(SIZE)
    for moment, (seen, changes) in zip(moments, told, strict=True):
        replayed.begin(changes)
        assert [replayed.read(*one) for one in moment] == seen


class Failing:
    """A memory that never changes, of which every second read fails."""

    size = SIZE

    def __init__(self) -> None:
        self.reads = 0

    def read(self, gpa: int, length: int) -> bytes:
        self.reads += 1
        if self.reads % 2 == 0:
            raise missing(gpa, length)
        return bytes((gpa + i) & 255 for i in range(length))

    def read_u64(self, gpa: int) -> int:
        return int.from_bytes(self.read(gpa, 8), "little")


def tried(memory: Failing | RecordedMemory | ReplayedMemory, gpa: int, length: int) -> bytes | None:
    try:
        return memory.read(gpa, length)
    except Unreadable:
        return None


@given(reads)
def test_what_could_not_be_read_then_cannot_be_read_again(moments: list[list[tuple[int, int]]]) -> None:
    live = RecordedMemory(Failing())
    told = [([tried(live, *one) for one in moment], live.take()) for moment in moments]
    replayed = ReplayedMemory(SIZE)
    for moment, (seen, changes) in zip(moments, told, strict=True):
        replayed.begin(changes)
        assert [tried(replayed, *one) for one in moment] == seen


def test_what_did_not_change_is_written_once() -> None:
    live = RecordedMemory(SparseMemory({0: bytes(range(256)) * 16}))
    live.read(0, 100)
    live.read(50, 50)
    assert live.take() == [(0, 0, bytes(range(100)))]
    live.read(10, 20)
    assert live.take() == []


def test_what_was_never_read_is_unreadable() -> None:
    replayed = ReplayedMemory(SIZE)
    replayed.begin([(0, 16, b"12345678")])
    assert replayed.read_u64(16) == int.from_bytes(b"12345678", "little")
    with pytest.raises(Unreadable):
        replayed.read(16, 9)
    with pytest.raises(Unreadable):
        replayed.read(SIZE - 1, 2)
    with pytest.raises(Unreadable):
        replayed.read(-1, 1)


def test_a_page_store_knows_what_it_does_not_know() -> None:
    store = PageStore()
    store.put(4090, b"0123456789")
    assert store.get(4090, 10) == b"0123456789"
    assert store.get(4095, 2) == b"56"
    assert store.get(4089, 2) is None
    assert store.get(4099, 2) is None


def test_a_file_gives_back_its_moments_and_its_head(tmp_path: Path) -> None:
    found = Recording(recording(tmp_path / "a.drec"))
    assert found.head == head()
    moments = list(found.moments())
    assert [moment.time for moment in moments] == [0, 1, 2]
    assert moments[1] == Moment("hit", 1, 1, 2**63 + 1, (1, 2**64 - 1), "t", moments[1].reads)
    assert moments[1].reads[0][1] == 100


def test_the_file_is_for_its_owner_only_and_gone_if_it_was_not_finished(tmp_path: Path) -> None:
    assert recording(tmp_path / "a.drec").stat().st_mode & 0o777 == 0o600
    recorder = Recorder(tmp_path / "b.drec", Changing())
    recorder.close()
    assert not (tmp_path / "b.drec").exists()


def test_a_source_that_nobody_knows_says_what_there_is() -> None:
    for uri in ("web1", "xen:", "kvm:web1"):
        with pytest.raises(UsageError, match="names no guest"):
            open_source(uri)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the recording"):
        open_source(f"replay:{tmp_path}/no.drec")


@given(st.data())
def test_a_damaged_file_is_an_error_of_its_own(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = recording(tmp_path_factory.mktemp("drec") / "a.drec", moments=2)
    raw = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    else:
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    with contextlib.suppress(UsageError):
        list(Recording(path).moments())
