# SPDX-License-Identifier: GPL-2.0-or-later
"""Names applications as their pages run: executed pages in, a row for each file whenever more is known of it out.

A page that several processes share is told of once, when the first of them runs it. So pages are put together by the
file that they are of, in all processes. Where the guest's kernel is not known, or does not say what a page is of, only
the content speaks: pages that are known from one path alone are put together by that path, in each address space.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from drakmet.errors import StoreError
from drakmet.identity import Judgement, Match, Narrowing, Verdict
from drakmet.naming.records import Application, told
from drakmet.records import Coverage, CoverageKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from drakmet.identity import Identities
    from drakmet.identity.database import Place
    from drakmet.records import Record

EXECUTED: Final = "executed_page"
_MOST_SUBJECTS: Final = 1 << 16
_MOST_PAGES: Final = 1 << 18  # of one file: 1 GiB of code
_MOST_ROWS: Final = 64  # of one file: what changes more often tells nothing new
_ANY_PLACE: Final = -1
_FILES: Final = ("file", "memfd")
_KERNEL: Final = ("kernel", "module", "kernel memory")
_JIT: Final = "jit"
_MIRRORED: Final[dict[str, Any]] = {"plugin": "identity", "trap": "applications", "tables": [Application.table]}
_NO_KERNEL: Final = "the guest's kernel does not say what it is of: named by its content alone"
_UNNAMED: Final = {
    "vdso": ("[vdso]", "the kernel's own"),
    "anonymous": ("[anonymous]", "memory without a file"),
    "heap": ("[heap]", "memory without a file"),
    "stack": ("[stack]", "memory without a file"),
    _JIT: ("[jit]", "written and executed in turn"),
}


class _Subject:
    """A file, or what stands for one, with the pages of it that ran."""

    __slots__ = ("first", "last", "lost", "narrowing", "number", "path", "rows", "said", "session", "unnamed", "why")

    def __init__(self, number: int, session: int, path: str | None, time: int) -> None:
        self.number = number
        self.session = session
        self.path = path
        self.why: str | None = None
        self.unnamed = 0
        self.lost = 0
        self.narrowing = Narrowing()
        self.first = time
        self.last: Any = None
        self.said: tuple[Any, ...] = ()
        self.rows = 0


class Namer:
    """A sink that takes records of executed pages and gives out records of applications.

    Its coverage is that of the executed pages: what these missed was not named either.
    """

    def __init__(self, identities: Identities, put: Callable[[Record], object]) -> None:
        self._identities = identities
        self._put = put
        self._taken: list[Any] = []
        self._subjects: dict[tuple[Any, ...], _Subject] = {}
        self._changed: dict[tuple[Any, ...], _Subject] = {}
        self.fault: str | None = None
        """Why nothing is named any more; None if all is well."""
        self.untold = 0
        """Pages that were of one file more than are kept, or of more files."""

    def put(self, record: Record) -> None:
        """Take one record; those that are not of executed pages, or of their coverage, are none of its business."""
        if record.table == EXECUTED:
            self._taken.append(record)
        elif record.__class__ is Coverage and EXECUTED in record.tables:
            self._put(Coverage(**msgspec.structs.asdict(record) | _MIRRORED))

    def flush(self) -> None:
        """Name what was taken."""
        if not self._taken:
            return
        taken, self._taken = self._taken, []
        if self.fault is not None:
            return
        try:
            self._name([page for page in taken if not page.kernel and page.region not in _KERNEL])
        except StoreError as error:
            self._fail(error.what, taken[0])

    def finish(self) -> None:
        """Name what was taken, and tell of each file what its last page left known."""
        self.flush()
        if self.fault is not None:
            return
        try:
            for subject in self._subjects.values():
                self._tell(subject, again=True)
        except StoreError as error:
            self._fail(error.what, next(iter(self._subjects.values())).last)

    def _name(self, pages: Sequence[Any]) -> None:
        found = self._identities.places(bytes.fromhex(page.hash) for page in pages if page.hash)
        for page in pages:
            self._take(page, found)
        changed, self._changed = self._changed, {}
        for subject in changed.values():
            self._tell(subject, again=False)

    def _fail(self, reason: str, page: Any) -> None:
        """Name nothing any more: the watch goes on, and its coverage says why."""
        self.fault = reason
        kind = CoverageKind.UNREADABLE.value
        self._put(Coverage(session=page.session, begin=page.time, end=page.time, kind=kind, gap=reason, **_MIRRORED))

    def _take(self, page: Any, found: Mapping[bytes, Sequence[Place]]) -> None:
        digest = bytes.fromhex(page.hash) if page.hash else None
        places = found.get(digest, ()) if digest else ()
        key, path, why = self._of(page, places)
        subject = self._subjects.get(key)
        if subject is None:
            if len(self._subjects) >= _MOST_SUBJECTS:
                self.untold += 1
                return
            subject = _Subject(len(self._subjects) + 1, page.session, path, page.time)
            subject.why = why
            self._subjects[key] = subject
        subject.last = page
        self._changed[key] = subject
        if key[0] in _UNNAMED:
            subject.unnamed += 1
        elif page.kind == _JIT or digest is None:
            subject.lost += 1
        elif subject.narrowing.pages >= _MOST_PAGES:
            self.untold += 1
        else:
            number = _ANY_PLACE if page.page is None else page.page
            subject.narrowing.add([(number, digest)], {digest: places})

    def _of(self, page: Any, places: Sequence[Place]) -> tuple[tuple[Any, ...], str | None, str | None]:
        """Return what a page is counted for: a key, the path to tell, and a remark."""
        session, region = page.session, page.region
        if region in _FILES:
            # A file that was written before there were these columns has its path only.
            where = (getattr(page, "device", None), getattr(page, "inode", None))
            return (region, session, page.path, *where, page.deleted), page.path, None
        if region is not None:
            kind = _JIT if page.kind == _JIT and region in _UNNAMED else region
            path, why = _UNNAMED.get(kind, (None, "memory without a file"))
            return (kind, session, page.process, page.cr3 if page.process is None else None), path, why
        paths = {match.path for code, _ in places for match in self._identities.files(code)}
        path = paths.pop() if len(paths) == 1 else None
        return ("content", session, page.cr3, path), path, _NO_KERNEL

    def _tell(self, subject: _Subject, *, again: bool) -> None:
        said = self._judge(subject)
        pages = said.pages + subject.unnamed + subject.lost
        now = (said.verdict, said.versions, bool(said.differing))
        whole = (*now, said.known, pages, said.differing)
        if subject.said and (subject.said[-1] == whole if again else subject.said[0] == now):
            return
        if not again and subject.rows >= _MOST_ROWS:
            return
        subject.said = (now, whole)
        subject.rows += 1
        page = subject.last
        row = Application(
            session=subject.session,
            time=page.time,
            vcpu=page.vcpu,
            process=page.process,
            path=subject.path,
            unreadable="path" if subject.path is None else None,
            why=self._why(subject),
            pages=pages,
            subject=subject.number,
            first=subject.first,
            **told(said),
        )
        self._put(row)

    def _judge(self, subject: _Subject) -> Judgement:
        if subject.narrowing.pages:
            return subject.narrowing.judge(self._files)
        return Judgement(Verdict.UNVERIFIABLE, (), 0, ())

    def _files(self, code: int) -> tuple[Match, ...]:
        return self._identities.files(code)

    @staticmethod
    def _why(subject: _Subject) -> str | None:
        if subject.lost and not subject.why:
            return f"{subject.lost} executions of it could not be hashed, or were of pages written and executed in turn"
        return subject.why
