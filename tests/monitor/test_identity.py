# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a guest that lies about who runs is told on: real guests' memory, tampered with as rootkits do."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from guest.images import NAMES, image

from drakmet.guest.crosscheck import LIST, RUNNING, TABLE, Crosscheck
from drakmet.guest.kernel import Kernel
from drakmet.guest.linux import LinuxGuest
from drakmet.guest.memory import SparseMemory
from drakmet.monitor.identity import _MOST
from drakmet.monitor.processes import Processes
from drakmet.records import IdentityConflict, Process
from monitor.scene import List, Regs

_PCID = 5
_PAGE = 4096


class Scene:
    """A sample guest's first CPU runs a process of ours; ``write`` is the rootkit."""

    def __init__(self, name: str, comm: str | None = None) -> None:
        loaded = image(name)
        found = loaded.kernel
        self.memory = SparseMemory(dict(loaded.memory.pages), loaded.memory.size)
        self.kernel = Kernel(found.profile, self.memory, found.base, found.slide, found.levels)
        self.guest = LinuxGuest(self.kernel)
        self.sink = List()
        self.processes = Processes(self.guest, 3, 10, self.sink.put, None)
        self.books = Crosscheck(self.kernel)
        self.base = self.kernel.space.read_u64(self.kernel.address("__per_cpu_offset"))
        users = [one for one in self.guest.tasks() if self._fits(one, comm)]
        self.task, self.other = users[0], users[-1]
        self.cr3 = self.books.roots(self.task)[0]
        self.runs(self.task)

    def _fits(self, task: int, comm: str | None) -> bool:
        process = self.guest.process(task)
        return process.comm == comm if comm else not process.kernel_thread and process.cr3 is not None

    def offset(self, struct_name: str, member: str) -> int:
        return self.kernel.profile.types.offset(struct_name, member)

    def write(self, address: int, value: int, size: int = 8) -> None:
        gpa = self.kernel.gpa(address & (1 << 64) - 1)
        page, at = self.memory.pages.get(gpa >> 12, bytes(_PAGE)), gpa & _PAGE - 1
        self.memory.pages[gpa >> 12] = page[:at] + value.to_bytes(size, "little") + page[at + size :]

    def read(self, address: int) -> int:
        return self.kernel.space.read_u64(address)

    def runs(self, task: int) -> None:
        """Have the CPU and its run queue name a task."""
        per_cpu = self.kernel.find("current_task")
        if per_cpu is None:
            per_cpu = self.kernel.address("pcpu_hot") + self.offset("pcpu_hot", "current_task")
        self.write(self.base + per_cpu, task)
        self.write(self.base + self.kernel.address("runqueues") + self.offset("rq", "curr"), task)

    def unlink(self, task: int) -> None:
        node = task + self.offset("task_struct", "tasks")
        after, before = self.read(node), self.read(node + 8)
        self.write(before, after)
        self.write(after + 8, before)

    def hit(self, cr3: int | None = None) -> list[IdentityConflict]:
        regs = Regs(gs_base=self.base, cr3=(self.cr3 if cr3 is None else cr3) | _PCID, vcpu_id=1)
        self.known: Any = self.processes.current(regs, 99)
        return self.sink.of(IdentityConflict)


@pytest.mark.parametrize("name", NAMES)
def test_of_who_runs_as_the_books_say_nothing_is_told(name: str) -> None:
    scene = Scene(name)
    told = 0
    for task in scene.guest.tasks():
        scene.runs(task)
        assert scene.hit(scene.books.roots(task)[-1]) == []
        told += scene.known.root != 0
    # Of some tasks of the samples a page of the table is not there: that is counted, and no conflict.
    assert told > 40
    assert told + scene.processes.identity.unchecked == len(list(scene.guest.tasks()))


@pytest.mark.parametrize("name", NAMES)
def test_a_process_that_names_anothers_memory_is_told_with_the_owner_of_its_tables(name: str) -> None:
    scene = Scene(name)
    mm = scene.offset("task_struct", "mm")
    owners = scene.books.owner(scene.cr3)
    other = scene.books.roots(scene.other)[0]
    scene.write(scene.task + mm, scene.read(scene.other + mm))
    (told,) = scene.hit()
    (process,) = scene.sink.of(Process)
    assert (told.session, told.time, told.vcpu, told.process) == (3, 99, 1, process.id)
    assert (told.task, told.root, told.expected, told.own_tables) == (scene.task, scene.cr3, other, False)
    assert (told.owner, told.missing_in, told.unreadable) == (None, [], None)
    assert owners == process.pid


def test_page_tables_of_another_process_are_told_as_its() -> None:
    scene = Scene("6.1")
    (told,) = scene.hit(scene.books.roots(scene.other)[0])
    assert told.owner == scene.guest.process(scene.other).tgid
    assert told.owner != scene.guest.process(scene.task).tgid


@pytest.mark.parametrize("name", NAMES)
def test_a_process_that_left_the_list_is_told_when_it_runs(name: str) -> None:
    scene = Scene(name)
    scene.unlink(scene.task)
    (told,) = scene.hit()
    assert (told.missing_in, told.own_tables, told.root) == ([LIST], True, told.expected)


