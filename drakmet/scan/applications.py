# SPDX-License-Identifier: GPL-2.0-or-later
"""Which file of which package each mapped piece of code is, told by its pages in memory and nothing the guest says.

The guest's kernel says where code is mapped and what it calls the file; what the code is comes from the hashes alone.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from drakmet.errors import GuestError
from drakmet.guest import codepages
from drakmet.guest.memory import PAGE_SIZE, Unreadable
from drakmet.guest.regions import VM_EXEC, VM_WRITE, Region, Regions
from drakmet.identity import Judgement, Verdict, page_hash
from drakmet.monitor.values import settle
from drakmet.naming.records import Application, told
from drakmet.scan.records import ListedCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.guest.memory import PhysicalMemory
    from drakmet.identity import Identities
    from drakmet.identity.listed import Listed
    from drakmet.records import Process
    from drakmet.scan.session import Reading

_MOST_PAGES: Final = 1 << 18
"""Pages of one file that are looked at: 1 GiB of code."""
_MOST_HASHES: Final = 16
_VDSO, _ANONYMOUS, _JIT = -1, 0, -2
_UNNAMED: Final = {
    _VDSO: ("[vdso]", "the kernel's own"),
    _ANONYMOUS: ("[anonymous]", "memory without a file"),
    _JIT: ("[jit]", "memory without a file that can be written and executed at once"),
}


class Applications:
    """The collector of the table ``application``, and of ``listed_code`` where there is a list of hashes.

    It reads code from the guest itself and not from the copies of the scan: to copy all code would pause the guest for
    long. So a page counts only if it is at the same place before and after it was read.
    """

    __name__ = "applications"

    def __init__(
        self,
        identities: Identities | None,
        memory: PhysicalMemory,
        *,
        moves: bool,
        listed: Listed | None = None,
    ) -> None:
        self.tables = (
            *((Application.table,) if identities else ()),
            *((ListedCode.table,) if listed else ()),
        )
        self._identities = identities
        self._listed = listed
        self._memory = memory
        self._moves = moves

    def __call__(self, scan: Reading) -> Iterator[Application | ListedCode]:
        """Yield a row for each process and each file it has mapped executable, and for what is listed of it."""
        guest = scan.guest
        reader = Regions(guest.kernel)
        levels = guest.kernel.levels
        hashes: dict[int, bytes | None] = {}
        judged: dict[tuple[tuple[int, bytes], ...], Judgement] = {}
        paths: dict[int, str | None] = {0: None}
        for task in scan.tasks():
            process = scan.process(task)
            if process is None or process.kernel_thread:
                continue
            by_file: dict[int, list[Region]] = {}
            try:
                mm = guest.task_reader.mm(task)
                if not mm:
                    continue  # `mapped_files` tells of it
                cr3, vdso = guest.task_reader.cr3(mm), reader.vdso(mm)
                for region in reader.of(mm):
                    if region.flags & VM_EXEC:
                        by_file.setdefault(_file(region, vdso), []).append(region)
            except GuestError as error:
                scan.lose(f"code of process {process.pid}: {error.what}")
                continue
            for file, regions in by_file.items():
                if file in _UNNAMED:
                    path, why = _UNNAMED[file]
                    if self._listed:
                        pages = tuple(self._pages(cr3, levels, regions, hashes))
                        yield from self._on_lists(self._listed, scan, process, path, pages, None)
                    if self._identities:
                        yield self._row(scan, process, path, why)
                    continue
                if file not in paths:
                    try:
                        paths[file] = settle(guest.file(file)).path.text
                    except GuestError as error:
                        scan.lose(f"a mapped file of process {process.pid}: {error.what}")
                        paths[file] = None
                pages = tuple(self._pages(cr3, levels, regions, hashes))
                said = None
                if self._identities:
                    if pages not in judged:
                        judged[pages] = self._identities.judge(pages)
                    said = judged[pages]
                    yield self._named(scan, process, paths[file], said, len(pages))
                if self._listed:
                    yield from self._on_lists(self._listed, scan, process, paths[file], pages, said)

    def _pages(
        self, cr3: int, levels: int, regions: list[Region], hashes: dict[int, bytes | None]
    ) -> Iterator[tuple[int, bytes]]:
        """Yield number in the file and hash of each page that is in memory and stayed where it was."""
        places = self._places(cr3, levels, regions)
        for page in places:
            if page.gpa not in hashes:
                try:
                    hashes[page.gpa] = page_hash(self._memory.read(page.gpa, PAGE_SIZE))
                except Unreadable:
                    hashes[page.gpa] = None
        still = set(self._places(cr3, levels, regions)) if self._moves else None
        for page in places:
            if still is not None and page not in still:
                continue
            digest = hashes[page.gpa]
            if digest is not None and page.offset % PAGE_SIZE == 0:
                yield page.offset // PAGE_SIZE, digest

    def _places(self, cr3: int, levels: int, regions: list[Region]) -> list[codepages.CodePage]:
        each = (page for region in regions for page in codepages.pages(self._memory, cr3, levels, region))
        return list(islice(each, _MOST_PAGES))

    def _on_lists(
        self,
        listed: Listed,
        scan: Reading,
        process: Process,
        path: str | None,
        pages: tuple[tuple[int, bytes], ...],
        said: Judgement | None,
    ) -> Iterator[ListedCode]:
        found: dict[str, set[bytes]] = {}
        for _, digest in pages:
            for name in listed.pages.get(digest, ()):
                found.setdefault(name, set()).add(digest)
        for name, digests in found.items():
            yield ListedCode(
                session=scan.session,
                time=scan.time,
                process=process.id,
                path=path,
                name=name,
                pages=len(digests),
                listed=listed.sizes[name],
                hashes=[digest.hex() for digest in sorted(digests)[:_MOST_HASHES]],
                packaged=None if said is None else said.verdict is Verdict.VERIFIED and _packaged(said),
            )

    def _row(self, scan: Reading, process: Process, path: str, why: str) -> Application:
        return Application(
            session=scan.session,
            time=scan.time,
            process=process.id,
            path=path,
            verdict=Verdict.UNVERIFIABLE.value,
            why=why,
        )

    def _named(self, scan: Reading, process: Process, path: str | None, said: Judgement, pages: int) -> Application:
        return Application(
            session=scan.session,
            time=scan.time,
            process=process.id,
            path=path,
            unreadable="path" if path is None else None,
            why=None if pages else "none of its pages is in memory",
            pages=pages,
            **told(said),
        )


def _file(region: Region, vdso: int) -> int:
    """Return the address of the struct file that an executable region is of, or what it is instead."""
    if region.file:
        return region.file
    if region.start == vdso:
        return _VDSO
    return _JIT if region.flags & VM_WRITE else _ANONYMOUS


def _packaged(said: Judgement) -> bool:
    return all(match.package is not None for match in said.files)
