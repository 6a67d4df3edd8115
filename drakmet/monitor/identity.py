# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks at hits that the process which the guest names is the one that its CPU runs, and tells where it is not."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from drakmet.errors import GuestError
from drakmet.guest.crosscheck import Crosscheck
from drakmet.guest.paging import ADDRESS_MASK
from drakmet.records import IdentityConflict

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet.guest.kernel import Kernel
    from drakmet.monitor.processes import Known
    from drakmet.records import Record

KEY: Final = ("monitor", "identity")
"""As what it stands in the coverage."""
TABLES: Final = (IdentityConflict.table,)
_MOST: Final = 4096
"""Conflicts of a session that are told one by one: a guest can make as many as it likes."""
_SEARCHES: Final = 64


class IdentityCheck:
    """One session's check. ``refused`` says why it cannot be made; ``unchecked`` and ``untold`` count hits."""

    def __init__(self, kernel: Kernel, session: int, put: Callable[[Record], object]) -> None:
        self._session = session
        self._put = put
        self._told: set[tuple[Any, ...]] = set()
        self.refused: str | None = None
        self.unchecked = self.untold = 0
        self._books: Crosscheck | None = None
        try:
            self._books = Crosscheck(kernel)
        except GuestError as error:
            self.refused = error.what

    def check(self, known: Known, task: int, registers: Any, time: int) -> None:
        """Compare, and note in ``known.root`` with which page tables that was done: none needs to be compared twice."""
        books = self._books
        if books is None:
            return
        root = registers.cr3 & ADDRESS_MASK
        try:
            roots = books.roots(task)
            absent = [] if known.root else books.absent(task, registers.gs_base)
        except GuestError:
            self.unchecked += 1
            return
        known.root = root
        if root in roots and not absent:
            return
        key = (task, known.source.start_time, root, roots, *absent)
        if key in self._told:
            return
        if len(self._told) >= _MOST:
            self.untold += 1
            return
        self._told.add(key)
        self._tell(books, known, task, time, (registers.vcpu_id, root, roots, absent))

    def _tell(
        self, books: Crosscheck, known: Known, task: int, time: int, what: tuple[int, int, tuple[int, ...], list[str]]
    ) -> None:
        vcpu, root, roots, absent = what
        owner, missing = None, None
        if root not in roots:
            missing = "owner"
            if len(self._told) <= _SEARCHES:
                with contextlib.suppress(GuestError):
                    owner, missing = books.owner(root), None
        self._put(
            IdentityConflict(
                session=self._session,
                time=time,
                vcpu=vcpu,
                process=known.record.id,
                task=task,
                root=root,
                expected=roots[-1],
                own_tables=root in roots,
                owner=owner,
                missing_in=absent,
                unreadable=missing,
            )
        )
