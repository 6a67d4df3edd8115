# SPDX-License-Identifier: GPL-2.0-or-later
"""A profile for DRAKVUF (Volatility 3's ISF) out of what the guest's own memory tells, with just what DRAKVUF reads.

DRAKVUF has the guest paused while it parses its profile: half a minute for all types and symbols of a kernel.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec

from drakmet.drakvuf.hooks import LINUX, SYMBOL_PREFIXES, SYMBOLS, TYPES
from drakmet.guest.isf import write
from drakmet.guest.symbols import KERNEL_HALF

if TYPE_CHECKING:
    from pathlib import Path

    from drakmet.guest.kernel import Kernel

_SHIFT = 2 << 20
"""Bytes by which the addresses are lowered for a kernel without KASLR; DRAKVUF takes a distance of 0 for a fault."""


def profile_of(kernel: Kernel) -> dict[str, Any]:
    """Return the ISF of a guest's kernel, as far as DRAKVUF and LibVMI ask for it."""
    types, symbols = kernel.profile.types, kernel.profile.symbols
    for struct, members in TYPES.items():
        for member in members.split():
            types.has_field(struct, member)  # notes that it is asked for
    data = write(types, symbols, kernel.banner)
    del data["functions"]
    wanted = {*SYMBOLS, *(name for hook in LINUX for name in hook.functions)}
    rows: dict[str, dict[str, Any]] = {}
    for address, _, name in symbols:
        if name in wanted or name.startswith(SYMBOL_PREFIXES):
            rows.setdefault(name, {"address": address})
    banner = data["symbols"]["linux_banner"]
    rows["linux_banner"] = banner
    if kernel.slide == 0:
        for row in rows.values():
            if row["address"] >= KERNEL_HALF:
                row["address"] -= _SHIFT
    data["symbols"] = rows
    data["metadata"] = {
        "format": "6.2.0",
        "producer": {"name": "drakmet", "version": "1"},
        "linux": {"symbols": [{"kind": "symtab", "name": "kallsyms", "hash_type": "build-id",
                               "hash_value": kernel.build_id or "unknown"}]},
    }  # fmt: skip
    return data


def save(kernel: Kernel, path: Path) -> None:
    """Write the profile, readable by its owner only."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.encode(profile_of(kernel)))
