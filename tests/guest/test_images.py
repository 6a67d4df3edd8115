# SPDX-License-Identifier: GPL-2.0-or-later
"""Real guests: what is read out of their memory against what they said of themselves."""

from __future__ import annotations

import zlib
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from drakmet.errors import GuestError
from drakmet.guest import kernel
from drakmet.guest.fetch import compile_field
from drakmet.guest.linux import LinuxGuest
from drakmet.guest.memory import SparseMemory
from drakmet.guest.profile import Profile, ProfileCache

from .images import NAMES, Image, image
from .scenes import SCENES
from .truth import census, raw

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=NAMES)
def guest_image(request: pytest.FixtureRequest) -> Image:
    return image(request.param)


def test_the_kernel_is_found_in_memory_alone(guest_image: Image) -> None:
    found = guest_image.kernel
    assert found.banner + "\n" == raw(guest_image.said("version"))
    assert found.build_id == kernel.note_build_id(bytes.fromhex(guest_image.said("notes")))
    assert len(found.build_id) == 40
    assert found.profile.release.startswith(guest_image.name)
    assert found.slide or found.base != 16 << 20, "KASLR was on"
    assert found.levels == (5 if guest_image.name == "6.1" else 4)


def test_every_symbol_is_where_the_guest_has_it(guest_image: Image) -> None:
    found = guest_image.kernel
    symbols = found.profile.symbols
    lines = [f"{found.slid(address):016x} {kind} {name}\n" for address, kind, name in symbols]
    assert len(lines) == guest_image.said("kallsyms")
    assert zlib.crc32("".join(lines).encode()) == guest_image.said("crc")


def test_all_processes_are_as_proc_shows_them(guest_image: Image) -> None:
    problems: list[str] = []
    assert census(guest_image.guest, guest_image.told, problems) > 40
    assert problems == []


def test_the_container_is_recognised(guest_image: Image) -> None:
    guest = guest_image.guest
    inside = [guest.process(task) for task in guest.tasks() if guest.process(task).container]
    assert {process.container for process in inside} == {"0123456789abcdef" * 4}
    assert {process.ns_pid for process in inside} >= {1}
    (first,) = [process for process in inside if process.ns_pid == 1]
    assert str(guest.programs.root(first.task)) == "/tmp/container"  # noqa: S108  # of the guest


def test_sockets_have_their_addresses(guest_image: Image) -> None:
    guest = guest_image.guest
    private = guest.types.offset("file", "private_data")
    found = []
    for task in guest.tasks():
        if guest.process(task).kernel_thread or guest.process(task).tgid == 1:
            continue  # their pages were not kept
        for _, address in guest.open_files(task):
            path = guest.file(address).path
            if path is not None and path.kind == "socket":
                found.append(guest.sockets.of_socket(guest.space.read_u64(address + private)))
    shown = {(one.family, one.type, one.protocol, str(one.local)) for one in found}
    assert ("inet6", "dgram", "udp", "[::]:5353") in shown
    assert ("unix", "dgram", "0", "unix:@kept") in shown
    assert ("unix", "stream", "0", "unix:") in shown, "a socket pair has no names"


def test_every_field_of_every_hit_shows_what_the_guest_did(guest_image: Image) -> None:
    checked: Counter[str] = Counter()
    wrong = []
    for number, hit in enumerate(guest_image.hits):
        guest, regs = guest_image.at_hit(number)
        for scene in SCENES:
            if scene.function != hit["function"] or hit["act"]["act"] not in scene.acts:
                continue
            fields = scene.fields if hit["when"] == "entry" else scene.returns
            for expression, expected in fields.items():
                plan = compile_field(expression, scene.function, guest.types)
                assert plan.when in (hit["when"], "any")
                value = plan.bind(guest)(regs)
                checked[scene.function] += 1
                if not expected(hit["act"], value):
                    wrong.append((scene.function, expression, value, hit["act"]))
    assert wrong == []
    assert checked.keys() == {scene.function for scene in SCENES}, "each trap was met"
    assert checked.total() > 140


def test_every_trapped_function_starts_with_the_nop(guest_image: Image) -> None:
    for scene in SCENES:
        entry = guest_image.guest.function_entry(scene.function)
        assert entry.has_nop
        assert entry.symbol == scene.function
        assert guest_image.kernel.symbol_at(entry.start) == (scene.function, 0)


