# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes what the guest view fetched fit for plugins and records: every string becomes guest text."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from drakmet.guest.memory import Unreadable
from drakmet.text import Cut, escape, escape_bytes

_PLAIN: Final = frozenset((int, bool, type(None), float))
_MAX_DEPTH: Final = 6


def settle(value: Any, depth: int = _MAX_DEPTH) -> Any:
    """Return ``value`` with each string and each bytes in it as guest text; what could not be read is None."""
    kind = value.__class__
    if kind in _PLAIN:
        return value
    if kind is str or kind is Cut:
        return escape(value)
    if kind is Unreadable:
        return None
    if kind is bytes:
        return escape_bytes(value)
    if depth <= 0:
        return None
    if isinstance(value, msgspec.Struct):
        changes = {}
        for name in value.__struct_fields__:
            before = getattr(value, name)
            after = settle(before, depth - 1)
            if after is not before:
                changes[name] = after
        return msgspec.structs.replace(value, **changes) if changes else value
    if kind is list:
        return [settle(one, depth - 1) for one in value]
    if isinstance(value, tuple):
        settled = [settle(one, depth - 1) for one in value]
        return value._make(settled) if hasattr(value, "_make") else tuple(settled)
    if kind is dict:
        return {key: settle(one, depth - 1) for key, one in value.items()}
    return value
