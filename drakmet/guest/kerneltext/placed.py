# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the guest says that a module's memory is: what the layout of its file is checked against."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drakmet.guest.kerneltext.module_image import Bases

if TYPE_CHECKING:
    from drakmet.guest.kernel import Kernel

_KINDS = ("MOD_TEXT", "MOD_RODATA", "MOD_RO_AFTER_INIT", "MOD_DATA")


def bases(kernel: Kernel, module: int) -> Bases:
    """Return the bases of the ``struct module`` at an address; `GuestError` if it cannot be read."""
    types, space = kernel.profile.types, kernel.space
    percpu = 0
    if types.has_field("module", "percpu"):
        percpu = space.read_u64(module + types.offset("module", "percpu"))
    if types.has_field("module", "mem"):  # since 6.4
        start, step = types.offset("module", "mem"), types.size("module_memory")
        base, kinds = types.offset("module_memory", "base"), types.enum("mod_mem_type")
        text, read, after, data = (space.read_u64(module + start + step * kinds[kind] + base) for kind in _KINDS)
        return Bases(module, (text, read, after, data), text, percpu)
    whole = space.read_u64(module + types.offset("module", "core_layout") + types.offset("module_layout", "base"))
    return Bases(module, None, whole, percpu)
