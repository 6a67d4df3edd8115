# SPDX-License-Identifier: GPL-2.0-or-later
"""Changelogs: which version closed which hole, and which came from which."""

from __future__ import annotations

import contextlib
import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from identity.tiny import package

from drakmet.errors import UsageError
from drakmet.identity import Identities, changelog, deb

OPENSSL = (Path(__file__).parent.parent / "data" / "changelog-openssl.txt").read_bytes()


def entry(version: str, *items: str) -> str:
    return (
        f"tool ({version}) unstable; urgency=medium\n\n"
        + "".join(f"  * {item}\n" for item in items)
        + "\n -- A <a@b>\n\n"
    )


def packed(*entries: str) -> bytes:
    return gzip.compress("".join(entries).encode())


def test_a_real_changelog_says_which_version_closed_what() -> None:
    entries = changelog.parse(gzip.compress(OPENSSL), "openssl")
    assert [one.version for one in entries][:4] == [
        "3.0.22-1~deb12u2",
        "3.0.22-1~deb12u1",
        "3.0.20-1~deb12u2",
        "3.0.20-1~deb12u1",
    ]
    assert entries[0].fixes == {f"CVE-2026-{number}" for number in (84782, 35189, 54872, 75805, 75806, 77696)}
    assert entries[3].fixes == frozenset()


def test_only_what_closes_a_hole_is_taken_for_it() -> None:
    (one,) = changelog.parse(
        packed(
            entry(
                "2",
                "Fix a\n    crash (CVE-2030-0001, CVE-2030-0002)",
                "Drop the patch for CVE-2030-0003",
                "CVE-2030-0004 does not affect this version",
                "Revert the fix of CVE-2030-0005",
                "Complete the incomplete fix of CVE-2030-0006",
            )
        ),
        "tool",
    )
    assert one.fixes == {"CVE-2030-0001", "CVE-2030-0002", "CVE-2030-0006"}
    assert one.completes == {"CVE-2030-0006"}


def test_what_is_no_changelog_of_the_package_has_no_entries() -> None:
    assert changelog.parse(packed(entry("1", "CVE-2030-0001")), "other") == []
    assert changelog.parse(gzip.compress(b"Changes of 1.2 fix CVE-2030-0001"), "tool") == []


@pytest.mark.parametrize("broken", [b"", b"\x1f\x8b", packed(entry("1"))[:-9], b"text"])
def test_a_changelog_that_cannot_be_unpacked_is_told(broken: bytes) -> None:
    with pytest.raises(UsageError):
        changelog.parse(broken, "tool")


def test_a_packed_flood_is_cut_off() -> None:
    flood = gzip.compress(b"tool (1) x; y\n\n  * CVE-2030-0001\n" + b"x" * (changelog.MOST_BYTES + 1))
    assert [one.fixes for one in changelog.parse(flood, "tool")] == [{"CVE-2030-0001"}]


@given(st.text("tol (1);\n *-CVE2030", max_size=300))
def test_any_text_is_read(text: str) -> None:
    with contextlib.suppress(UsageError):
        for one in changelog.parse(gzip.compress(text.encode()), "tool"):
            assert one.completes <= one.fixes


def test_packages_bring_their_source_and_their_changelog(tmp_path: Path) -> None:
    lines = ["Source: tools (1.0-2)"]
    log = packed(entry("1.0-2", "CVE-2030-0001"), entry("1.0-1"))
    path = tmp_path / "a.deb"
    path.write_bytes(package("1.0-2+b1", b"x", control=lines, changelog=log))
    found, _ = deb.read(path.read_bytes())
    assert (found.name, found.version, found.source, found.source_version) == ("tool", "1.0-2+b1", "tools", "1.0-2")
    with Identities.open(tmp_path / "pages.db", create=True) as identities:
        identities.add(path)
        assert identities.lines_of("tools").previous == {}  # its headings name another source package
        path.write_bytes(package("1.0-2", b"x", changelog=log))
        identities.add(path)
        identities.add(path)
        newer = packed(entry("2.0-1", "CVE-2030-0002"), entry("1.0-2", "CVE-2030-0001"))
        path.write_bytes(package("2.0-1", b"x", changelog=newer))
        identities.add(path)
        known = identities.lines_of("tool")
    assert list(known.down("2.0-1")) == ["2.0-1", "1.0-2", "1.0-1"]
    assert known.fixes == {"1.0-2": {"CVE-2030-0001"}, "2.0-1": {"CVE-2030-0002"}}


def test_versions_that_name_each_other_are_no_loop(tmp_path: Path) -> None:
    with Identities.open(tmp_path / "pages.db", create=True) as identities:
        for first, second in (("1", "2"), ("2", "1")):
            path = tmp_path / f"{first}.deb"
            path.write_bytes(package(first, b"x", changelog=packed(entry(first), entry(second))))
            identities.add(path)
        assert list(identities.lines_of("tool").down("1")) == ["1", "2"]
