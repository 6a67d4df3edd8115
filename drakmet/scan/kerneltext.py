# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the code of the kernel and its modules is that of their files, and whether all kernel code has an owner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drakmet.errors import DrakmetError, GuestError
from drakmet.guest.kernel import Kernel
from drakmet.guest.kerneltext.compare import lines
from drakmet.guest.kerneltext.guest import NOT_IN_PACKAGE, GuestText
from drakmet.guest.kerneltext.owners import Owners, executable
from drakmet.guest.modules import Module, Modules
from drakmet.identity import Verdict
from drakmet.monitor.values import settle
from drakmet.scan.records import KernelImage, KernelText, UnownedCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.guest.kerneltext.compare import Comparison, Difference
    from drakmet.guest.memory import PhysicalMemory
    from drakmet.records import Record
    from drakmet.scan.kernelfiles import KernelFiles
    from drakmet.scan.session import Reading

_MOST_UNOWNED: Final = 256
_FILLING: Final = b"\0\xcc\x90"
_SHOWN: Final = 16


class KernelTexts:
    """The collector of the tables ``kernel_image``, ``kernel_text`` and ``unowned_code``.

    It reads code from the guest itself and not from the copies of the scan, which would pause the guest for long. A
    running kernel patches its own text: so what is modified is read once more before it is called so.
    """

    __name__ = "kernel_text"
    tables: tuple[str, ...] = (KernelImage.table, KernelText.table, UnownedCode.table)

    def __init__(self, files: KernelFiles, memory: PhysicalMemory, *, moves: bool) -> None:
        self._files = files
        self._memory = memory
        self._moves = moves
        self._rows_told: list[Record] = []
        self._lost: list[str] = []
        self._whole = False

    def __call__(self, scan: Reading) -> Iterator[Record]:
        """Yield a row for the kernel and for each module, and one for each place that is not its file's.

        Of a scan that reads several times only the first reading compares: what it read are not the scan's copies.
        """
        if self._whole:
            for reason in self._lost:
                scan.lose(reason)
            yield from self._rows_told
            return
        self._rows_told, self._lost = [], []
        for row in self._compared(scan):
            self._rows_told.append(row)
            yield row
        self._whole = True

    def _lose(self, scan: Reading, reason: str) -> None:
        self._lost.append(reason)
        scan.lose(reason)

    def _compared(self, scan: Reading) -> Iterator[Record]:
        known = scan.guest.kernel
        kernel = Kernel(known.profile, self._memory, known.base, known.slide, known.levels)
        try:
            reference = self._files.find(kernel.build_id, kernel.profile.release)
        except DrakmetError as error:
            self._lose(scan, f"{error.where}: {error.what}")
            reference = None
        if reference is None:
            why = f"none of the files that were given is this kernel (build id {kernel.build_id or 'unknown'})"
            yield self._row(scan, None, kernel.space.image_start, Verdict.UNVERIFIABLE, why, kernel.build_id or None)
            return
        modules = list(self._modules(kernel, scan))
        try:
            files = self._files.modules(kernel.build_id, [module.name for module in modules])
            text = GuestText(kernel, reference, lambda name: files.get(name.replace("-", "_")))
            text.place(modules)
        except DrakmetError as error:
            yield self._row(scan, None, kernel.space.image_start, Verdict.UNVERIFIABLE, error.what, kernel.build_id)
            return
        compared = text.compare_kernel()
        if self._moves and compared.modified:
            compared = text.compare_kernel()
        yield from self._rows(scan, compared, kernel.space.image_start, kernel.build_id)
        for module in modules:
            yield from self._module(scan, text, module)
        yield from self._unowned(scan, kernel, text, modules)

    def _modules(self, kernel: Kernel, scan: Reading) -> Iterator[Module]:
        """Yield the modules that any book has: one that is hidden in one of them executes all the same."""
        reader = Modules(kernel)
        found: dict[int, None] = {}
        for name, read in (("list", reader.listed), ("sysfs", reader.in_sysfs), ("code", reader.by_address)):
            try:
                found.update(dict.fromkeys(read()))
            except GuestError as error:
                self._lose(scan, f"modules by {name}: {error.what}")
        for address in sorted(found):
            try:
                module: Module = settle(reader.module(address))
            except GuestError as error:
                self._lose(scan, f"a module: {error.what}")
                continue
            if module.state == "live":
                yield module

    def _module(self, scan: Reading, text: GuestText, module: Module) -> Iterator[Record]:
        compared = text.compare_module(module)
        if compared is not None and self._moves and compared.modified:
            compared = text.compare_module(module)
        if compared is None:
            why = text.problems.get(module.address, NOT_IN_PACKAGE)
            yield self._row(scan, module.name, module.base, Verdict.UNKNOWN, why, None)
            return
        file = text.file_of(module)
        yield from self._rows(scan, compared, module.base, file.build_id if file else None)

    def _rows(self, scan: Reading, found: Comparison, address: int, build_id: str | None) -> Iterator[Record]:
        whys = []
        if found.not_read:
            whys.append(f"{found.not_read} pages could not be read")
        if found.unknown:
            whys.append(f"{found.unknown} bytes depend on symbols that no file has")
        if found.untold:
            whys.append(f"{found.untold} differing places are not listed")
        verdict = Verdict.MODIFIED if found.modified else Verdict.VERIFIED
        if found.not_read == found.pages:
            verdict = Verdict.UNVERIFIABLE
        row = self._row(scan, found.name, address, verdict, "; ".join(whys) or None, build_id)
        row.file = self._files.source_of(scan.guest.kernel.build_id)
        row.pages, row.not_read, row.modified = found.pages, found.not_read, found.modified
        row.explained = list(lines(found)) or None
        row.hooks = found.hooks
        yield row
        for one in found.differences:
            yield self._text(scan, found.name, one)

    def _text(self, scan: Reading, module: str | None, one: Difference) -> KernelText:
        return KernelText(
            session=scan.session,
            time=scan.time,
            module=module,
            symbol=one.symbol,
            offset=one.offset,
            address=one.address,
            kind=one.kind,
            length=one.length,
            expected=one.expected.hex(),
            found=one.found.hex(),
            target=one.target,
            handler=one.handler,
        )

    def _row(
        self, scan: Reading, module: str | None, address: int, verdict: Verdict, why: str | None, build_id: str | None
    ) -> KernelImage:
        return KernelImage(
            session=scan.session,
            time=scan.time,
            module=module,
            address=address,
            verdict=verdict.value,
            why=why,
            build_id=build_id,
        )

    def _unowned(self, scan: Reading, kernel: Kernel, text: GuestText, modules: list[Module]) -> Iterator[UnownedCode]:
        ranges = [extent for module in modules for extent in text.extents(module)]
        owners = Owners(kernel, ranges, text.is_trampoline)
        for reason in owners.missing:
            self._lose(scan, f"owners of code: {reason}")
        told = 0
        try:
            for mapped in executable(kernel):
                for one in owners.unowned(mapped):
                    told += 1
                    if told > _MOST_UNOWNED:
                        self._lose(scan, f"more than {_MOST_UNOWNED} ranges of code without an owner")
                        return
                    yield UnownedCode(
                        session=scan.session,
                        time=scan.time,
                        address=one.start,
                        size=one.end - one.start,
                        writable=one.writable,
                        start=_start(kernel, one.start, one.end),
                    )
        except GuestError as error:
            self._lose(scan, error.what)


def _start(kernel: Kernel, start: int, end: int) -> str | None:
    try:
        data = kernel.space.read(start, min(end - start, 4096))
    except GuestError:
        return None
    return data.lstrip(_FILLING)[:_SHOWN].hex() or None
