# SPDX-License-Identifier: GPL-2.0-or-later
"""Databases are filled from packages, programs, folders and roots, and follow what becomes of these."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from identity.tiny import package, program

from drakmet.errors import StoreError, UsageError
from drakmet.identity import Identities, Verdict, code
from drakmet.identity.dpkg import Dpkg
from drakmet.identity.filling import Filled, Filler

if TYPE_CHECKING:
    from pathlib import Path

STATUS = """Package: tool
Status: install ok installed
Architecture: amd64
Version: {version}
Description: one
 with a second line: here

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 9
"""


def fill(database: Path, *sources: Path) -> Filled:
    with Identities.open(database, create=True) as identities:
        filler = Filler(identities)
        for source in sources:
            filler.add(source)
        filler.finish()
        return filler.filled


def update(database: Path) -> Filled:
    with Identities.open(database) as identities:
        filler = Filler(identities)
        filler.update()
        filler.finish()
        return filler.filled


def versions(database: Path, data: bytes) -> set[tuple[str | None, str | None]]:
    with Identities.open(database) as identities:
        return set(identities.judge(code.read(data).pages).versions)


def root(folder: Path, version: str, *programs: tuple[str, bytes, bytes]) -> Path:
    """Make a root whose dpkg database says that ``tool`` has each path, with the checksum of the last bytes."""
    info = folder / "var/lib/dpkg/info"
    info.mkdir(parents=True, exist_ok=True)
    (folder / "var/lib/dpkg/status").write_text(STATUS.format(version=version))
    sums = ""
    for path, data, listed in programs:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        sums += f"{hashlib.md5(listed).hexdigest()}  {path}\n"  # noqa: S324 - dpkg's own
    (info / "tool.md5sums").write_text(sums)
    return folder


def test_a_root_tells_the_package_of_a_file_that_is_as_the_package_has_it(tmp_path: Path) -> None:
    good, bad = program(b"good"), program(b"evil")
    where = root(tmp_path / "root", "1", ("usr/bin/good", good, good), ("usr/bin/bad", bad, good))
    (where / "opt").mkdir()
    (where / "opt/own").write_bytes(program(b"own"))
    filled = fill(tmp_path / "pages.db", where)
    assert (filled.added, filled.changed, filled.failed) == (3, 1, 0)
    assert "usr/bin/bad" in filled.problems[0]
    assert versions(tmp_path / "pages.db", good) == {("tool", "1")}
    assert versions(tmp_path / "pages.db", bad) == {(None, None)}
    assert versions(tmp_path / "pages.db", program(b"own")) == {(None, None)}


def test_changelogs_in_a_root_are_kept_if_they_are_as_the_package_has_them(tmp_path: Path) -> None:
    def packed(hole: str) -> bytes:
        return gzip.compress(f"tool (1) stable; urgency=low\n\n  * {hole}\n\n -- A <a@b>\n".encode())

    good, bad, path = packed("CVE-2030-0001"), packed("CVE-2030-0002"), "usr/share/doc/tool/changelog.Debian.gz"
    for data, fixes in ((good, {"1": {"CVE-2030-0001"}}), (bad, {})):
        database = tmp_path / f"{len(fixes)}.db"
        fill(database, root(tmp_path / "root", "1", (path, data, good)))
        with Identities.open(database) as identities:
            assert identities.lines_of("tool").fixes == fixes


def test_files_are_found_by_the_names_they_had_before_usr_was_merged_and_where_they_were_diverted(
    tmp_path: Path,
) -> None:
    one, two = program(b"one"), program(b"two")
    where = root(tmp_path / "root", "1", ("usr/bin/one", one, one), ("usr/bin/two.distrib", two, two))
    (where / "var/lib/dpkg/info/tool.md5sums").rename(where / "var/lib/dpkg/info/tool:amd64.md5sums")
    sums = where / "var/lib/dpkg/info/tool:amd64.md5sums"
    sums.write_text(sums.read_text().replace("usr/bin/one", "bin/one").replace("two.distrib", "two"))
    (where / "var/lib/dpkg/diversions").write_text("/usr/bin/two\n/usr/bin/two.distrib\nother\n")
    fill(tmp_path / "pages.db", where)
    assert versions(tmp_path / "pages.db", one) == versions(tmp_path / "pages.db", two) == {("tool", "1")}


def test_an_upgrade_of_a_root_is_followed_even_for_files_that_did_not_change(tmp_path: Path) -> None:
    old, same = program(b"old"), program(b"same")
    where = root(tmp_path / "root", "1", ("bin/a", old, old), ("bin/b", same, same))
    fill(tmp_path / "pages.db", where)
    root(where, "2", ("bin/a", program(b"new"), program(b"new")), ("bin/b", same, same))
    update(tmp_path / "pages.db")
    assert versions(tmp_path / "pages.db", old) == set()
    assert versions(tmp_path / "pages.db", program(b"new")) == {("tool", "2")}
    assert versions(tmp_path / "pages.db", same) == {("tool", "2")}


def test_update_reads_what_changed_and_drops_what_is_gone(tmp_path: Path) -> None:
    folder, database = tmp_path / "debs", tmp_path / "pages.db"
    folder.mkdir()
    for version in ("1", "2", "3"):
        (folder / f"{version}.deb").write_bytes(package(version, b"same", version.encode()))
    fill(database, folder)
    again = update(database)
    assert (again.added, again.unchanged, again.dropped) == (0, 3, 0)
    (folder / "1.deb").unlink()
    (folder / "2.deb").write_bytes(package("2b", b"same", b"2b"))
    (folder / "4.deb").write_bytes(package("4", b"same", b"4"))
    os.utime(folder / "3.deb", (1, 1))
    again = update(database)
    assert (again.added, again.unchanged, again.dropped, again.failed) == (2, 1, 1, 0)
    with Identities.open(database) as identities:
        assert [row["version"] for row in identities.packages()] == ["2b", "3", "4"]
        assert identities.stats()["pages"] == 4
        assert identities.connection.execute("SELECT count(*) FROM code").fetchone() == (3,)
        assert identities.connection.execute("SELECT count(*) FROM package").fetchone() == (3,)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert update(database).dropped == 4
    with Identities.open(database) as identities:
        assert identities.stats()["pages"] == 0


def test_a_source_that_broke_is_told_and_what_was_known_of_it_stays(tmp_path: Path) -> None:
    deb, database = tmp_path / "1.deb", tmp_path / "pages.db"
    deb.write_bytes(package("1", b"x"))
    fill(database, deb)
    deb.write_bytes(package("1", b"y")[:-40])
    again = update(database)
    assert (again.added, again.failed) == (0, 1)
    assert versions(database, program(b"x")) == {("tool", "1")}


def test_a_full_disk_is_told_and_what_was_stored_before_is_sound(tmp_path: Path) -> None:
    (tmp_path / "1.deb").write_bytes(package("1", b"x"))
    (tmp_path / "2.deb").write_bytes(package("2", *(str(n).encode() for n in range(3000))))
    fill(tmp_path / "pages.db", tmp_path / "1.deb")
    with Identities.open(tmp_path / "pages.db") as identities:
        (pages,) = identities.connection.execute("PRAGMA page_count").fetchone()
        identities.connection.execute(f"PRAGMA max_page_count = {pages + 4}")
        with pytest.raises(StoreError, match="full"):
            identities.add(tmp_path / "2.deb")
    assert versions(tmp_path / "pages.db", program(b"x")) == {("tool", "1")}
    with Identities.open(tmp_path / "pages.db") as identities:
        assert identities.stats()["packages"] == 1


def test_equal_files_take_their_pages_once(tmp_path: Path) -> None:
    (tmp_path / "1.deb").write_bytes(package("1", b"same"))
    (tmp_path / "2.deb").write_bytes(package("2", b"same"))
    (tmp_path / "tool").write_bytes(program(b"same"))
    fill(tmp_path / "pages.db", *(tmp_path / name for name in ("1.deb", "2.deb", "tool")))
    assert versions(tmp_path / "pages.db", program(b"same")) == {("tool", "1"), ("tool", "2"), (None, None)}
    with Identities.open(tmp_path / "pages.db") as identities:
        assert identities.connection.execute("SELECT count(*) FROM page").fetchone() == (1,)


def test_a_broken_program_in_a_package_is_told_and_the_others_are_kept(tmp_path: Path) -> None:
    broken = bytearray(program(b"x"))
    broken[56] = 200  # more segments than the file has bytes for
    whole = package("1", b"fine", more={"./lib/broken": bytes(broken), "./lib/text": b"MZ is how this text begins"})
    (tmp_path / "1.deb").write_bytes(whole)
    filled = fill(tmp_path / "pages.db", tmp_path / "1.deb")
    assert (filled.added, filled.failed, filled.broken, filled.pages) == (1, 0, 1, 1)
    assert "/lib/broken" in filled.problems[0]
    assert versions(tmp_path / "pages.db", program(b"fine")) == {("tool", "1")}


@settings(deadline=None)
@given(st.binary(max_size=400), st.integers(0, 300))
def test_a_damaged_dpkg_database_is_refused_or_read_and_nothing_worse(noise: bytes, at: int) -> None:
    class Tree:
        files = {  # noqa: RUF012
            "/var/lib/dpkg/status": STATUS.format(version="1").encode(),
            "/var/lib/dpkg/info/tool.md5sums": b"0123  usr/bin/tool\n",
            "/var/lib/dpkg/diversions": b"/bin/a\n/bin/b\nother\n",
        }

        def has(self, path: str) -> bool:
            return path in self.files

        def read(self, path: str, most: int = 0) -> bytes:
            whole = self.files[path]
            return whole[:at] + noise + whole[at + len(noise) :]

    with contextlib.suppress(UsageError):
        found = Dpkg.of(Tree())  # type: ignore[arg-type]
        assert found is not None
        found.owner("/usr/bin/tool", "0123")


def test_links_out_of_a_root_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/tool").write_bytes(program(b"outside"))
    where = tmp_path / "root"
    where.mkdir()
    (where / "link").symlink_to(tmp_path / "outside")
    (where / "file").symlink_to(tmp_path / "outside/tool")
    os.mkfifo(where / "pipe")
    assert fill(tmp_path / "pages.db", where) == Filled()


def test_what_is_neither_package_nor_program_nor_image_is_refused(tmp_path: Path) -> None:
    for name, data in (("text", b"hello"), ("garbage.exe", b"MZ" + b"\xff" * 500), ("empty", b"")):
        (tmp_path / name).write_bytes(data)
        filled = fill(tmp_path / "pages.db", tmp_path / name)
        assert (filled.added, filled.failed) == (0, 1)
        assert name in filled.problems[0]
    assert fill(tmp_path / "pages.db", tmp_path / "none").failed == 1


def test_a_changed_page_leaves_the_version_among_the_candidates(tmp_path: Path) -> None:
    (tmp_path / "1.deb").write_bytes(package("1", b"a", b"b", b"c"))
    fill(tmp_path / "pages.db", tmp_path / "1.deb")
    pages = code.read(program(b"a", b"evil", b"c")).pages
    with Identities.open(tmp_path / "pages.db") as identities:
        said = identities.judge(pages)
    assert (said.verdict, said.versions, said.known, said.pages) == (Verdict.MODIFIED, {("tool", "1")}, 2, 3)
    assert said.differing == (2,)
