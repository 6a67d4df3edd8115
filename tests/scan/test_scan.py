# SPDX-License-Identifier: GPL-2.0-or-later
"""Scans of real guests: equal to what they say of themselves, of one moment, and open about what is missing."""

from __future__ import annotations

import contextlib
import struct
import time
from typing import TYPE_CHECKING, Any

import pytest
from guest.images import NAMES, image
from guest.scan_truth import compare

from drakmet.guest.linux import LinuxGuest
from drakmet.guest.memory import SparseMemory, Unreadable
from drakmet.records import Coverage, PluginFault, Process, columns
from drakmet.scan import SCAN_RECORDS
from drakmet.scan import session as sessions
from drakmet.scan.memory import ScanMemory, runs
from drakmet.scan.records import GuestState, HiddenObject, KernelModule, MappedFile, OpenFile, OpenSocket
from drakmet.testing import load
from scan.mutate import run as mutate
from scan.sample import Rows, Source, changed, kernel_in, scanned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.guest.memory import PhysicalMemory


@pytest.mark.parametrize("name", NAMES)
def test_a_scan_is_what_the_guest_says(name: str) -> None:
    rows, result = scanned(name)
    problems, compared = compare(rows.rows, image(name).told)
    assert problems == []
    assert min(compared[table] for table in ("process", "open_file", "open_socket", "mount_point", "mapped_file")) > 10
    assert compared["kernel_module"] > 3
    assert (result.gaps, result.faults, result.paused, result.passes) == ([], 0, None, 1)
    assert result.rows["process_running"] == len({row.process for row in rows.of(MappedFile)})
    assert rows.of(HiddenObject) == []
    assert {row.gap for row in rows.of(Coverage)} == {None}


def test_every_column_is_told() -> None:
    for record in SCAN_RECORDS:
        assert (record.__doc__ or "").strip()
        assert [column.name for column in columns(record) if not column.doc] == []


def _module(rows: Rows, name: str) -> Any:
    return next(row for row in rows.of(KernelModule) if row.name == name)


@pytest.mark.parametrize("name", NAMES)
def test_a_module_that_left_the_list_is_found_and_told(name: str) -> None:
    kernel = kernel_in(name, image(name).memory)
    types, space = kernel.profile.types, kernel.space
    head, link = kernel.address("modules"), types.offset("module", "list")
    node = space.read_u64(head)
    after, before = space.read_u64(node), space.read_u64(node + 8)
    hidden = space.read_cstring(node - link + types.offset("module", "name"), 56).decode()
    word = struct.Struct("<Q").pack
    memory = changed(name, {kernel.gpa(before): word(after), kernel.gpa(after + 8): word(before)})
    rows, _ = scanned(name, memory)
    (found,) = rows.of(HiddenObject)
    assert (found.kind, found.name, found.missing_in) == ("module", hidden, ["list"])
    assert set(found.seen_in) == {"/sys/module", "addresses of code"}
    assert _module(rows, hidden).state == "live"


@pytest.mark.parametrize("name", NAMES)
def test_a_process_that_left_the_list_is_found_and_told(name: str) -> None:
    kernel = kernel_in(name, image(name).memory)
    types, space, guest = kernel.profile.types, kernel.space, LinuxGuest(kernel)
    victim = list(guest.tasks())[-3]
    node = victim + types.offset("task_struct", "tasks")
    after, before = space.read_u64(node), space.read_u64(node + 8)
    word = struct.Struct("<Q").pack
    memory = changed(name, {kernel.gpa(before): word(after), kernel.gpa(after + 8): word(before)})
    rows, result = scanned(name, memory)
    (found,) = rows.of(HiddenObject)
    was = guest.process(victim)
    assert (found.kind, found.number, found.name, found.address) == ("process", was.tgid, was.comm, victim)
    assert (found.seen_in, found.missing_in) == (["table of process ids"], ["list of tasks"])
    assert was.tgid not in {row.pid for row in rows.of(Process)}
    assert result.gaps == []


def test_a_process_that_only_a_cpu_still_knows_is_found() -> None:
    kernel = kernel_in("6.1", image("6.1").memory)
    types, space, guest = kernel.profile.types, kernel.space, LinuxGuest(kernel)
    victim = list(guest.tasks())[-3]
    node = victim + types.offset("task_struct", "tasks")
    after, before = space.read_u64(node), space.read_u64(node + 8)
    pid = space.read_u64(victim + types.offset("task_struct", "thread_pid"))
    queue = space.read_u64(kernel.address("__per_cpu_offset")) + kernel.address("runqueues")
    word = struct.Struct("<Q").pack
    changes = {
        kernel.gpa(before): word(after),
        kernel.gpa(after + 8): word(before),
        kernel.gpa(pid + types.offset("pid", "tasks")): word(0),
        kernel.gpa((queue & (1 << 64) - 1) + types.offset("rq", "curr")): word(victim),
    }
    rows, _ = scanned("6.1", changed("6.1", changes))
    (found,) = rows.of(HiddenObject)
    assert found.seen_in == ["what CPUs run"]
    assert found.missing_in == ["list of tasks", "table of process ids"]


