# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel modules: by the kernel's list, and by what else knows of them, for a list can be made to leave one out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from drakmet.errors import GuestError
from drakmet.guest.layout import Slice
from drakmet.guest.lists import Trees, linked
from drakmet.guest.memory import Unreadable
from drakmet.guest.pathtypes import bounded, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.guest.kernel import Kernel

_MAX_STRING: Final = 256
_MAX_MODULES: Final = 4096
_U64: Final = (1 << 64) - 1
_STATES: Final = ("live", "coming", "going", "unformed")  # enum module_state
_REF_BASE: Final = 1  # MODULE_REF_BASE, kernel/module/main.c


class Module(msgspec.Struct, frozen=True):
    """A module: ``base`` is where its code lies, ``size`` all it takes in bytes, as ``/proc/modules`` counts it."""

    address: int
    name: str
    state: str
    base: int
    size: int
    references: int | None
    version: str | None
    source_version: str | None
    taints: int


class Part(NamedTuple):
    """A piece of a module's memory: ``first`` of them is where its code lies."""

    start: int
    end: int
    module: int
    name: str
    first: bool


class Modules:
    """Reads the modules of one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        types = kernel.profile.types
        space = self._space = kernel.space
        self._kernel = kernel
        self._list = types.offset("module", "list")
        self._kobject = types.offset("module", "mkobj.kobj.entry")
        self._module = Slice(types, "module", "state", "name", "version", "srcversion", "taints")
        self._references = types.offset("module", "refcnt") if types.has_field("module", "refcnt") else None
        self._parts: list[int] = []
        layout = "module_memory" if types.has_field("module", "mem") else "module_layout"
        self._part = Slice(types, layout, "base", "size")
        if layout == "module_memory":  # from Linux 6.4 on
            field = types.field("module", "mem")
            step = types.size(layout)
            self._parts = [field.offset + at for at in range(0, types.sizeof(field.type), step)]
        else:
            self._parts = [types.offset("module", name) for name in ("core_layout", "init_layout")]
        self._trees = Trees(space, types)
        self._node = self._node_module = None
        if types.has_field("mod_tree_root", "root.tree"):
            self._node = types.offset("mod_tree_root", "root.tree")
            self._node_module = types.offset("mod_tree_node", "mod") - types.offset("mod_tree_node", "node")

    def listed(self) -> Iterator[int]:
        """Yield the addresses of the modules in the kernel's list, which is what ``lsmod`` shows."""
        for node in linked(self._space, self._kernel.address("modules")):
            yield node - self._list

    def in_sysfs(self) -> Iterator[int]:
        """Yield the modules that have a directory in ``/sys/module``."""
        types = self._kernel.profile.types
        kset = self._space.read_u64(self._kernel.address("module_kset"))
        owner = types.offset("module_kobject", "mod")
        entry = types.offset("module_kobject", "kobj.entry")
        for node in linked(self._space, kset + types.offset("kset", "list")):
            module = self._space.read_u64(node - entry + owner)
            if module:  # the kernel's own parts have none
                yield module

    def by_address(self) -> Iterator[int]:
        """Yield the modules in the tree by which the kernel finds whose code an address is."""
        root = self._kernel.find("mod_tree")
        if root is None or self._node is None or self._node_module is None:
            raise Unreadable("the kernel has no tree of modules")
        seen: set[int] = set()
        for node in self._trees.nodes(self._space.read_u64(root + self._node)):
            module = self._space.read_u64(node + self._node_module)
            if module not in seen:
                seen.add(module)
                yield module

    def parts(self) -> Iterator[Part]:
        """Yield the pieces of memory of the modules in the list; what cannot be read of it ends them."""
        try:
            for number, address in enumerate(self.listed()):
                if number >= _MAX_MODULES:
                    return
                yield from self._parts_of(address)
        except GuestError:
            return

    def _parts_of(self, address: int) -> Iterator[Part]:
        name = self.module(address).name
        for at in self._parts:
            base, size = self._part.read(self._space, address + at)
            if base and size:
                yield Part(base, base + size, address, name, at == self._parts[0])

    def has(self, part: Part) -> bool:
        """Tell whether a module still has that piece: it may have gone, and another come."""
        try:
            return part in self._parts_of(part.module)
        except GuestError:
            return False

    def module(self, address: int) -> Module:
        """Return the ``struct module`` at ``address``."""
        state, name, version, source, taints = self._module.read(self._space, address)
        parts = [self._part.read(self._space, address + at) for at in self._parts]
        references = None
        if self._references is not None:
            references = self._space.read_uint(address + self._references, 4) - _REF_BASE
        name = name.partition(b"\0")[0]
        if not name or not state < len(_STATES) or any(byte < 33 for byte in name):
            raise Unreadable(f"{address:#x} is no module")
        return Module(
            address=address,
            name=text(name),
            state=_STATES[state],
            base=parts[0][0],
            size=sum(size for _, size in parts),
            references=references,
            version=self._string(version),
            source_version=self._string(source),
            taints=taints,
        )

    def _string(self, address: Any) -> str | None:
        if not address:
            return None
        try:
            return bounded(self._space.read_cstring(address, _MAX_STRING), _MAX_STRING)
        except GuestError:
            return None
