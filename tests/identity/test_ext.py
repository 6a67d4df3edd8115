# SPDX-License-Identifier: GPL-2.0-or-later
"""Raw images with ext file systems are read as mkfs writes them; damaged ones are refused and nothing worse."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from identity.test_filling import fill, root, update, versions
from identity.tiny import program

from drakmet.errors import UsageError
from drakmet.identity.trees import Disk

MKFS = shutil.which("mkfs.ext4") or shutil.which("mkfs.ext4", path="/usr/sbin:/sbin")
pytestmark = pytest.mark.skipif(MKFS is None, reason="mkfs.ext4 (e2fsprogs) is not here")
KINDS = {
    "ext2, 1 KiB blocks": ["-t", "ext2", "-b", "1024"],
    "ext3, small inodes": ["-t", "ext3", "-b", "4096", "-I", "128"],
    "ext4": ["-t", "ext4"],
    "ext4 without 64 bits": ["-t", "ext4", "-O", "^64bit,^metadata_csum", "-b", "1024"],
    "ext4 with inline data": ["-t", "ext4", "-O", "inline_data", "-I", "256"],
}
GOOD, LARGE = program(b"good"), program(*(str(n).encode() for n in range(600)))


def make(image: Path, folder: Path, *options: str, size: int = 24 << 20) -> Path:
    with image.open("wb") as file:
        file.truncate(size)
    assert MKFS is not None
    subprocess.run([MKFS, "-q", "-F", "-d", folder, *options, image], check=True, capture_output=True)
    return image


def tree(folder: Path) -> Path:
    where = root(folder, "1", ("usr/bin/good", GOOD, GOOD), ("usr/lib/large.so", LARGE, LARGE))
    (where / "usr/bin/link").symlink_to("good")
    many = where / "usr/share/many"
    many.mkdir(parents=True)
    for number in range(400):
        (many / f"file-with-a-rather-long-name-{number:04}").write_text(str(number))
    (where / "tiny").write_bytes(b"tiny")
    with (where / "holes").open("wb") as file:
        for at in (5, 5000, 123_456, 2_000_000, 2_999_996):
            file.seek(at)
            file.write(b"here")
    return where


@functools.cache
def sample() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        where = root(Path(folder) / "root", "1", ("usr/bin/good", GOOD, GOOD), ("usr/lib/a/b.so", GOOD, GOOD))
        return make(Path(folder) / "image", where, "-b", "1024", size=1 << 20).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_is_read_as_it_is(kind: str, tmp_path: Path) -> None:
    where = tree(tmp_path / "root")
    disk = Disk(make(tmp_path / "image", where, *KINDS[kind]))
    try:
        found = {entry.path: entry for entry in disk.files() if "lost+found" not in entry.path}
        real = {"/" + str(p.relative_to(where)): p for p in where.rglob("*") if p.is_file() and not p.is_symlink()}
        assert found.keys() == real.keys()
        for path, entry in found.items():
            assert disk.read(path) == real[path].read_bytes(), path
            assert entry.mtime // 10**9 == int(real[path].stat().st_mtime)
    finally:
        disk.close()


def test_packages_are_told_by_the_dpkg_database_in_the_image_and_updated_with_it(tmp_path: Path) -> None:
    where, image = tree(tmp_path / "root"), tmp_path / "image"
    make(image, where)
    filled = fill(tmp_path / "pages.db", image)
    assert (filled.added, filled.failed, filled.changed) == (2, 0, 0)
    assert versions(tmp_path / "pages.db", LARGE) == {("tool", "1")}
    assert update(tmp_path / "pages.db").unchanged == 1
    root(where, "2", ("usr/bin/good", GOOD, GOOD))
    make(image, where)
    os.utime(image, (1, 1))
    update(tmp_path / "pages.db")
    assert versions(tmp_path / "pages.db", GOOD) == {("tool", "2")}


@pytest.mark.parametrize("table", ["mbr", "logical", "gpt"])
def test_partitions_are_found(table: str, tmp_path: Path) -> None:
    system = make(tmp_path / "system", tree(tmp_path / "root")).read_bytes()
    start, count = 2048, len(system) // 512
    disk = bytearray(start * 512) + system + bytes(64 * 512)
    entry = struct.pack("<4xB3xII", 0x83, start, count)
    if table == "gpt":
        disk[512:520] = b"EFI PART"
        struct.pack_into("<QII", disk, 512 + 72, 2, 4, 128)
        disk[1024 + 128 : 1024 + 144] = b"a partition type"
        struct.pack_into("<QQ", disk, 1024 + 128 + 32, start, start + count - 1)
        entry = struct.pack("<4xB3xII", 0xEE, 1, len(disk) // 512 - 1)
    elif table == "logical":
        record = struct.pack("<4xB3xII", 0x83, start - 64, count)
        disk[64 * 512 + 446 : 64 * 512 + 446 + len(record)] = record
        disk[64 * 512 + 510 : 64 * 512 + 512] = b"\x55\xaa"
        entry = struct.pack("<4xB3xII", 0x05, 64, len(disk) // 512 - 64)
    disk[446 : 446 + len(entry)] = entry
    disk[510:512] = b"\x55\xaa"
    (tmp_path / "disk").write_bytes(disk)
    assert fill(tmp_path / "pages.db", tmp_path / "disk").added == 2
    assert versions(tmp_path / "pages.db", GOOD) == {("tool", "1")}


@pytest.mark.parametrize(
    ("head", "what"), [(b"QFI\xfb", "QCOW2"), (b"XFSB", "XFS"), (b"hsqs", "squashfs"), (b"LUKS\xba\xbe", "encrypted")]
)
def test_what_is_not_read_is_named(head: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(head.ljust(4096, b"\0"))
    filled = fill(tmp_path / "pages.db", tmp_path / "image")
    assert filled.failed == 1
    assert what in filled.problems[0]


def test_an_image_that_is_cut_off_is_refused_or_read_in_part_and_said_so(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(sample()[: 40 << 10])
    filled = fill(tmp_path / "pages.db", tmp_path / "image")
    assert filled.failed
    assert "end of the image" in filled.problems[0]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60))
def test_damaged_file_systems_are_refused_and_nothing_worse(seed: int, changes: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - repeatable
    data = bytearray(sample())
    used = [at for at in range(0, len(data), 64) if any(data[at : at + 64])]
    for _ in range(changes):
        at = chance.choice(used) + chance.randrange(64)
        data[at] = chance.choice((0, 1, 0xFF, chance.randrange(256)))
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        with contextlib.suppress(UsageError):
            disk = Disk(Path(file.name))
            try:
                for entry in disk.files():
                    with contextlib.suppress(UsageError):
                        assert len(disk.read(entry.path)) <= len(data)
            finally:
                disk.close()
