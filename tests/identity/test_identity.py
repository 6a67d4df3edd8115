# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages of tiny packages are named; what is broken is told and leaves nothing behind."""

import contextlib
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from identity.tiny import build, package, program

from drakmet.errors import StoreError, UsageError
from drakmet.identity import Identities, Verdict, deb, elf, page_hash
from drakmet.identity.filling import Filler


def hashes(*pages: bytes) -> list[bytes]:
    return [page_hash(page.ljust(4096, b"\x90")) for page in pages]


def test_each_page_narrows_the_set_of_versions(tmp_path: Path) -> None:
    with build(tmp_path) as identities:
        assert identities.narrow(hashes(b"same")).versions == {("tool", "1"), ("tool", "2")}
        answer = identities.narrow(hashes(b"same", b"2"))
        assert (answer.verdict, answer.versions, answer.known) == (Verdict.VERIFIED, {("tool", "2")}, 2)
        assert identities.narrow(hashes(b"1", b"evil")).verdict is Verdict.MODIFIED
        assert identities.narrow(hashes(b"evil")).verdict is Verdict.UNKNOWN
        assert identities.narrow([]).verdict is Verdict.UNVERIFIABLE
        assert identities.narrow(hashes(b"1", b"2")).verdict is Verdict.MODIFIED  # pages of two versions in one file


def test_what_is_added_again_is_there_once(tmp_path: Path) -> None:
    with build(tmp_path) as identities:
        before = identities.stats()
        identities.add(tmp_path / "1.deb")
        assert identities.stats() == before
        assert (before["packages"], before["files"], before["pages"]) == (2, 2, 3)


def test_a_package_that_is_cut_off_leaves_nothing_behind(tmp_path: Path) -> None:
    with build(tmp_path) as identities:
        before = identities.stats()
        cut = tmp_path / "cut.deb"
        cut.write_bytes(package("3", b"new")[:-40])
        with pytest.raises(UsageError, match="cut off"):
            identities.add(cut)
        assert identities.stats() == before


def test_a_directory_gives_programs_and_packages_but_no_static_libraries(tmp_path: Path) -> None:
    (tmp_path / "a.deb").write_bytes(b"!<arch>\n" + b"debian-binary".ljust(16))
    (tmp_path / "lib.a").write_bytes(b"!<arch>\n/               ")
    (tmp_path / "tool").write_bytes(program(b"x"))
    with Identities.open(tmp_path / "pages.db", create=True) as identities:
        filler = Filler(identities)
        filler.add(tmp_path)
        filler.finish()
    # The package is cut off, which is told; the library was not even tried.
    assert (filler.filled.added, filler.filled.failed, filler.filled.pages) == (1, 1, 1)
    assert "a.deb" in filler.filled.problems[0]


def test_a_database_of_another_version_is_refused(tmp_path: Path) -> None:
    build(tmp_path).__exit__()
    with contextlib.closing(sqlite3.connect(tmp_path / "pages.db")) as connection:
        connection.execute("PRAGMA user_version = 9")
    with pytest.raises(StoreError, match="version 9"):
        Identities.open(tmp_path / "pages.db")


def test_a_program_for_a_big_endian_machine_has_no_pages_here_and_is_no_damage() -> None:
    data = bytearray(program(b"x"))
    data[5] = 2
    assert elf.read(bytes(data)) == (None, [])
    data[5] = 3
    with pytest.raises(UsageError):
        elf.read(bytes(data))


@settings(deadline=None)
@given(st.binary(max_size=400), st.integers(0, 200))
def test_broken_files_are_refused_and_nothing_worse(noise: bytes, at: int) -> None:
    for whole, read in ((program(b"x"), elf.read), (package("1", b"x"), lambda data: list(deb.read(data)[1]))):
        with contextlib.suppress(UsageError):
            read(whole[:at] + noise + whole[at + len(noise) :])


def test_pages_are_judged_by_the_places_they_have_in_a_file(tmp_path: Path) -> None:
    same, one, two, strange = hashes(b"same", b"1", b"2", b"?")
    with build(tmp_path) as identities:
        assert identities.judge([]).verdict is Verdict.UNVERIFIABLE
        both = identities.judge([(1, same)])
        assert [match.version for match in both.files] == ["1", "2"]
        verified = identities.judge([(1, same), (2, two)])
        assert (verified.verdict, [match.version for match in verified.files]) == (Verdict.VERIFIED, ["2"])
        modified = identities.judge([(1, same), (2, strange)])
        assert (modified.verdict, modified.known, modified.differing) == (Verdict.MODIFIED, 1, (2,))
        assert identities.judge([(2, same), (1, one)]).verdict is Verdict.UNKNOWN
        assert identities.judge([(1, same), (2, strange), (3, strange)]).verdict is Verdict.UNKNOWN
