# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux kernels from Debian packages, recompressed for a slow machine, with just the modules that are wanted."""

from __future__ import annotations

import lzma
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drakmet.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from drakmet.lab.roots import Root

_LZ4_LEGACY = b"\x02\x21\x4c\x18"
_XZ = b"\xfd7zXZ\0"
_ZSTD = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Kernel:
    """The one kernel that a root holds: ``release`` is what ``uname -r`` says."""

    release: str
    image: Path
    modules: Path


def kernel_of(root: Path) -> Kernel:
    """Find the kernel in an unpacked root."""
    images = sorted((root / "boot").glob("vmlinuz-*"))
    if len(images) != 1:
        raise LabError(f"expected one kernel, found {len(images)}", where=str(root / "boot"))
    release = images[0].name.removeprefix("vmlinuz-")
    return Kernel(release, images[0], root / "usr/lib/modules" / release)


def module_files(kernel: Kernel, names: Sequence[str]) -> list[tuple[str, bytes]]:
    """Return modules and those they depend on as (name, content) in an order in which they can be loaded.

    Names that are not there are built in (or this kernel lacks them): they are left out.
    """
    paths = {_plain(path.name): path for path in kernel.modules.rglob("*.ko*")}
    order: list[tuple[str, bytes]] = []
    seen: set[str] = set()

    def add(name: str) -> None:
        if name in seen or name not in paths:
            return
        seen.add(name)
        data = _read_module(paths[name])
        for needed in _depends(data):
            add(needed)
        order.append((name, data))

    for name in names:
        add(name.replace("-", "_"))
    return order


def _plain(file: str) -> str:
    return file.split(".ko", 1)[0].replace("-", "_")


def _read_module(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def _depends(module: bytes) -> list[str]:
    # The .modinfo section is a run of NUL-terminated "key=value" strings (include/linux/moduleparam.h); soft
    # dependencies (crc32c and its kind) are algorithms that are asked for by name at run time.
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    hard = [name.replace("-", "_") for name in found[1].decode().split(",") if name] if found else []
    soft = re.search(rb"\0softdep=pre:([^\0]*)\0", module)
    return hard + ([name.replace("-", "_") for name in soft[1].decode().split() if name.isidentifier()] if soft else [])


def lighten(image: Path, tools: Root, target: Path) -> None:
    """Write a bzImage for Xen whose payload is LZ4.

    Xen unpacks dom0's kernel itself, and XZ costs it billions of instructions.
    Header layout: Documentation/arch/x86/boot.rst (setup_sects 0x1f1, payload_offset 0x248, payload_length 0x24c).
    """
    data = image.read_bytes()
    if data[0x202:0x206] != b"HdrS":
        raise LabError("this is not a bzImage", where=str(image))
    start = (data[0x1F1] + 1) * 512
    offset, length = struct.unpack_from("<II", data, 0x248)
    payload = data[start + offset : start + offset + length]
    if payload.startswith(_LZ4_LEGACY):
        target.write_bytes(data)
        return
    raw, packed = target.with_suffix(".elf"), target.with_suffix(".lz4")
    if payload.startswith(_XZ):
        raw.write_bytes(lzma.LZMADecompressor(format=lzma.FORMAT_XZ).decompress(payload))
    elif payload.startswith(_ZSTD):
        # The unpacked size that ends the payload is no part of the frame.
        packed.write_bytes(payload[:-4])
        tools.run("usr/bin/zstd", "-q", "-f", "-d", packed, "-o", raw)
    else:
        raise LabError("the kernel's payload is none of LZ4, XZ and Zstandard", where=str(image))
    size = raw.stat().st_size
    tools.run("usr/bin/lz4", "-q", "-f", "-l", "-9", raw, packed)
    # As the kernel's own build does (scripts/Makefile.lib, size_append), the unpacked size ends the payload.
    light = packed.read_bytes() + struct.pack("<I", size)
    raw.unlink()
    packed.unlink()
    head = bytearray(data[:start])
    struct.pack_into("<II", head, 0x248, 0, len(light))
    target.write_bytes(bytes(head) + light)
