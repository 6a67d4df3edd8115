# SPDX-License-Identifier: GPL-2.0-or-later
"""Profiles out of kernel files."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import struct
from random import Random
from typing import TYPE_CHECKING

import pytest

from drakmet.errors import GuestError, UsageError
from drakmet.guest import vmlinux

from .images import image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def elf(gpa: int, data: bytes) -> bytes:
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    program = struct.pack("<IIQQQQQQ", 1, 7, 4096, 0, gpa, len(data), len(data) + 8192, 4096)
    return (header + program).ljust(4096, b"\0") + data


def bz_image(payload: bytes) -> bytes:
    setup = bytearray(5 * 512)
    setup[0x1F1] = 4
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", setup, 0x248, 64, len(payload))
    return bytes(setup) + bytes(64) + payload


def lz4(data: bytes) -> bytes:
    """Pack as LZ4's legacy frames, with one overlapping match in each block."""
    out = [b"\x02\x21\x4c\x18"]
    for start in range(0, len(data), 8 << 20):
        part = data[start : start + (8 << 20)]
        run = len(part) - len(part.rstrip(part[-1:])) - 1  # the last byte's run is a match, one byte back
        body, repeat = (part[:-run], run) if run > 40 else (part, 0)
        block = bytearray([0xF0 | (15 if repeat else 0)])
        rest = len(body) - 15
        block += b"\xff" * (rest // 255) + bytes([rest % 255]) + body
        if repeat:
            more = repeat - 4 - 15
            block += b"\x01\x00" + b"\xff" * (more // 255) + bytes([more % 255])
        out += [struct.pack("<I", len(block)), bytes(block)]
    return b"".join(out) + struct.pack("<I", len(data))


def kernel_image() -> tuple[int, bytes]:
    found = image("5.10").kernel
    pages = image("5.10").memory.pages
    size = found.space.image_end - found.space.image_start
    first = found.base >> 12
    blank = bytes(4096)
    return found.base, b"".join(pages.get(gfn, blank) for gfn in range(first, first + (size >> 12)))


@pytest.mark.parametrize("pack", [bytes, lambda data: bz_image(lz4(data))], ids=["vmlinux", "bzImage"])
def test_a_kernel_s_file_gives_what_its_memory_gives(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(pack(elf(*kernel_image())))
    profile = vmlinux.profile_of_file(path)
    known = image("5.10").kernel.profile
    assert (profile.build_id, profile.banner) == (known.build_id, known.banner)
    assert bytes(profile.symbols.columns.names) == bytes(known.symbols.columns.names)
    assert list(profile.symbols.columns.addresses) == list(known.symbols.columns.addresses)
    assert profile.types.offset("task_struct", "comm") == known.types.offset("task_struct", "comm")


@pytest.mark.parametrize(
    "pack", [gzip.compress, lzma.compress, bz2.compress, lz4, lambda data: lzma.compress(data, lzma.FORMAT_ALONE)]
)
def test_all_packings_are_unpacked(pack: Callable[[bytes], bytes]) -> None:
    data = b"\x7fELF" + Random(1).randbytes(3000) + b"end" + bytes(5000)  # noqa: S311  # a test's
    assert vmlinux.unpack(bz_image(pack(data))) == data


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "neither"),
        (b"MZ" * 600, "neither"),
        (bz_image(b"\xaa\xbb\xcc\xdd" * 9), "unknown way"),
        (bz_image(b"\x1f\x8b\x08junkjunkjunkjunk"), "damaged"),
        (b"\x7fELF\x01" + bytes(100), "64-bit ELF"),
        (b"\x7fELF", "cannot use"),
        (elf(1 << 24, bytes(5 << 20)), "kallsyms"),
    ],
)
def test_what_is_no_kernel_is_a_usage_error(tmp_path: Path, raw: bytes, reason: str) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(raw)
    with pytest.raises(UsageError, match=reason):
        vmlinux.profile_of_file(path)


def test_damaged_payloads_end_in_an_error() -> None:
    data = Random(2).randbytes(500) + bytes(4000)  # noqa: S311  # a test's
    random = Random(3)  # noqa: S311  # a test's
    for pack in (gzip.compress, lz4):
        packed = pack(data)
        for _ in range(200):
            broken = bytearray(packed)
            broken[random.randrange(4, len(broken))] = random.randrange(256)
            with contextlib.suppress(GuestError):
                vmlinux.unpack(bz_image(bytes(broken)[: random.randrange(8, len(broken))]))
