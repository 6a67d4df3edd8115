# SPDX-License-Identifier: GPL-2.0-or-later
"""The code in a file of any kind that is known here, as the pages that are hashed."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, NamedTuple

from drakmet.errors import UsageError
from drakmet.identity import elf, pe
from drakmet.pages import page_hash

if TYPE_CHECKING:
    from drakmet.identity.deb import Package

_DIGEST_SIZE: Final = 16


class Code(NamedTuple):
    """A file's build-id, its hashed pages by their number, and what the file says of itself (PE only)."""

    build_id: str | None
    pages: list[tuple[int, bytes]]
    about: Package | None = None

    def digest(self) -> bytes:
        """Return a hash over all that is kept: equal files have it in common."""
        whole = hashlib.blake2b((self.build_id or "").encode(), digest_size=_DIGEST_SIZE, person=b"drakmet code")
        for number, digest in self.pages:
            whole.update(number.to_bytes(8, "little") + digest)
        return whole.digest()


def begins(head: bytes) -> bool:
    """Return whether a file that begins so (2048 bytes are enough) is one that `read` takes."""
    return head[:4] == elf.MAGIC or pe.begins(head)


def read(data: bytes) -> Code:
    """Read an ELF or PE file; `UsageError` if it is neither, or broken."""
    if data[:4] == elf.MAGIC:
        build_id, pages = elf.read(data)
        return Code(build_id, [(number, page_hash(page)) for number, page in pages])
    if data[:2] == pe.MAGIC:
        image = pe.read(data)
        return Code(image.build_id, [(number, page_hash(page)) for number, page in image.pages], image.about)
    raise UsageError("neither an ELF nor a PE file")