def test_a_list_that_runs_in_a_circle_ends_and_is_told() -> None:
    kernel = kernel_in("6.1", image("6.1").memory)
    node = kernel.space.read_u64(kernel.address("modules"))
    rows, result = scanned("6.1", changed("6.1", {kernel.gpa(node): struct.pack("<Q", node)}))
    assert any("runs in a circle" in gap for gap in result.gaps)
    assert len(rows.of(KernelModule)) == len(scanned("6.1")[0].of(KernelModule))
    gaps = [row for row in rows.of(Coverage) if row.gap]
    assert [(row.plugin, row.trap) for row in gaps] == [("scan", "modules")]


def test_a_process_whose_files_cannot_be_read_is_named() -> None:
    kernel = kernel_in("6.1", image("6.1").memory)
    whole = scanned("6.1")[0]
    victim = whole.of(OpenFile)[-1].process
    pid = next(row.pid for row in whole.of(Process) if row.id == victim)
    guest = LinuxGuest(kernel)
    task = next(task for task in guest.tasks() if guest.process(task).tgid == pid)
    at = kernel.gpa(task + kernel.profile.types.offset("task_struct", "files"))
    rows, result = scanned("6.1", changed("6.1", {at: struct.pack("<Q", 0xFFFF_8000_DEAD_0000)}))
    assert any(f"process {pid}" in gap for gap in result.gaps)
    assert {row.process for row in rows.of(OpenFile)} == {row.process for row in whole.of(OpenFile)} - {victim}


