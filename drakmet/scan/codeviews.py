# SPDX-License-Identifier: GPL-2.0-or-later
"""Code of processes by their page tables, against the kernel's list of their regions and against the page cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drakmet.errors import GuestError
from drakmet.guest.kernel import Kernel
from drakmet.guest.linux import LinuxGuest
from drakmet.guest.memory import PAGE_SIZE, Unreadable
from drakmet.guest.pagecache import PageCache
from drakmet.guest.regions import VM_EXEC, VM_WRITE, Region, Regions
from drakmet.guest.usercode import UserCode, executable
from drakmet.monitor.values import settle
from drakmet.scan.records import CodeInTwoForms, UncoveredCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.guest.memory import PhysicalMemory
    from drakmet.records import Process, Record
    from drakmet.scan.session import Reading

_MOST_PAGES: Final = 1 << 17
"""Executable pages of one process that are looked at: 512 MiB."""
_SHOWN: Final = 16


class CodeViews:
    """The collector of the tables ``code_in_two_forms`` and ``uncovered_code``.

    It reads the guest itself and not the copies of the scan, which would pause it for longer. While a guest runs its
    page tables change: what is odd is looked at once more before it is told.
    """

    __name__ = "code_views"
    tables: tuple[str, ...] = (CodeInTwoForms.table, UncoveredCode.table)

    def __init__(self, memory: PhysicalMemory, *, moves: bool) -> None:
        self._memory = memory
        self._moves = moves

    def __call__(self, scan: Reading) -> Iterator[Record]:
        """Yield a row for each page of code that is not its file's page, and for code that no region covers."""
        known = scan.guest.kernel
        kernel = Kernel(known.profile, self._memory, known.base, known.slide, known.levels)
        view = _View(scan, LinuxGuest(kernel), self._memory)
        for task in scan.tasks():
            process = scan.process(task)
            if process is None or process.kernel_thread:
                continue
            try:
                found = view.of(task, process)
                if found and self._moves:
                    again = {key for key, _ in view.of(task, process)}
                    found = [one for one in found if one[0] in again]
            except GuestError as error:
                scan.lose(f"code of process {process.pid}: {error.what}")
                continue
            for _, row in found:
                yield row


_Odd = tuple[tuple[str, int], "Record"]


class _View:
    def __init__(self, scan: Reading, guest: LinuxGuest, memory: PhysicalMemory) -> None:
        self._scan = scan
        self._guest = guest
        self._memory = memory
        self._regions = Regions(guest.kernel)
        self._cache = PageCache(guest.kernel)
        self._paths: dict[int, str | None] = {}
        self._shared: dict[tuple[int, int], int | None] = {}

    def of(self, task: int, process: Process) -> list[_Odd]:
        """Return what is odd in one process."""
        mm = self._guest.task_reader.mm(task)
        if not mm:
            return []
        cr3 = self._guest.task_reader.cr3(mm)
        regions = list(self._regions.of(mm))
        found: list[_Odd] = []
        mappings: dict[int, int] = {}
        at, pages = 0, 0
        uncovered: list[UserCode] = []
        for code in executable(self._memory, cr3, self._guest.kernel.levels):
            for address in range(code.address, code.address + code.size, PAGE_SIZE):
                pages += 1
                if pages > _MOST_PAGES:
                    raise Unreadable(f"more than {_MOST_PAGES} pages of code")
                while at < len(regions) and regions[at].end <= address:
                    at += 1
                gpa = code.gpa + address - code.address
                if at == len(regions) or regions[at].start > address or not regions[at].flags & VM_EXEC:
                    uncovered.append(UserCode(address, gpa, PAGE_SIZE))
                elif regions[at].file and not regions[at].flags & VM_WRITE:
                    row = self._forms(process, regions[at], address, gpa, mappings)
                    if row is not None:
                        found.append((("forms", address), row))
        return found + [(("uncovered", one.address), self._uncovered(process, one)) for one in _joined(uncovered)]

    def _forms(
        self, process: Process, region: Region, address: int, gpa: int, mappings: dict[int, int]
    ) -> CodeInTwoForms | None:
        """Compare a page with that of the page cache; a page that is the cache's own is no copy.

        Most processes have the cache's own pages of the same few libraries: which these are is looked up once.
        """
        number = (region.offset + address - region.start) // PAGE_SIZE
        try:
            if region.file not in mappings:
                mappings[region.file] = self._cache.mapping(region.file)
            mapping = mappings[region.file]
            if self._shared.get((mapping, number)) == gpa:
                return None
            cached = self._shared[mapping, number] = self._cache.frame(mapping, number)
            if cached is None or cached == gpa:
                return None
            own, shared = self._memory.read(gpa, PAGE_SIZE), self._memory.read(cached, PAGE_SIZE)
        except GuestError:
            return None  # it may have gone meanwhile
        if own == shared:
            return None
        differing = [at for at in range(PAGE_SIZE) if own[at] != shared[at]]
        first = differing[0]
        return CodeInTwoForms(
            session=self._scan.session,
            time=self._scan.time,
            process=process.id,
            path=self._path(region.file),
            number=number,
            address=address + first,
            length=len(differing),
            cached=shared[first : first + _SHOWN].hex(),
            executed=own[first : first + _SHOWN].hex(),
        )

    def _path(self, file: int) -> str | None:
        if file not in self._paths:
            try:
                found = settle(self._guest.file(file))
                self._paths[file] = found.path.text if found.path else None
            except GuestError:
                self._paths[file] = None
        return self._paths[file]

    def _uncovered(self, process: Process, code: UserCode) -> UncoveredCode:
        return UncoveredCode(
            session=self._scan.session,
            time=self._scan.time,
            process=process.id,
            address=code.address,
            size=code.size,
        )


def _joined(codes: list[UserCode]) -> list[UserCode]:
    found: list[UserCode] = []
    for one in codes:
        if found and found[-1].address + found[-1].size == one.address:
            found[-1] = found[-1]._replace(size=found[-1].size + one.size)
        else:
            found.append(one)
    return found
