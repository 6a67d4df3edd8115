# SPDX-License-Identifier: GPL-2.0-or-later
"""Applications are named as their pages run: rows narrow the versions, tell of changes once, and of the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from identity.tiny import build, package, program

from drakmet.identity import code, page_hash
from drakmet.naming import Application, Namer
from drakmet.plugins import load_plugins
from drakmet.records import Coverage, Process

if TYPE_CHECKING:
    from pathlib import Path

    from drakmet.records import Record

ExecutedPage: Any = next(record for record in load_plugins().records if record.table == "executed_page")
TOOL = "/bin/tool"


def executed(number: int | None, text: bytes, time: int = 1, **columns: Any) -> Any:
    usual = {name: None for name in ExecutedPage.__struct_fields__}  # noqa: C420 - a copy each time
    page = text.ljust(4096, b"\x90")
    usual |= {"session": 1, "time": time, "vcpu": 0, "process": 1, "kind": "first", "hash": page_hash(page).hex()}
    usual |= {"gfn": 1, "cr3": 4096, "rip": 0, "kernel": False, "region": "file", "path": TOOL, "page": number}
    return ExecutedPage(**usual | {"times": 1, "deleted": False} | columns)


class Run:
    """A namer over the tiny database, and what it gave out."""

    def __init__(self, folder: Path) -> None:
        self.out: list[Record] = []
        self.identities = build(folder)
        self.namer = Namer(self.identities, self.out.append)

    def see(self, *pages: Any) -> list[Application]:
        """Give pages to the namer, flush, and return the rows that it gave out for them."""
        del self.out[:]
        for page in pages:
            self.namer.put(page)
        self.namer.flush()
        return self.rows()

    def end(self) -> list[Application]:
        del self.out[:]
        self.namer.finish()
        return self.rows()

    def rows(self) -> list[Application]:
        return [row for row in self.out if isinstance(row, Application)]


def test_each_page_narrows_the_versions_and_what_changes_nothing_is_told_at_the_end(tmp_path: Path) -> None:
    run = Run(tmp_path)
    (row,) = run.see(executed(1, b"same", 5))
    assert (row.verdict, row.package, row.version, row.pages, row.known) == ("verified", "tool", None, 1, 1)
    assert row.candidates == ["tool 1 amd64 /bin/tool", "tool 2 amd64 /bin/tool"]
    (row,) = run.see(executed(2, b"2", 7))
    assert (row.verdict, row.version, row.pages, row.first, row.time) == ("verified", "2", 2, 5, 7)
    assert run.see(executed(2, b"2", 8)) == []
    assert run.end() == []


def test_pages_that_other_processes_run_are_of_the_same_file(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.see(executed(1, b"same", process=1))
    (row,) = run.see(executed(2, b"1", process=2))
    assert (row.version, row.pages, row.process, row.subject) == ("1", 2, 2, 1)


def test_a_changed_page_is_told_and_stays_told(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.see(executed(1, b"same"), executed(2, b"2"))
    (row,) = run.see(executed(2, b"hook", kind="rewritten"))
    assert (row.verdict, row.version, row.differing, row.known, row.pages) == ("modified", None, [2], 2, 3)
    assert run.end() == []


def test_a_file_that_took_the_place_of_another_is_one_of_its_own(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.see(executed(1, b"same"), executed(2, b"1"))
    (old,) = run.see(executed(2, b"1", deleted=True))
    (new,) = run.see(executed(2, b"2", inode=4711, device="8:1"))
    assert (old.version, new.version) == ("1", "2")
    assert len({old.subject, new.subject}) == 2


def test_what_is_no_file_has_its_own_name(tmp_path: Path) -> None:
    run = Run(tmp_path)
    rows = run.see(
        executed(0, b"x", region="vdso", path=None),
        executed(None, b"x", region="anonymous", path=None, page=None),
        executed(None, b"x", region="anonymous", path=None, page=None, kind="jit"),
        executed(None, b"x", region="stack", path=None, page=None),
        executed(3, b"x", region="kernel", path=None, kernel=True),
    )
    assert [(row.path, row.verdict) for row in rows] == [
        (path, "unverifiable") for path in ("[vdso]", "[anonymous]", "[jit]", "[stack]")
    ]
    assert all(row.why and row.pages == 1 for row in rows)


def test_what_is_in_no_package_is_unknown(tmp_path: Path) -> None:
    (row,) = Run(tmp_path).see(executed(1, b"?"), executed(2, b"??"))
    assert (row.verdict, row.pages, row.known, row.candidates) == ("unknown", 2, 0, None)


def test_without_a_known_kernel_the_content_alone_speaks(tmp_path: Path) -> None:
    run = Run(tmp_path)
    nothing = {"region": None, "path": None, "page": None, "process": None}
    row, strange = run.see(executed(None, b"2", **nothing), executed(None, b"?", **nothing))
    assert (row.path, row.verdict, row.version) == (TOOL, "verified", "2")
    assert "content alone" in (row.why or "")
    assert (strange.path, strange.verdict, strange.unreadable) == (None, "unknown", "path")


def test_pages_that_could_not_be_hashed_are_counted_and_verify_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path)
    (row,) = run.see(executed(1, b"", hash=None))
    assert (row.verdict, row.pages, row.known) == ("unverifiable", 1, 0)
    assert "could not be hashed" in (row.why or "")


def test_coverage_is_that_of_the_executed_pages(tmp_path: Path) -> None:
    run = Run(tmp_path)
    common = {"session": 1, "plugin": "execution-pages", "trap": "execute", "begin": 3}
    run.namer.put(Coverage(tables=["executed_page"], kind="ring full", gap="full", end=4, **common))
    run.namer.put(Coverage(tables=["file_open"], **common))
    run.namer.put(Process(id=1, session=1, time=1))
    (told,) = run.out
    assert isinstance(told, Coverage)
    assert (told.plugin, told.tables, told.kind, told.gap, told.end) == (
        "identity",
        ["application"],
        "ring full",
        "full",
        4,
    )


def test_a_database_that_breaks_ends_the_naming_and_not_the_watch(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.identities.connection.execute("DROP TABLE page")
    assert run.see(executed(1, b"same")) == []
    (gap,) = run.out
    assert isinstance(gap, Coverage)
    assert (gap.kind, gap.tables) == ("unreadable", ["application"])
    assert "cannot be read" in (gap.gap or "")
    assert run.see(executed(2, b"2")) == []
    assert run.end() == []


def test_a_guest_that_changes_its_mind_all_the_time_fills_no_file(tmp_path: Path) -> None:
    run = Run(tmp_path)
    more = tmp_path / "more.deb"
    more.write_bytes(package("3", *(str(n).encode() for n in range(300))))
    run.identities.add(more)
    rows = 0
    for number, (place, digest) in enumerate(code.read(program(*(str(n).encode() for n in range(300)))).pages):
        known = executed(place, b"", hash=digest.hex())
        rows += len(run.see(*[known] * (number % 2), executed(place, f"?{number}".encode())))
    assert rows <= 64
    assert len(run.end()) == 1


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_executed_gives_nothing(count: int, tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.see(*[executed(3, b"x", region="module", kernel=True)] * count) == []
    assert run.end() == []
