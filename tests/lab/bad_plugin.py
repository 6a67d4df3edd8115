# SPDX-License-Identifier: GPL-2.0-or-later
"""A plugin that does what a plugin must not, whenever the guest opens a file of that name."""

import ctypes
import time
from typing import Annotated

from drakmet import EventRecord, Hit, Trap, hookimpl


class BadOpen(EventRecord):
    """An open."""

    requested: Annotated[str | None, "the name as it was given"]


@hookimpl
def drakmet_records() -> list[type[EventRecord]]:
    """Return this plugin's record."""
    return [BadOpen]


@hookimpl
def drakmet_traps() -> list[Trap]:
    """Return its trap."""
    return [Trap(function="do_filp_open", fetch={"requested": "pathname->name"}, record=BadOpen, handler=on_open)]


def on_open(hit: Hit) -> BadOpen:
    """Misbehave."""
    name = hit.requested or ""
    if name == "/bad/raise":
        raise RuntimeError("as it was told")
    if name == "/bad/slow":
        time.sleep(2)
    if name == "/bad/loop":
        while True:
            pass
    if name == "/bad/hoard":
        pile = []
        while True:
            pile.append(b"x" * (4 << 20))
    if name == "/bad/crash":
        ctypes.string_at(0)
    return hit.make(BadOpen, requested=name)
