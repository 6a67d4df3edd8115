# SPDX-License-Identifier: GPL-2.0-or-later
"""What an executed page is, by the books of the guest's kernel: asked after the guest was let go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drakmet.errors import GuestError
from drakmet.executions import Origin, Region
from drakmet.guest.memory import PAGE_SHIFT
from drakmet.guest.modules import Modules
from drakmet.guest.paging import ADDRESS_MASK
from drakmet.guest.regions import VM_WRITE, Regions
from drakmet.monitor.values import settle

if TYPE_CHECKING:
    from drakmet.guest.linux import LinuxGuest
    from drakmet.guest.modules import Part
    from drakmet.guest.regions import Region as Mapped

_USER_TABLES: Final = 4096
_UNKNOWN: Final = Origin(unreadable=("region",))
_MEMFD: Final = "/memfd:"


class Origins:
    """Looks pages up in the address space that ran them. `GuestError` if the kernel's types lack what it takes."""

    def __init__(self, guest: LinuxGuest) -> None:
        self._guest = guest
        self._regions = Regions(guest.kernel)
        self._modules = Modules(guest.kernel)
        self._parts: list[Part] = []

    def of(self, address: int | None, mm: int, cr3: int, kernel: bool) -> Origin:
        """Return what the page at ``address`` is; ``mm`` is the process's mm_struct, 0 if it has none."""
        if address is None:
            return _UNKNOWN
        try:
            if address >> 63:
                return self._of_kernel(address)
            if kernel or not mm or not self._own(mm, cr3):
                return _UNKNOWN
            mapped = self._regions.find(mm, address)
            return _UNKNOWN if mapped is None else self._of_user(address, mm, mapped)
        except GuestError:
            return _UNKNOWN

    def _own(self, mm: int, cr3: int) -> bool:
        """See that the mm_struct is still that of the page tables: a process may have ended meanwhile."""
        root, own = cr3 & ADDRESS_MASK, self._guest.task_reader.cr3(mm)
        return root in (own, own | _USER_TABLES)

    def _of_kernel(self, address: int) -> Origin:
        space = self._guest.kernel.space
        if space.image_start <= address < space.image_end:
            return Origin(Region.KERNEL, page=address - space.image_start >> PAGE_SHIFT)
        part = self._part(address)
        if part is None:
            return Origin(Region.KERNEL_MEMORY)
        page = address - part.start >> PAGE_SHIFT if part.first else None
        return Origin(Region.MODULE, page=page, module=settle(part.name))

    def _part(self, address: int) -> Part | None:
        for again in (False, True):
            for part in self._parts:
                if part.start <= address < part.end and self._modules.has(part):
                    return part
            if not again:
                self._parts = list(self._modules.parts())
        return None

    def _of_user(self, address: int, mm: int, mapped: Mapped) -> Origin:
        writable = bool(mapped.flags & VM_WRITE)
        if not mapped.file:
            if mapped.start == self._regions.vdso(mm):
                return Origin(Region.VDSO, page=address - mapped.start >> PAGE_SHIFT, writable=writable)
            heap, stack = self._regions.heap(mm), self._regions.stack(mm)
            if mapped.start <= stack < mapped.end:
                return Origin(Region.STACK, writable=writable)
            in_heap = heap[0] <= address < heap[1]
            return Origin(Region.HEAP if in_heap else Region.ANONYMOUS, writable=writable)
        page = mapped.offset + address - mapped.start >> PAGE_SHIFT
        file = self._guest.file(mapped.file)
        path, inode, device = file.path, file.inode, file.device
        lost = ("inode", "device") if inode is None else ()
        if path is None:
            return Origin(
                Region.FILE, page=page, writable=writable, inode=inode, device=device, unreadable=("path", *lost)
            )
        region = Region.MEMFD if path.kind == "memfd" and path.text.startswith(_MEMFD) else Region.FILE
        return Origin(region, settle(path.text), page, path.deleted, None, writable, inode, device, lost)
