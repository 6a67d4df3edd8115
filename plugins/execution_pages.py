# SPDX-License-Identifier: GPL-2.0-or-later
"""Which pages of code run: each is hashed before it is executed, and again when it was written to since."""

from typing import Annotated

from drakmet import Address, EventRecord, ExecuteTrap, Execution, hookimpl


class ExecutedPage(EventRecord):
    """A page of code was executed: for the first time in the watch, or again after it was written to.

    The MMU tells of it, whatever the guest's kernel says. A frame that several processes share is told of when the
    first of them executes it.
    """

    indexes = (("hash",), ("path", "page"), ("process",))

    kind: Annotated[str, "first; rewritten: written to since; reused: the frame is another page now; changed: written "
                         "by dom0 or a device; jit: from now on unverifiable"]  # fmt: skip
    hash: Annotated[str | None, "hash of its 4096 bytes as they ran, hex: what `drakmet identity lookup` takes"]
    gfn: Annotated[int | None, "number of the guest's frame"]
    address: Annotated[Address | None, "linear address of the page's first byte"]
    cr3: Annotated[Address | None, "guest-physical address of the page tables it ran with"]
    rip: Annotated[Address | None, "where the CPU was: in the page, or at the end of the one before"]
    kernel: Annotated[bool | None, "whether it ran in kernel mode"]
    region: Annotated[
        str | None,
        "file, memfd, anonymous, vdso, stack, heap, kernel, module, or kernel memory that is neither; null if the "
        "guest's kernel is not known",
    ]
    path: Annotated[str | None, "the mapped file, from the root of the mount namespace; null if there is none"]
    page: Annotated[int | None, "the page's number in the file, or in the image of the kernel or the module"]
    deleted: Annotated[bool | None, "whether the file's name was removed; null if there is no file"]
    inode: Annotated[int | None, "the file's inode number: another file may have taken its path"] = None
    device: Annotated[str | None, "its file system's device, major:minor"] = None
    module: Annotated[str | None, "the kernel module's name"]
    writable: Annotated[bool | None, "whether the process may also write there"]
    times: Annotated[int | None, "how often this frame was told of in the watch, this time included"]


@hookimpl
def drakmet_records() -> list[type[EventRecord]]:
    """Return this plugin's records."""
    return [ExecutedPage]


@hookimpl
def drakmet_execute_traps() -> list[ExecuteTrap]:
    """Return this plugin's execute traps."""
    return [ExecuteTrap(handler=on_execute, record=ExecutedPage)]


def on_execute(execution: Execution) -> ExecutedPage:
    """A page is about to run."""
    origin = execution.origin
    lost = ("region",) if origin is None else origin.unreadable
    return execution.make(
        ExecutedPage,
        lost,
        kind=execution.kind.value,
        hash=execution.hash,
        gfn=execution.gfn,
        address=execution.address,
        cr3=execution.cr3,
        rip=execution.rip,
        kernel=execution.kernel,
        region=origin.region.value if origin and origin.region else None,
        path=origin.path if origin else None,
        page=origin.page if origin else None,
        deleted=origin.deleted if origin else None,
        inode=origin.inode if origin else None,
        device=origin.device if origin else None,
        module=origin.module if origin else None,
        writable=origin.writable if origin else None,
        times=execution.times,
    )
