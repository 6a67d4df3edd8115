# SPDX-License-Identifier: GPL-2.0-or-later
"""What a path is, and how bytes of the guest become text."""

from __future__ import annotations

from typing import Literal

import msgspec

from drakmet.text import Cut

PathKind = Literal["file", "pipe", "socket", "anon", "memfd", "namespace"]


class GuestPath(msgspec.Struct, frozen=True):
    """A path as seen from the root of the mount namespace.

    ``text`` is UTF-8 with surrogate escapes, so that ``os.fsencode`` gives the guest's bytes back. ``deleted``:
    the name was removed (d_path would append ``" (deleted)"``; ``text`` has no such ending). ``reachable`` is
    false for a path on a mount that was taken off the namespace: it then starts at that mount's root.
    """

    text: str
    kind: PathKind = "file"
    deleted: bool = False
    reachable: bool = True

    def __str__(self) -> str:
        return self.text


def bounded(raw: bytes, limit: int) -> str:
    """Return bytes that were read up to a NUL, ``limit`` at most, as str: a `Cut` where no NUL came before that."""
    return Cut(text(raw)) if len(raw) >= limit else text(raw)


def text(raw: bytes) -> str:
    """Return guest bytes as str; ``os.fsencode`` of it gives the same bytes."""
    return raw.decode("utf-8", "surrogateescape")
