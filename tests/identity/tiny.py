# SPDX-License-Identifier: GPL-2.0-or-later
"""A database of two tiny packages: versions 1 and 2 of one tool, which share a page."""

from __future__ import annotations

import io
import struct
import tarfile
from typing import TYPE_CHECKING

from drakmet.identity import Identities

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def program(*pages: bytes) -> bytes:
    body = b"".join(page.ljust(4096, b"\x90") for page in pages)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    return (header + struct.pack("<IIQQQQQQ", 1, 5, 4096, 0, 0, len(body), len(body), 4096)).ljust(4096, b"\0") + body


def tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def package(
    version: str,
    *pages: bytes,
    control: Iterable[str] = (),
    changelog: bytes | None = None,
    more: dict[str, bytes] | None = None,
) -> bytes:
    said = "\n".join(("Package: tool", *control, f"Version: {version}", "Architecture: amd64", "")).encode()
    content = {"./bin/tool": program(*pages)} | (more or {})
    if changelog is not None:
        content["./usr/share/doc/tool/changelog.Debian.gz"] = changelog
    out = b"!<arch>\n"
    for name, data in (
        ("debian-binary", b"2.0\n"),
        ("control.tar.xz", tar({"./control": said})),
        ("data.tar.xz", tar(content)),
    ):
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    return out


def build(folder: Path) -> Identities:
    identities = Identities.open(folder / "pages.db", create=True)
    for version in ("1", "2"):
        path = folder / f"{version}.deb"
        path.write_bytes(package(version, b"same", version.encode()))
        assert identities.add(path) == 2
    return identities
