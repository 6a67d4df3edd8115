# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of a guest's memory: every format gives the pages that were put in, and damage is told."""

from __future__ import annotations

import os
import random
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sources.image_files import FORMATS, PAGE, elf_core, lime, page_data, raw, xen_core, xen_save

from drakmet.errors import DrakmetError, GuestError, UsageError
from drakmet.guest.memory import ImageMemory, SparseMemory, Unreadable
from drakmet.sources import open_source
from drakmet.sources.images import ImageSource, open_image

if TYPE_CHECKING:
    from pathlib import Path


def page(number: int) -> bytes:
    return random.Random(number).randbytes(PAGE)  # noqa: S311


PAGES = {gfn: page(gfn) for gfn in (*range(300), *range(310, 330), 4000, 4001)}


@pytest.mark.parametrize("name", FORMATS)
def test_every_page_comes_back(tmp_path: Path, name: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(FORMATS[name](PAGES))
    memory, layout = open_image(path)
    assert layout.format == name
    assert layout.problems == []
    assert memory.size == 4002 * PAGE
    for gfn, data in PAGES.items():
        assert memory.read(gfn * PAGE, PAGE) == data
        assert memory.read_u64(gfn * PAGE + 8) == int.from_bytes(data[8:16], "little")
    # Across pages that may lie anywhere in the file, and a word that does.
    assert memory.read(5 * PAGE + 100, 200 * PAGE) == raw(PAGES)[5 * PAGE + 100 : 205 * PAGE + 100]
    assert memory.read_u64(7 * PAGE - 3) == int.from_bytes(raw(PAGES)[7 * PAGE - 3 : 7 * PAGE + 5], "little")
    if name != "raw":
        for gfn in (300, 309, 3999, 4002):
            with pytest.raises(Unreadable):
                memory.read(gfn * PAGE, 8)
        with pytest.raises(Unreadable):
            memory.read(299 * PAGE, 2 * PAGE)
        found = [(start // PAGE, size // PAGE) for start, size in memory.extents()]
        assert found == [(0, 300), (310, 20), (4000, 2)]


@given(st.sets(st.integers(0, 200), min_size=1, max_size=60), st.integers(1, 9), st.data())
@settings(max_examples=30, deadline=None)
def test_any_set_of_pages(
    tmp_path_factory: pytest.TempPathFactory, gfns: set[int], batch: int, data: st.DataObject
) -> None:
    pages = {gfn: page(gfn) for gfn in gfns}
    files = {"lime": lime(pages), "elf": elf_core(pages), "core": xen_core(pages)}
    files["save"] = xen_save(pages, batch=batch, xl=data.draw(st.booleans()), stale=data.draw(st.booleans()))
    path = tmp_path_factory.mktemp("any") / "image"
    path.write_bytes(files[data.draw(st.sampled_from(sorted(files)))].ljust(1 << 20, b"\0"))
    with open_image(path)[0] as memory:  # type: ignore[union-attr]  # none of them is a sparse one
        for gfn in range(210):
            if gfn in pages:
                assert memory.read(gfn * PAGE, PAGE) == pages[gfn]
            else:
                with pytest.raises(Unreadable):
                    memory.read(gfn * PAGE, PAGE)


def test_holes_of_a_sparse_file_are_not_searched(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(64 << 20)
        for at in (8 << 20, 40 << 20):
            os.pwrite(file.fileno(), b"\1" * (1 << 20), at)
    memory, _ = open_image(path)
    assert list(memory.extents()) == [(8 << 20, 1 << 20), (40 << 20, 1 << 20)]
    assert memory.read(0, PAGE) == bytes(PAGE)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "raw"])
def test_a_file_that_is_cut_short(tmp_path: Path, name: str) -> None:
    whole = FORMATS[name](PAGES)
    path = tmp_path / "image"
    told = 0
    for share in (0.2, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(len(whole) * share)])
        try:
            memory, layout = open_image(path)
        except UsageError as error:
            assert "cut short" in error.what
            continue
        told += 1
        assert any("cut short" in problem for problem in layout.problems)
        assert memory.read(100, 50) == PAGES[0][100:150]
    # The numbers of a Xen core's pages are at its end; without them nobody knows which they are.
    assert told == (0 if name == "Xen core" else 4)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data, reason in (
        (b"PAGEDU64" + bytes(1 << 20), "Windows"),
        (b"KDUMP   " + bytes(1 << 20), "compressed kdump"),
        (b"\x1f\x8b" + bytes(1 << 20), "compressed"),
        (b"QFI\xfb" + bytes(1 << 20), "disk image"),
        (b"root:x:0:0:root:/root:/bin/bash\n", "smaller than any guest"),
        (b"", "smaller than any guest"),
        (elf_core(PAGES).replace(b"\x3e\0\1", b"\x03\0\1", 1), "32-bit x86"),
        (elf_core(PAGES).replace(b"\4\0\x3e\0", b"\2\0\x3e\0", 1), "no core"),
        (b"\x7fELF\1\1\1" + elf_core(PAGES)[7:], "64-bit"),
        (xen_core(PAGES, ".xen_p2m"), "PV guest"),
        (xen_save(PAGES, kind=1), "PVH or HVM"),
        (b"EMiL" + bytes(1 << 20), "LiME"),
        (b"Xen saved domain, xl format\n \0 \r" + bytes(1 << 20), "older than 4.6"),
    ):
        path.write_bytes(data)
        with pytest.raises(UsageError, match=reason):
            open_image(path)
    with pytest.raises(UsageError, match="No such file"):
        open_source(f"image:{tmp_path / 'none'}")
    with pytest.raises(UsageError, match="directory"):
        open_source(f"image:{tmp_path}")


def test_why_a_memory_shows_no_kernel(tmp_path: Path) -> None:
    path = tmp_path / "image"
    chance = random.Random(5)  # noqa: S311
    size = 2 << 20
    for data, reason in (
        (b"\0" * 5000 + b"ntkrnlmp.pdb" + bytes(size), "Windows"),
        (bytes(9000) + b"Linux version 6.1.0-47-686-pae (x@y)" + bytes(size), "32-bit Linux"),
        (bytes(9000) + b"Linux version 6.1.0-47-amd64 (x@y)" + bytes(size), "no kallsyms or no BTF"),
        (bytes(9000) + b"@(#)FreeBSD 14.0-RELEASE" + bytes(size), "FreeBSD"),
        (chance.randbytes(size), "encrypted"),
        (bytes(size), "empty"),
        (b"some text " * 300_000, "no running Linux kernel"),
    ):
        path.write_bytes(data[: len(data) // PAGE * PAGE])
        source = ImageSource(str(path))
        with pytest.raises(GuestError, match=reason):
            source.kernel()
        source.close()


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "raw"])
def test_mutated_files_are_read_or_refused(tmp_path: Path, name: str) -> None:
    whole = FORMATS[name]({gfn: PAGES[gfn] for gfn in range(40)}).ljust(1 << 20, b"\0")
    chance = random.Random(name)  # noqa: S311
    path = tmp_path / "image"
    refused = 0
    numbers = (0, 1, 7, 0xFF, 0xFFFF, 1 << 31, (1 << 32) - 1, 1 << 47, 1 << 63, (1 << 64) - 1)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            at = chance.choice([chance.randrange(4, 600), chance.randrange(len(whole) - 8)])
            struct.pack_into(
                "<Q", data, at, chance.choice([*numbers, chance.getrandbits(64), chance.randrange(1 << 22)])
            )
        path.write_bytes(data[: chance.choice([len(data), chance.randrange(1, len(data))])])
        try:
            memory, _ = open_image(path)
        except DrakmetError:
            refused += 1
            continue
        for start, size in memory.extents():
            assert memory.read(start, min(size, 64))
        for at in (0, PAGE - 3, 1 << 40, (1 << 52) + 5, -1):
            try:
                memory.read_u64(at)
            except Unreadable:
                continue
        memory.close()  # type: ignore[union-attr]  # none of them is a sparse one
    assert 0 < refused < 60


def test_pages_that_were_kept_are_an_image(tmp_path: Path) -> None:
    SparseMemory(PAGES).save(tmp_path / "kept.pages")
    memory, _ = open_image(tmp_path / "kept.pages")
    assert memory.read(310 * PAGE, 16) == PAGES[310][:16]


def test_later_pages_of_a_saved_guest_count(tmp_path: Path) -> None:
    body = xen_save({1: page(1)}, stale=False)[:-8]
    (tmp_path / "saved").write_bytes((body + page_data({1: page(2)}) + struct.pack("<II", 0, 0)).ljust(1 << 20, b"\0"))
    memory, _ = open_image(tmp_path / "saved")
    assert isinstance(memory, ImageMemory)
    assert memory.read(PAGE, PAGE) == page(2)


def test_a_kernel_without_types_is_named_so(tmp_path: Path) -> None:
    from drakmet.guest.unknown import explained

    path = tmp_path / "image"
    path.write_bytes(bytes(8192) + b"Linux version 6.1.0-47-amd64 (x@y)".ljust(PAGE, b"\0") + bytes(2 << 20))
    memory, _ = open_image(path)
    error = explained(memory, GuestError("symbols at 0x1000: the kernel has no __start_BTF"), "image:x")
    assert error.what == "Linux 6.1.0-47-amd64 has no BTF (CONFIG_DEBUG_INFO_BTF is off), so its types are not known"
