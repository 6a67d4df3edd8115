# SPDX-License-Identifier: GPL-2.0-or-later
"""Disk images: squashfs for roots, and a disk that GRUB boots Xen from."""

from __future__ import annotations

import io
import os
import shutil
import struct
import tarfile
from typing import TYPE_CHECKING

from drakmet.errors import LabError
from drakmet.lab.places import built_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from drakmet.lab.roots import Root

SECTOR = 512
# Bochs wants whole cylinders: 16 heads, 63 sectors.
CYLINDER = 16 * 63 * SECTOR
_PARTITION_START = 2048
_GRUB_MODULES = ("biosdisk", "part_msdos", "tar", "multiboot2")


def pad(path: Path) -> None:
    """Lengthen a file to whole cylinders (sparse)."""
    size = path.stat().st_size
    os.truncate(path, -(-size // CYLINDER) * CYLINDER)


def squashfs(tools: Root, source: Path, target: Path) -> None:
    """Pack a folder, uncompressed: the emulated machine reads more easily than it unpacks. Root owns all files."""
    with built_file(target) as work:
        tools.run(
            "usr/bin/mksquashfs",
            source,
            work,
            "-all-root",
            "-noI",
            "-noD",
            "-noF",
            "-noX",
            "-noappend",
            "-no-progress",
            "-quiet",
            "-no-xattrs",
            "-no-exports",
        )
        pad(work)


def boot_disk(tools: Root, target: Path, files: Mapping[str, bytes], commands: Sequence[str]) -> None:
    """Write a disk that the BIOS boots: GRUB in the first sectors, one partition that is a tar file.

    ``commands`` is GRUB's script; files are under ``(hd0,msdos1)/``. GRUB needs no menu and no normal mode for that.
    """
    with built_file(target) as work:
        script, core = work.with_suffix(".grub"), work.with_suffix(".core")
        try:
            script.write_text("\n".join(commands) + "\n")
            tools.run(
                "usr/bin/grub-mkimage",
                "-O",
                "i386-pc",
                "-d",
                tools.path / "usr/lib/grub/i386-pc",
                "-p",
                "(hd0,msdos1)/",
                "-c",
                script,
                "-o",
                core,
                *_GRUB_MODULES,
            )
            boot = bytearray((tools.path / "usr/lib/grub/i386-pc/boot.img").read_bytes())
            image = core.read_bytes()
        finally:
            script.unlink(missing_ok=True)
            core.unlink(missing_ok=True)
        # boot.img loads GRUB from sector 1 and grub-mkimage's list of blocks starts at sector 2: as they come.
        if len(boot) != SECTOR or len(image) > (_PARTITION_START - 1) * SECTOR:
            raise LabError("GRUB's image does not fit before the first partition", where=str(target))
        data = _tar(files)
        # GRUB's code for floppies lies where the partition table goes.
        boot[446:510] = bytes(64)
        struct.pack_into(
            "<B3sB3sII", boot, 446, 0x80, b"\0\2\0", 0x83, b"\xfe\xff\xff", _PARTITION_START, len(data) // SECTOR + 1
        )
        with work.open("wb") as out:
            out.write(boot + image)
            out.seek(_PARTITION_START * SECTOR)
            out.write(data)
        pad(work)


def guest_boot_image(tools: Root, target: Path, kernel: Path, initramfs: bytes, command_line: str) -> None:
    """Write GRUB for PVH guests with kernel and initramfs inside: it boots them as a BIOS would, so KASLR runs."""
    with built_file(target) as work:
        memdisk, script = work.with_suffix(".tar"), work.with_suffix(".grub")
        try:
            memdisk.write_bytes(_tar({"kernel": kernel.read_bytes(), "initramfs": initramfs}))
            script.write_text(f"linux (memdisk)/kernel {command_line}\ninitrd (memdisk)/initramfs\nboot\n")
            tools.run(
                "usr/bin/grub-mkimage",
                "-O",
                "i386-xen_pvh",
                "-d",
                tools.path / "usr/lib/grub/i386-xen_pvh",
                "-p",
                "(memdisk)/",
                "-m",
                memdisk,
                "-c",
                script,
                "-o",
                work,
                "memdisk",
                "tar",
                "linux",
            )
        finally:
            memdisk.unlink(missing_ok=True)
            script.unlink(missing_ok=True)


def _tar(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def clone_tree(source: Path, target: Path) -> None:
    """Copy a folder by hard links: quick, and free. Files of the copy must be replaced, never written into."""
    shutil.copytree(source, target, symlinks=True, copy_function=os.link, dirs_exist_ok=True)
