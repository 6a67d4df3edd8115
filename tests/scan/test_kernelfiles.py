# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels' files as they are handed in: packages, trees, single files; broken ones are told with their paths."""

from __future__ import annotations

import contextlib
import io
import lzma
import tarfile
from typing import TYPE_CHECKING

import pytest
from guest.images import image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drakmet.errors import UsageError
from drakmet.scan.kernelfiles import KernelFiles
from drakmet.scan.kerneltext import KernelTexts
from drakmet.scan.records import KernelImage
from drakmet.scan.session import Reading

if TYPE_CHECKING:
    from pathlib import Path


def package(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    found = b"!<arch>\n"
    for name, data in (("debian-binary", b"2.0\n"), ("data.tar.xz", out.getvalue())):
        found += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return found


def test_a_kernel_that_is_none_is_told_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "linux-image.deb"
    path.write_bytes(package({"./boot/vmlinuz-6.1": b"no kernel".ljust(8192)}))
    with pytest.raises(UsageError, match="neither an ELF file nor a bzImage") as told:
        KernelFiles([path]).find("00" * 20)
    assert told.value.where == "linux-image.deb"


def test_a_package_without_a_kernel_has_none(tmp_path: Path) -> None:
    (tmp_path / "tool.deb").write_bytes(package({"./usr/bin/tool": b"x"}))
    assert KernelFiles([tmp_path]).find("00" * 20) is None


@pytest.mark.parametrize("cut", [4, 40, 70, 100, 300])
def test_a_package_that_is_cut_off_is_told(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "linux-image.deb"
    path.write_bytes(package({"./boot/vmlinuz-6.1": bytes(range(256)) * 64})[:cut])
    with pytest.raises(UsageError):
        KernelFiles([path]).find("00" * 20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(st.binary(max_size=300), st.integers(0, 400))
def test_a_damaged_package_is_told_and_no_crash(tmp_path: Path, noise: bytes, at: int) -> None:
    data = bytearray(package({"./boot/vmlinuz-6.1": b"x" * 9000, "./lib/a.ko.xz": lzma.compress(b"y")}))
    data[at : at + len(noise)] = noise
    path = tmp_path / "linux-image.deb"
    path.write_bytes(bytes(data))
    with contextlib.suppress(UsageError):
        KernelFiles([path]).find("00" * 20)


def test_nothing_given_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        KernelFiles([tmp_path / "missing.deb"])
    assert KernelFiles([tmp_path]).find("00" * 20) is None


def test_modules_are_found_packed_or_not_whatever_their_dashes(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/snd-pcm.ko.xz").write_bytes(lzma.compress(b"pcm"))
    (tmp_path / "lib/ext4.ko").write_bytes(b"ext4")
    (tmp_path / "lib/fuse.ko.xz").write_bytes(b"\xfd7zXZ\0broken")
    (source,) = KernelFiles([tmp_path])._sources
    assert source.modules({"snd_pcm", "ext4", "nothing"}) == {"snd_pcm": b"pcm", "ext4": b"ext4"}
    with pytest.raises(UsageError, match="damaged"):
        source.modules({"fuse"})


def test_a_guest_whose_kernel_was_not_given_is_unverifiable_and_never_clean(tmp_path: Path) -> None:
    one = image("6.1")
    (row,) = KernelTexts(KernelFiles([tmp_path]), one.memory, moves=False)(Reading(one.guest, 1, 1, 1))
    assert isinstance(row, KernelImage)
    assert (row.module, row.verdict) == (None, "unverifiable")
    assert one.kernel.build_id in (row.why or "")


def test_a_scan_that_reads_several_times_reads_the_kernels_files_once(tmp_path: Path) -> None:
    one, given = image("6.1"), tmp_path / "linux-image.deb"
    given.write_bytes(package({"./boot/vmlinuz-6.1": b"no kernel".ljust(8192)}))
    texts = KernelTexts(KernelFiles([given]), one.memory, moves=False)
    first, second = Reading(one.guest, 1, 1, 1), Reading(one.guest, 1, 1, 1)
    rows = list(texts(first))
    given.unlink()
    assert list(texts(second)) == rows
    assert second.lost == first.lost
    assert "neither an ELF file nor a bzImage" in next(iter(first.lost.values())).most_common()[0][0]
