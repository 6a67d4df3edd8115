# SPDX-License-Identifier: GPL-2.0-or-later
"""PE files give their code as it lies in memory, and what they say of themselves; broken ones are refused."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from identity.test_filling import fill, versions

from drakmet.errors import UsageError
from drakmet.identity import Identities, pe

CODE = bytes(range(256)) * 20  # a page and a quarter


def text(value: str) -> bytes:
    return value.encode("utf-16-le") + b"\0\0"


def program(code: bytes = CODE, *, wide: bool = True, alignment: int = 4096) -> bytes:
    """Make a PE file with code, data (version resource and PDB name) and a section that is not executable."""
    resource = text("VS_VERSION_INFO") + b"\0\0"
    resource += struct.pack("<IIII", 0xFEEF04BD, 0x10000, 1 << 16 | 2, 3 << 16 | 4)
    resource += text("ProductName") + b"\0\0" + text("Some Tool")
    codeview = b"RSDS" + struct.pack("<IHH8sI", 0x11223344, 0x5566, 0x7788, bytes(range(8)), 1) + b"tool.pdb\0"
    base = alignment * (1 + -(-len(code) // alignment))
    data = (resource + codeview).ljust(1024, b"\0")
    debug_at, codeview_at = len(data), len(resource)
    data += struct.pack("<12xIIII", 2, len(codeview), 0, 512 + len(code) + codeview_at)
    optional = struct.pack("<H", 0x20B if wide else 0x10B).ljust(112 if wide else 96, b"\0")
    optional = optional[:-4] + struct.pack("<I", 16)
    directories = b"".join(struct.pack("<II", *((base + debug_at, 28) if n == 6 else (0, 0))) for n in range(16))
    header = b"MZ".ljust(60, b"\0") + struct.pack("<I", 64)
    header += b"PE\0\0" + struct.pack("<HH12xHH", 0x8664 if wide else 0x14C, 2, len(optional) + 128, 0x22)
    header += optional + directories
    for name, size, address, offset, flags in (
        (b".text", len(code), alignment, 512, 0x60000020),
        (b".rsrc", len(data), base, 512 + len(code), 0x40000040),
    ):
        header += name.ljust(8, b"\0") + struct.pack("<IIII12xI", size, address, size, offset, flags)
    return header.ljust(512, b"\0") + code + data


@pytest.mark.parametrize("wide", [True, False])
def test_pages_are_as_in_memory_and_the_file_tells_its_version(wide: bool) -> None:
    image = pe.read(program(wide=wide))
    assert [number for number, _ in image.pages] == [1, 2]
    assert image.pages[0][1] == CODE[:4096]
    assert image.pages[1][1] == CODE[4096:].ljust(4096, b"\0")  # not what follows in the file
    assert image.about == ("Some Tool", "1.2.3.4", "x64" if wide else "x86", "Some Tool", "1.2.3.4")
    assert image.build_id == "11223344" + "5566" + "7788" + bytes(range(8)).hex() + "1"


def test_sections_that_share_a_page_are_put_together() -> None:
    image = pe.read(program(CODE[:300], alignment=512))
    assert [number for number, _ in image.pages] == [0]
    page = image.pages[0][1]
    assert page[512:812] == CODE[:300]
    assert page[1024:1040] == text("VS_VERSION_INFO")[:16]


def test_it_is_kept_and_named_by_what_it_says_of_itself(tmp_path: Path) -> None:
    (tmp_path / "tool.exe").write_bytes(program())
    filled = fill(tmp_path / "pages.db", tmp_path / "tool.exe")
    assert (filled.added, filled.pages, filled.failed) == (1, 2, 0)
    assert versions(tmp_path / "pages.db", program()) == {("Some Tool", "1.2.3.4")}
    with Identities.open(tmp_path / "pages.db") as identities:
        assert [row["architecture"] for row in identities.packages()] == ["x64"]


def test_real_programs_that_python_packages_carry() -> None:
    import setuptools

    files = list(Path(setuptools.__file__).parent.glob("*.exe"))
    if not files:
        pytest.skip("this setuptools has no launchers")
    for file in files:
        assert pe.read(file.read_bytes()).pages, file


@pytest.mark.parametrize("data", [b"MZ", b"MZ" + b"\xff" * 500, program()[:90], program()[:2000], b"\x7fELF"])
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(UsageError):
        pe.read(data)


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(0, 600))
def test_broken_files_are_refused_and_nothing_worse(noise: bytes, at: int) -> None:
    whole = program()
    with contextlib.suppress(UsageError):
        pe.read(whole[:at] + noise + whole[at + len(noise) :])


@settings(deadline=None)
@given(st.binary(max_size=2000))
def test_what_begins_like_one_is_refused_and_nothing_worse(noise: bytes) -> None:
    with contextlib.suppress(UsageError):
        pe.read(program()[:88] + noise)