class Moving:
    """A guest that changes a page after each so many reads, and that can be paused."""

    def __init__(self, memory: SparseMemory, gpa: int, values: list[bytes], every: int) -> None:
        self._memory = memory
        self.gpa, self.values, self.every = gpa, values, every
        self.reads = self.pauses = 0
        self.still = False
        self.read_while_paused: list[int] = []

    @property
    def size(self) -> int:
        return self._memory.size

    def read(self, gpa: int, length: int) -> bytes:
        self.reads += 1
        if self.still:
            self.read_while_paused.append(length)
        elif self.reads % self.every == 0:
            page = self._memory.pages[self.gpa >> 12]
            value = self.values[self.reads // self.every % len(self.values)]
            at = self.gpa & 0xFFF
            self._memory.pages[self.gpa >> 12] = page[:at] + value + page[at + len(value) :]
        return self._memory.read(gpa, length)

    def read_u64(self, gpa: int) -> int:
        return int.from_bytes(self.read(gpa, 8), "little")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        self.pauses += 1
        self.still = True
        try:
            yield
        finally:
            self.still = False


def _moving(every: int, values: list[bytes] | None = None) -> Moving:
    kernel = kernel_in("6.1", image("6.1").memory)
    names = kernel.profile.types
    at = kernel.gpa(kernel.address("init_uts_ns") + names.offset("uts_namespace", "name.nodename"))
    memory = SparseMemory(dict(image("6.1").memory.pages), image("6.1").memory.size)
    return Moving(memory, at, values or [b"one\0", b"two\0", b"six\0"], every)


def _scan(guest: Moving, **options: Any) -> tuple[Rows, Any]:
    source = Source(guest, moves=True, paused=None if options.get("live") else guest.paused)
    return scanned("6.1", guest, source=source, **options)  # type: ignore[arg-type]  # a memory as good as any


def test_a_guest_that_may_be_paused_is_read_of_one_moment() -> None:
    guest = _moving(3)
    rows, result = _scan(guest)
    assert result.paused is not None
    assert (result.passes, result.gaps, guest.pauses) == (2, [], 1)
    (state,) = rows.of(GuestState)
    assert state.hostname in ("one", "two", "six")
    state.hostname = "scanned"
    assert compare(rows.rows, image("6.1").told)[0] == []
    # What was read while it stood still are whole pages, many at once.
    assert min(guest.read_while_paused) >= 4096
    assert max(guest.read_while_paused) > 4096


def test_what_is_reached_only_in_the_copies_is_fetched_with_another_pause() -> None:
    kernel = kernel_in("6.1", image("6.1").memory)
    # At the first reading the list of tasks is empty; then it is there.
    head = kernel.address("init_task") + kernel.profile.types.offset("task_struct", "tasks")
    guest = _moving(10**9)
    guest.gpa = kernel.gpa(head)
    first = kernel.space.read_u64(head)
    memory = guest._memory
    page, at = memory.pages[guest.gpa >> 12], guest.gpa & 0xFFF
    memory.pages[guest.gpa >> 12] = page[:at] + struct.pack("<Q", head) + page[at + 8 :]
    paused = guest.paused

    @contextlib.contextmanager
    def grows() -> Iterator[None]:
        with paused():
            memory.pages[guest.gpa >> 12] = page[:at] + struct.pack("<Q", first) + page[at + 8 :]
            yield

    rows, result = scanned("6.1", guest, source=Source(guest, paused=grows))  # type: ignore[arg-type]  # a memory
    assert guest.pauses == result.passes - 1 == 2
    assert result.gaps == []
    assert compare(rows.rows, image("6.1").told)[0] == []


def test_a_pause_ends_in_time_and_what_was_left_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = _moving(10**9)
    read = guest.read

    def slow(gpa: int, length: int) -> bytes:
        if guest.still:
            time.sleep(0.02)
        return read(gpa, length)

    monkeypatch.setattr(guest, "read", slow)
    monkeypatch.setattr("drakmet.scan.memory._BATCH", 16)
    rows, result = _scan(guest)
    assert result.paused is not None
    # One batch may be under way when the time is over.
    assert result.paused < (sessions._COPYING + 17 * 0.02) * 1e9
    assert all("were read after the guest went on" in gap for gap in result.gaps)
    assert len(result.gaps) == 8
    assert len(rows.of(OpenSocket)) == len(scanned("6.1")[0].of(OpenSocket))


def test_without_a_pause_two_readings_must_agree() -> None:
    guest = _moving(10**9)
    _, result = _scan(guest, live=True)
    assert (result.paused, result.passes, result.gaps, guest.pauses) == (None, 2, [], 0)


def test_a_table_that_changes_while_it_is_read_says_so() -> None:
    rows, result = _scan(_moving(37), live=True)
    assert result.passes == 4
    (gap,) = result.gaps
    assert gap.startswith("guest_state: the table changed while it was read")
    assert [row.trap for row in rows.of(Coverage) if row.gap] == ["guest_state"]
    assert len(rows.of(GuestState)) == 1


def test_a_scan_that_takes_too_long_gives_what_it_has_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drakmet.scan.memory._CHECK", 1000)
    guest = _moving(10**9)
    rows, result = scanned("6.1", guest, source=Source(guest), seconds=-1.0)  # type: ignore[arg-type]  # a memory
    assert any("took longer than it may" in gap for gap in result.gaps)
    assert {row.trap for row in rows.of(Coverage)} >= {"guest_state", "mapped_files", "running"}


def test_a_collector_that_raises_costs_its_own_rows_only(tmp_path: Any) -> None:
    path = tmp_path / "bad.py"
    path.write_text(
        '"""Bad."""\nfrom drakmet import hookimpl\n\n'
        "def broken(attached):\n    raise RuntimeError('no')\n    yield\n\n"
        "@hookimpl\ndef drakmet_collectors():\n    return [broken]\n"
    )
    rows, kernel = Rows(), kernel_in("6.1", image("6.1").memory)
    result = sessions.scan(Source(image("6.1").memory), [load(path)], [rows], kernel=kernel)  # type: ignore[arg-type]
    assert result.faults == 1
    (fault,) = rows.of(PluginFault)
    assert (fault.plugin, fault.trap) == ("bad", "broken")
    assert "RuntimeError: no" in fault.error
    assert len(rows.of(OpenFile)) > 100


def test_runs_hold_every_frame_and_leave_large_gaps_out() -> None:
    frames = [1, 2, 3, 6, 20, 400, 401]
    found = list(runs(frames))
    assert found == [(1, 6), (20, 1), (400, 2)]
    assert all(count <= 256 for _, count in runs(range(1000)))


def test_the_copies_are_what_was_there() -> None:
    pages = {gfn: bytes([gfn]) * 4096 for gfn in range(1, 9)}
    memory: PhysicalMemory = SparseMemory(pages, 64 << 12)
    scan = ScanMemory(memory)
    assert scan.copy([1, 2, 5, 8, 12], time.monotonic() + 5) == 0
    scan.settle()
    pages[2] = bytes(4096)
    scan.begin()
    assert scan.read((2 << 12) - 2, 4) == b"\1\1\2\2"
    with pytest.raises(Unreadable):
        scan.read(12 << 12, 8)
    assert scan.missed == set()
    assert scan.read_u64(7 << 12) == int.from_bytes(b"\7" * 8, "little")
    assert scan.missed == {7}
    with pytest.raises(Unreadable):
        scan.read(-8, 8)
    with pytest.raises(Unreadable):
        scan.read(0, 1 << 60)


def test_damaged_guests_are_scanned_to_the_end() -> None:
    told = mutate(24)
    assert told["said that something is missing"] > 5
