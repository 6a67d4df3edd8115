# SPDX-License-Identifier: GPL-2.0-or-later
"""The short ways through flat memory: they give what the long ways give, also when the guest changes things."""

from __future__ import annotations

import mmap
import struct
from types import SimpleNamespace
from typing import Any

import pytest

from drakmet.guest import flat, kernel
from drakmet.guest.fetch import compile_field
from drakmet.guest.linux import LinuxGuest
from drakmet.guest.memory import PAGE_SIZE, SparseMemory, Unreadable, missing
from drakmet.guest.paging import AddressSpace

from .images import NAMES, Image, image
from .scenes import SCENES
from .truth import census


class FlatMemory:
    """Memory in one piece, writable by the tests; counts what the short ways did not take."""

    def __init__(self, memory: SparseMemory) -> None:
        self.size = memory.size
        self.data = mmap.mmap(-1, memory.size)  # zeros that cost nothing until they are touched
        self.present = bytearray(memory.size // PAGE_SIZE)
        for gfn, page in memory.pages.items():
            self.data[gfn * PAGE_SIZE : (gfn + 1) * PAGE_SIZE] = page
            self.present[gfn] = 1
        self.buffer = memoryview(self.data)
        self.words = self.buffer.cast("Q")
        self.reads = 0

    def read(self, gpa: int, length: int) -> bytes:
        self.reads += 1
        if gpa < 0 or self.present.find(0, gpa >> 12, (gpa + length + 4095) >> 12) >= 0 or gpa + length > self.size:
            raise missing(gpa, length)
        return self.data[gpa : gpa + length]

    def read_u64(self, gpa: int) -> int:
        return int.from_bytes(self.read(gpa, 8), "little")

    def write(self, gpa: int, data: bytes) -> None:
        self.data[gpa : gpa + len(data)] = data


def flat_guest(source: Image, number: int | None = None) -> tuple[LinuxGuest, FlatMemory, Any]:
    overlay = {} if number is None else source.overlays[number]
    memory = FlatMemory(SparseMemory({**source.memory.pages, **overlay}, source.memory.size))
    found = source.kernel
    guest = LinuxGuest(kernel.Kernel(found.profile, memory, found.base, found.slide, found.levels))
    return guest, memory, SimpleNamespace(**source.hits[number]["regs"]) if number is not None else None


@pytest.mark.parametrize("name", NAMES)
def test_the_census_is_the_same_at_every_look(name: str) -> None:
    guest, memory, _ = flat_guest(image(name))
    for _ in range(2):
        problems: list[str] = []
        assert census(guest, image(name).told, problems) > 40
        assert problems == []
    tasks = list(guest.tasks())
    for task in tasks:
        guest.process(task)
    before = memory.reads
    for task in tasks:
        guest.process(task)
    assert memory.reads == before, "nothing changed: the short way was taken"


@pytest.mark.parametrize("name", NAMES)
def test_every_field_is_the_same_the_short_way(name: str) -> None:
    source = image(name)
    seen: set[tuple[str, str]] = set()
    for number, hit in enumerate(source.hits):
        if (hit["function"], hit["when"]) in seen and hit["function"] not in ("do_filp_open", "begin_new_exec"):
            continue
        seen.add((hit["function"], hit["when"]))
        guest, _, regs = flat_guest(source, number)
        for scene in SCENES:
            if scene.function == hit["function"] and hit["act"]["act"] in scene.acts:
                fields = scene.fields if hit["when"] == "entry" else scene.returns
                for expression, expected in fields.items():
                    fetch = compile_field(expression, scene.function, guest.types).bind(guest)
                    for _ in range(3):  # the short ways learn from the long ones
                        assert expected(hit["act"], fetch(regs)), expression
    assert len(seen) > 10


def hit_of(source: Image, function: str, when: str, **act: Any) -> int:
    return next(
        number
        for number, hit in enumerate(source.hits)
        if (hit["function"], hit["when"]) == (function, when) and all(hit["act"].get(k) == v for k, v in act.items())
    )


def opened() -> tuple[LinuxGuest, FlatMemory, Any, Any]:
    """Return a guest at the return of an open, whose path the short way knows."""
    source = image("6.1")
    guest, memory, regs = flat_guest(source, hit_of(source, "do_filp_open", "return", error=0))
    fetch = compile_field("$return|path", "do_filp_open", guest.types).bind(guest)
    first = fetch(regs)
    before = memory.reads
    assert fetch(regs) == first
    assert memory.reads == before, "the short way was taken"
    return guest, memory, regs, fetch


def dentries(guest: LinuxGuest, regs: Any) -> list[int]:
    """Return the dentry of the opened file and those above it, up to its mount's root."""
    dentry = guest.read_u64(regs.rax + guest.types.offset("file", "f_path.dentry"))
    found = []
    parent = guest.types.offset("dentry", "d_parent")
    while dentry not in found:
        found.append(dentry)
        dentry = guest.read_u64(dentry + parent)
    return found


def test_a_directory_that_comes_back_under_another_name_is_seen() -> None:
    guest, memory, regs, fetch = opened()
    assert fetch(regs) == "/tmp/deep/dir with space/a file"  # noqa: S108  # of the guest
    _, space, deep, _ = dentries(guest, regs)
    inline = guest.types.offset("dentry", "d_iname")
    memory.write(guest.kernel.gpa(deep + inline), b"DEEP")  # no rename is counted: the dentry was used anew
    assert fetch(regs) == "/tmp/DEEP/dir with space/a file"  # noqa: S108
    memory.write(guest.kernel.gpa(space + inline), b"DIR with")
    assert fetch(regs) == "/tmp/DEEP/DIR with space/a file"  # noqa: S108


def test_the_file_s_own_name_is_read_each_time() -> None:
    guest, memory, regs, fetch = opened()
    file = dentries(guest, regs)[0]
    memory.write(guest.kernel.gpa(file + guest.types.offset("dentry", "d_iname")), b"b\xff")
    assert fetch(regs) == "/tmp/deep/dir with space/b\udcff" + "file"  # noqa: S108


@pytest.mark.parametrize("name", [b"a/../x", b"a\0file", b"/"])
def test_a_name_that_no_file_can_have_is_no_name_the_short_way_either(name: bytes) -> None:
    guest, memory, regs, fetch = opened()
    file = guest.kernel.gpa(dentries(guest, regs)[0])
    memory.write(file + guest.types.offset("dentry", "d_iname"), name)
    memory.write(file + guest.types.offset("dentry", "d_name.len"), struct.pack("<I", len(name)))
    value = fetch(regs)
    assert isinstance(value, Unreadable)
    assert "no file can have" in value.what


def test_a_name_that_lies_elsewhere_is_read_there_however_short() -> None:
    guest, memory, regs, fetch = opened()
    file, space = dentries(guest, regs)[:2]
    inline, pointer = guest.types.offset("dentry", "d_iname"), guest.types.offset("dentry", "d_name.name")
    memory.write(guest.kernel.gpa(file + pointer), struct.pack("<Q", space + inline))
    assert fetch(regs) == "/tmp/deep/dir with space/dir wi"  # noqa: S108  # of the guest
    memory.write(guest.kernel.gpa(file + pointer), struct.pack("<Q", file + inline))
    assert fetch(regs) == "/tmp/deep/dir with space/a file"  # noqa: S108
    memory.write(guest.kernel.gpa(space + pointer), struct.pack("<Q", file + inline))
    assert isinstance(fetch(regs), Unreadable)  # 14 bytes are said to lie there, and a file's name of 6


def test_a_root_that_says_it_is_in_a_directory_is_a_root() -> None:
    guest, memory, regs, _ = opened()
    root = dentries(guest, regs)[-1]
    mnt = guest.read_u64(regs.rax + guest.types.offset("file", "f_path.mnt"))
    below = guest.path(mnt, dentries(guest, regs)[-2])
    assert guest.path(mnt, dentries(guest, regs)[-2]) == below
    was = guest.path(mnt, root)
    memory.write(guest.kernel.gpa(root + guest.types.offset("dentry", "d_hash.pprev")), struct.pack("<Q", root))
    assert guest.path(mnt, root) == was


@pytest.mark.parametrize("lock", ["rename_lock", "mount_lock"])
def test_a_path_is_not_read_while_files_are_renamed(lock: str) -> None:
    guest, memory, regs, fetch = opened()
    place = guest.kernel.gpa(guest.kernel.address(lock))
    count = struct.unpack_from("<I", memory.data, place)[0]
    memory.write(place, struct.pack("<I", count + 1))
    value = fetch(regs)
    assert isinstance(value, Unreadable)
    assert "renamed" in value.what
    memory.write(place, struct.pack("<I", count + 2))
    assert fetch(regs) == "/tmp/deep/dir with space/a file"  # noqa: S108


def test_a_deleted_file_has_its_name_still() -> None:
    guest, memory, regs, fetch = opened()
    file = dentries(guest, regs)[0]
    memory.write(guest.kernel.gpa(file + guest.types.offset("dentry", "d_hash.pprev")), bytes(8))
    assert fetch(regs) == "/tmp/deep/dir with space/a file"  # noqa: S108
    assert guest.file(regs.rax).path.deleted  # type: ignore[union-attr]


def process_at_hit() -> tuple[LinuxGuest, FlatMemory, int]:
    source = image("6.1")
    guest, memory, regs = flat_guest(source, hit_of(source, "do_filp_open", "entry"))
    task = guest.current_task(regs.gs_base)
    assert guest.current_task(regs.gs_base) == task
    assert guest.process(task) is guest.process(task)
    return guest, memory, task


@pytest.mark.parametrize(
    ("member", "data", "field", "value"),
    [
        ("comm", b"renamed\0", "comm", "renamed"),
        ("pid", struct.pack("<I", 4321), "pid", 4321),
        ("start_boottime", struct.pack("<Q", 77), "start_time", 77),
    ],
)
def test_a_changed_task_is_decoded_anew(member: str, data: bytes, field: str, value: object) -> None:
    guest, memory, task = process_at_hit()
    before = guest.process(task)
    memory.write(guest.kernel.gpa(task + guest.types.offset("task_struct", member)), data)
    after = guest.process(task)
    assert after is not before
    assert getattr(after, field) == value


def test_a_changed_user_is_seen_though_the_credentials_lie_where_they_lay() -> None:
    guest, memory, task = process_at_hit()
    cred = guest.read_u64(task + guest.types.offset("task_struct", "cred"))
    memory.write(guest.kernel.gpa(cred + guest.types.offset("cred", "euid")), struct.pack("<I", 33))
    assert guest.process(task).euid == 33


def test_an_exec_is_seen_though_the_name_stays() -> None:
    guest, memory, task = process_at_hit()
    before = guest.process(task)
    place = guest.kernel.gpa(task + guest.types.offset("task_struct", "self_exec_id"))
    memory.write(place, struct.pack("<I", memory.data[place] + 1))
    assert guest.process(task) is not before


def test_a_process_that_exits_is_still_the_one_it_was() -> None:
    guest, memory, task = process_at_hit()
    before = guest.process(task)
    for member in ("mm", "nsproxy", "thread_pid"):
        memory.write(guest.kernel.gpa(task + guest.types.offset("task_struct", member)), bytes(8))
    after = guest.process(task)
    assert (after.exe, after.mnt_ns, after.ns_pid) == (before.exe, before.mnt_ns, before.ns_pid)
    assert not after.kernel_thread
    assert after.missing == {}


def test_a_page_of_the_stack_that_moves_is_followed() -> None:
    source = image("6.1")
    guest, memory, regs = flat_guest(source, hit_of(source, "do_filp_open", "entry"))
    fetch = compile_field("op->open_flag", "do_filp_open", guest.types).bind(guest)
    value = fetch(regs)
    assert fetch(regs) == value
    address = regs.rdx + guest.types.offset("open_flags", "open_flag")
    old = guest.kernel.gpa(address)
    assert not guest.space.page_offset <= address < guest.space.direct_end, "the stack is mapped, not direct"
    # The guest gives the stack another frame: the leaf entry of its tables changes.
    views = flat.views(memory)
    assert views is not None
    places, _, size = flat.entries(views, guest.kernel.levels, guest.kernel.cr3, address)
    free = next(gfn for gfn in range(100, len(memory.present)) if not memory.present[gfn])
    memory.present[free] = 1
    memory.write(free * PAGE_SIZE + (old & 4095), struct.pack("<I", 0o7777))
    assert size == PAGE_SIZE
    entry = memory.words[places[-1]]
    memory.words[places[-1]] = entry & ~0x000F_FFFF_FFFF_F000 | free * PAGE_SIZE
    assert fetch(regs) == 0o7777
    memory.words[places[-1]] = 0
    assert isinstance(fetch(regs), Unreadable)


def test_zeros_of_a_frame_that_is_not_there_are_no_value() -> None:
    source = image("6.1")
    guest, memory, regs = flat_guest(source, hit_of(source, "do_filp_open", "entry"))
    count = compile_field("pathname->refcnt", "do_filp_open", guest.types).bind(guest)
    name = compile_field("pathname->name", "do_filp_open", guest.types).bind(guest)
    assert count(regs) == 1
    assert name(regs) == "a file"
    gfn = guest.kernel.gpa(regs.rsi) >> 12
    memory.write(gfn << 12, bytes(PAGE_SIZE))
    assert count(regs) == 0
    assert isinstance(name(regs), Unreadable)
    memory.present[gfn] = 0
    assert isinstance(count(regs), Unreadable)
    assert isinstance(name(regs), Unreadable)


def test_a_namespace_and_a_cgroup_that_changed_where_they_lie_are_seen() -> None:
    guest, memory, task = process_at_hit()
    reader, offset = guest.task_reader, guest.types.offset
    nsproxy = guest.read_u64(task + offset("task_struct", "nsproxy"))
    css_set = guest.read_u64(task + offset("task_struct", "cgroups"))
    before, path = reader.namespaces(nsproxy), reader.cgroup(css_set)
    reads = memory.reads
    assert (reader.namespaces(nsproxy), reader.cgroup(css_set)) == (before, path)
    assert memory.reads == reads, "they were kept"
    net = guest.read_u64(nsproxy + offset("nsproxy", "net_ns"))
    memory.write(guest.kernel.gpa(net + offset("net", "ns.inum")), struct.pack("<I", 99))
    assert reader.namespaces(nsproxy) == (before[0], 99)
    guest, memory, _ = flat_guest(image("6.1"))
    reader = guest.task_reader
    inside = next(one for one in map(guest.process, guest.tasks()) if one.container)
    css_set = guest.read_u64(inside.task + offset("task_struct", "cgroups"))
    path = reader.cgroup(css_set)
    node = guest.read_u64(guest.read_u64(css_set + offset("css_set", "dfl_cgrp")) + offset("cgroup", "kn"))
    name = guest.read_u64(node + offset("kernfs_node", "name"))
    memory.write(guest.kernel.gpa(name), b"DOCKER")
    assert reader.cgroup(css_set) == path.replace("docker", "DOCKER")


class LazyMemory(FlatMemory):
    """Frames are there only once they were asked for, as in a guest's memory that is mapped piece by piece."""

    def __init__(self, memory: SparseMemory) -> None:
        super().__init__(SparseMemory({}, memory.size))
        self.pages = memory.pages

    def read(self, gpa: int, length: int) -> bytes:
        for gfn in range(gpa >> 12, (gpa + length + 4095) >> 12):
            if gfn in self.pages:
                self.write(gfn << 12, self.pages[gfn])
                self.present[gfn] = 1
        return super().read(gpa, length)


def test_a_page_table_that_was_not_mapped_yet_is_read_before_it_is_called_empty() -> None:
    known, memory = image("6.1").kernel, image("6.1").memory
    lazy = AddressSpace(LazyMemory(memory), known.cr3, known.levels)
    address = known.address("do_filp_open")
    assert lazy.translate(address) == known.gpa(address)
    with pytest.raises(Unreadable):
        lazy.translate(0x1000)
