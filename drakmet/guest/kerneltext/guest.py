# SPDX-License-Identifier: GPL-2.0-or-later
"""All text of one guest's kernel: the kernel and its modules, each compared with its file."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Final

from drakmet.errors import GuestError
from drakmet.guest.kerneltext.compare import Comparison, compare
from drakmet.guest.kerneltext.explain import Explainer
from drakmet.guest.kerneltext.module_image import ModuleFile
from drakmet.guest.kerneltext.placed import bases
from drakmet.guest.kerneltext.tables import Tables
from drakmet.guest.kerneltext.tracing import Tracing
from drakmet.guest.kerneltext.values import Known

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from drakmet.guest.kernel import Kernel
    from drakmet.guest.kerneltext.image import Image
    from drakmet.guest.kerneltext.reference import Reference
    from drakmet.guest.modules import Module

_WANTED: Final = re.compile(
    r"__x86_indirect_(?:\w+_)?thunk_r|\w+_return_thunk$|__SCT__|dentry_hashtable$|d_hash_shift$"
)
NOT_IN_PACKAGE: Final = "kernel module not in the package"
_TRAMPOLINE: Final = "__SCT__"


class GuestText:
    """The text of a guest's kernel against its files.

    ``module_file`` returns a module's file by its name, None if the package has none; it may raise `GuestError`.
    """

    def __init__(self, kernel: Kernel, reference: Reference, module_file: Callable[[str], bytes | None]) -> None:
        if kernel.build_id != reference.build_id:
            raise GuestError(f"the kernel's build id is {kernel.build_id}, that of the file {reference.build_id}")
        self._kernel = kernel
        self._reference = reference
        self._module_file = module_file
        self._files: dict[int, ModuleFile] = {}
        self._images: dict[int, Image] = {}
        self.problems: dict[int, str] = {}
        """Why modules cannot be compared, by the address of their struct module."""
        self.image = reference.image(kernel.slide)
        names = {}
        for address, _, name in reference.symbols:
            if _WANTED.match(name):
                names[name] = kernel.slid(address)
        self._static = frozenset(address for name, address in names.items() if name.startswith(_TRAMPOLINE))
        self._known = Known(self._is_entry, names, kernel.space.read)
        self._tracing = Tracing(kernel, self.image, self.named, self._file)

    def place(self, modules: Iterable[Module]) -> None:
        """Lay out the files of the modules that are loaded; those without one are in `problems`."""
        for module in modules:
            try:
                data = self._module_file(module.name)
                if data is None:
                    self.problems[module.address] = NOT_IN_PACKAGE
                    continue
                file = ModuleFile(module.name, data)
                file.place(bases(self._kernel, module.address))
                self._files[module.address] = file
            except GuestError as error:
                self.problems[module.address] = error.what
        for address, file in list(self._files.items()):
            try:
                self._images[address] = file.image(self._exported)
            except GuestError as error:
                self.problems[address] = error.what
                del self._files[address]

    def _exported(self, name: str) -> int | None:
        link = self._reference.exported.get(name)
        return self._kernel.slid(link) if link is not None else self._exports.get(name)

    @cached_property
    def _exports(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for file in self._files.values():
            for name, address in file.exports():
                found.setdefault(name, address)
        return found

    def compare_kernel(self) -> Comparison:
        """Compare the kernel's own text."""
        return self._compare(self.image, self._static)

    def compare_module(self, module: Module) -> Comparison | None:
        """Compare a module's text; None if `problems` says why that cannot be done."""
        image = self._images.get(module.address)
        return None if image is None else self._compare(image, self._files[module.address].trampolines())

    def file_of(self, module: Module) -> ModuleFile | None:
        """Return the module's file, if it could be placed."""
        return self._files.get(module.address)

    def is_trampoline(self, address: int) -> bool:
        """Return whether one of ftrace's trampolines begins at an address; `compare_kernel` comes first."""
        return self._tracing.is_trampoline(address)

    def extents(self, module: Module) -> list[tuple[int, int]]:
        """Return the memory that a module takes, as far as its file or the guest's own word tells it."""
        file = self._files.get(module.address)
        size = file.text_size if file is not None else module.size
        return [(module.base, module.base + size)]

    def _compare(self, image: Image, static: frozenset[int]) -> Comparison:
        types = self._reference.profile.types
        read = self._kernel.space.read
        explainer = Explainer(image, Tables(image, types), self._known, read, self._tracing, static)
        if image is self.image:
            self._tracing.explainer = explainer
        return compare(image, explainer, read)

    def _is_entry(self, address: int) -> bool:
        return self.image.is_entry(address) or any(image.is_entry(address) for image in self._images.values())

    def _file(self, address: int, length: int) -> bytes:
        for image in (self.image, *self._images.values()):
            if image.is_text(address):
                return image.read(address, length)
        raise GuestError(f"no file has text at {address:#x}")

    def named(self, address: int) -> str:
        """Return a function's name, with that of its module; its address where no file has it."""
        for image in (self.image, *self._images.values()):
            if image.is_text(address):
                found = image.symbol_at(address)
                if found is not None:
                    name = found[0] + (f"+{found[1]:#x}" if found[1] else "")
                    return f"{image.name}:{name}" if image.name else name
        return f"{address:#x}"
