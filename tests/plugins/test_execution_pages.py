# SPDX-License-Identifier: GPL-2.0-or-later
"""The plugin execution-pages on executions made by hand."""

from __future__ import annotations

import pytest

from drakmet import ExecutionKind, Origin, Region
from drakmet.plugins import bundled
from drakmet.testing import PROCESS, execution, load

PLUGIN = load(bundled() / "execution_pages.py")
(TRAP,) = PLUGIN.execute_traps


def test_a_page_of_a_file_is_told_with_its_place_there() -> None:
    origin = Origin(region=Region.FILE, path="/usr/bin/bash", page=7, deleted=False, writable=False)
    row = TRAP.handler(execution(origin=origin))
    assert row is not None
    assert (row.region, row.path, row.page, row.deleted) == ("file", "/usr/bin/bash", 7, False)  # type: ignore[union-attr]
    assert (row.kind, row.process, row.unreadable) == ("first", PROCESS.id, None)  # type: ignore[union-attr]


def test_without_a_kernel_the_hash_stands_alone_and_says_so() -> None:
    row = TRAP.handler(execution(process=None))
    assert (row.hash, row.region, row.path) == ("00112233445566778899aabbccddeeff", None, None)  # type: ignore[union-attr]
    assert (row.process, row.unreadable) == (None, "region")  # type: ignore[union-attr]


def test_what_could_not_be_read_is_named() -> None:
    origin = Origin(region=Region.FILE, page=7, unreadable=("path",))
    row = TRAP.handler(execution(origin=origin, unreadable=("hash",)))
    assert (row.hash, row.path, row.unreadable) == (None, None, "path,hash")  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ExecutionKind)
def test_each_kind_is_stored_as_its_word(kind: ExecutionKind) -> None:
    assert TRAP.handler(execution(kind=kind)).kind == kind.value  # type: ignore[union-attr]