@pytest.mark.parametrize("rings", ["itself", "each other", "a forged list"])
def test_links_that_only_look_like_a_list_are_not_taken_for_it(rings: str) -> None:
    scene = Scene("6.1")
    scene.unlink(scene.task)
    node = scene.task + scene.offset("task_struct", "tasks")
    others = [node]
    if rings == "each other":
        scene.unlink(scene.other)
        others.append(scene.other + scene.offset("task_struct", "tasks"))
    elif rings == "a forged list":
        free = scene.kernel.page_offset + (max(scene.memory.pages) + 1 << 12)
        others += [free, free + 16]
    for one, after in zip(others, [*others[1:], node], strict=True):
        scene.write(one, after)
        scene.write(after + 8, one)
    (told,) = scene.hit()
    assert told.missing_in == [LIST]


@pytest.mark.parametrize("name", ["5.10", "6.1"])
def test_a_process_whose_id_leads_nowhere_is_told(name: str) -> None:
    scene = Scene(name)
    pid = scene.read(scene.task + scene.offset("task_struct", "thread_pid"))
    scene.write(pid + scene.offset("pid", "tasks"), 0)
    (told,) = scene.hit()
    assert told.missing_in == [TABLE]


def test_a_process_that_says_it_is_over_and_keeps_its_memory_is_told() -> None:
    scene = Scene("6.1")
    scene.unlink(scene.task)
    scene.write(scene.task + scene.offset("task_struct", "thread_pid"), 0)
    (told,) = scene.hit()
    assert told.missing_in == [LIST, TABLE]


def test_a_process_that_is_over_is_in_no_book_and_that_is_right() -> None:
    scene = Scene("6.1")
    scene.unlink(scene.task)
    scene.write(scene.task + scene.offset("task_struct", "thread_pid"), 0)
    scene.write(scene.task + scene.offset("task_struct", "active_mm"), scene.read(
        scene.task + scene.offset("task_struct", "mm")))  # fmt: skip
    scene.write(scene.task + scene.offset("task_struct", "mm"), 0)
    assert scene.hit() == []  # with the tables it borrows
    assert scene.hit(scene.kernel.cr3) == []  # and with the kernel's
    assert scene.known.root == scene.kernel.cr3


def test_a_run_queue_that_names_another_is_told() -> None:
    scene = Scene("6.1")
    curr = scene.kernel.address("runqueues") + scene.offset("rq", "curr")
    scene.write(scene.base + curr, scene.other)
    (told,) = scene.hit()
    assert (told.missing_in, told.own_tables) == ([RUNNING], True)


def test_a_thread_of_the_kernel_may_run_with_the_tables_it_borrows() -> None:
    scene = Scene("6.1", comm="kthreadd")
    active, mm = scene.offset("task_struct", "active_mm"), scene.offset("task_struct", "mm")
    lender = next(task for task in scene.guest.tasks() if scene.read(task + mm))
    scene.write(scene.task + active, scene.read(lender + mm))
    assert scene.hit(scene.books.roots(lender)[0]) == []
    assert scene.hit(scene.kernel.cr3) == []
    (told,) = scene.hit(0x7000)
    assert (told.root, told.owner) == (0x7000, None)


def test_what_was_compared_is_not_compared_again_and_a_lie_is_told_once() -> None:
    scene = Scene("6.1")
    other = scene.books.roots(scene.other)[0]
    for _ in range(3):
        assert scene.hit(scene.cr3) == scene.sink.of(IdentityConflict)
        assert len(scene.hit(other)) == 1
    pages = dict(scene.memory.pages)
    scene.write(scene.task + scene.offset("task_struct", "mm"), 0xDEAD << 48)
    assert len(scene.hit(other)) == 1
    assert scene.processes.identity.unchecked == 0
    scene.memory.pages.update(pages)


def test_what_cannot_be_read_is_counted_and_not_told_as_a_lie() -> None:
    scene = Scene("6.1")
    scene.write(scene.task + scene.offset("task_struct", "mm"), 0xFFFF_8000_DEAD_0000)
    assert scene.hit() == []
    assert scene.hit() == []
    assert scene.processes.identity.unchecked == 2


def test_a_guest_that_lies_without_end_is_told_of_so_often_and_then_counted() -> None:
    scene = Scene("6.1")
    for number in range(_MOST + 10):
        scene.hit(0x1000 * (number + 1))
    identity = scene.processes.identity
    assert len(scene.sink.of(IdentityConflict)) in (_MOST, _MOST - 1)
    assert 9 <= identity.untold <= 10


def test_a_circle_in_the_table_or_the_list_ends() -> None:
    scene = Scene("6.1")
    node = struct.unpack("<Q", scene.kernel.space.read(scene.kernel.address("init_pid_ns") + scene.offset(
        "pid_namespace", "idr.idr_rt.xa_head"), 8))[0]  # fmt: skip
    if node & 3 == 2:
        for slot in range(64):
            scene.write(node - 2 + scene.offset("xa_node", "slots") + 8 * slot, node)
    head = scene.kernel.address("init_task") + scene.offset("task_struct", "tasks")
    first = scene.read(head)
    scene.write(first, first)
    scene.unlink(scene.other)
    scene.runs(scene.other)
    scene.hit(scene.books.roots(scene.other)[0])
    assert scene.processes.identity.unchecked + len(scene.sink.of(IdentityConflict)) == 1