def test_a_copy_of_the_kernel_is_not_taken_for_it() -> None:
    guest_image = image("5.10")
    found = guest_image.kernel
    length = (found.space.image_end - found.space.image_start + (2 << 20) - 1) >> 21 << 21
    away = 1 << 30
    copies = {
        gfn + sign * (away >> 12): page
        for gfn, page in guest_image.memory.pages.items()
        if found.base <= gfn << 12 < found.base + length
        for sign in (0, 1)
    }
    # The copy lies below the original: it is met first.
    moved = {gfn + (away >> 12): page for gfn, page in guest_image.memory.pages.items()}
    with pytest.raises(GuestError, match="stale copy"):
        kernel.find(SparseMemory(moved))
    memory = SparseMemory({**copies, **guest_image.memory.pages}, guest_image.memory.size + 2 * away)
    assert kernel.find(memory).base == found.base
    assert kernel.find(memory, profiles=[found.profile]).base == found.base


def test_a_kept_profile_is_as_good_as_the_memory(tmp_path: Path) -> None:
    guest_image = image("6.1")
    cache = ProfileCache(tmp_path / "profiles")
    found = kernel.find(guest_image.memory, cache=cache)
    path = cache.path(found.build_id)
    assert path.stat().st_mode & 0o777 == 0o600
    (kept,) = cache
    assert (kept.build_id, kept.banner) == (found.build_id, found.banner)
    assert list(kept.symbols) == list(found.profile.symbols)
    placed = kernel.find(guest_image.memory, cache=cache)
    assert placed.profile is not found.profile
    assert (placed.base, placed.slide, placed.cr3) == (found.base, found.slide, found.cr3)
    problems: list[str] = []
    assert census(LinuxGuest(placed), guest_image.told, problems) > 40
    assert problems == []


def test_a_subset_of_the_profile_serves_what_was_asked_before(guest_image: Image, tmp_path: Path) -> None:
    guest_image.kernel.profile.save(tmp_path / "profile")
    profile = Profile.load(tmp_path / "profile")  # of which nothing was asked yet
    guest = LinuxGuest(kernel.find(guest_image.memory, profiles=[profile]))
    census(guest, guest_image.told, [])
    for scene in SCENES:
        guest.function_entry(scene.function)
        for expression in (*scene.fields, *scene.returns):
            compile_field(expression, scene.function, guest.types)
    small = Profile.from_json(profile.subset())
    assert (small.build_id, small.banner) == (profile.build_id, profile.banner)
    assert len(small.symbols) < 100
    again = LinuxGuest(kernel.find(guest_image.memory, profiles=[small]))
    problems: list[str] = []
    assert census(again, guest_image.told, problems) > 40
    assert problems == []
    for scene in SCENES:
        assert again.function_entry(scene.function) == guest.function_entry(scene.function)
        for expression in (*scene.fields, *scene.returns):
            old = compile_field(expression, scene.function, guest.types)
            new = compile_field(expression, scene.function, again.types)
            assert (old.source, old.steps, old.last, old.when) == (new.source, new.steps, new.last, new.when)


def test_a_wrong_build_id_is_not_believed() -> None:
    guest_image = image("5.10")
    found = guest_image.kernel
    other = Profile("00" * 20, found.banner, found.profile.symbols, found.profile.types)
    assert kernel.find(guest_image.memory, profiles=[other]).profile is not other


def test_memory_without_a_kernel_says_so() -> None:
    with pytest.raises(GuestError, match="no running Linux kernel"):
        kernel.find(SparseMemory({0: bytes(4096)}))


def test_a_kernel_whose_types_are_gone_says_which_kernels_can_be_read() -> None:
    guest_image = image("6.1")
    found = guest_image.kernel
    types = found.gpa(found.address("__start_BTF"))
    page = bytearray(guest_image.memory.pages[types >> 12])
    page[types & 4095 : (types & 4095) + 2] = b"\0\0"
    without = SparseMemory({**guest_image.memory.pages, types >> 12: bytes(page)}, guest_image.memory.size)
    with pytest.raises(GuestError, match="the kernel's types cannot be read") as caught:
        kernel.find(without)
    assert "CONFIG_DEBUG_INFO_BTF" in (caught.value.hint or "")
