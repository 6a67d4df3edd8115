# SPDX-License-Identifier: GPL-2.0-or-later
"""Versions are ordered as dpkg orders them."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drakmet.holes import versions

_NEEDS_DPKG = pytest.mark.skipif(shutil.which("dpkg") is None, reason="needs dpkg, which Debian has")


def by_dpkg(one: str, other: str) -> int:
    for relation, sign in (("lt", -1), ("eq", 0)):
        if subprocess.run(["dpkg", "--compare-versions", one, relation, other], check=False).returncode == 0:
            return sign
    return 1


def ours(one: str, other: str) -> int:
    first, second = versions.key(one), versions.key(other)
    assert first is not None
    assert second is not None
    return (first > second) - (first < second)


_TEXT = st.lists(
    st.sampled_from(["0", "1", "9", "10", "00", "~", "+", ".", "a", "Z", "rc", "deb", "-"]), max_size=7
).map("".join)
# dpkg takes no version whose revision is empty.
_VERSION = st.builds(
    lambda epoch, text, revision: epoch + "1" + text + revision,
    st.sampled_from(["", "", "0:", "1:", "10:"]),
    _TEXT,
    st.sampled_from(["", "-0", "-1", "-1~deb12u1", "-1+b2", "-01", "-a"]),
).filter(lambda text: not text.endswith("-"))


@_NEEDS_DPKG
@settings(max_examples=150, deadline=None)
@given(_VERSION, _VERSION)
def test_any_two_versions_compare_as_dpkg_has_it(one: str, other: str) -> None:
    assert ours(one, other) == by_dpkg(one, other)


@_NEEDS_DPKG
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3.0.17-1~deb12u2", "3.0.17-1~deb12u10"),
        ("1.0", "1.0-0"),
        ("1.0~rc1-1", "1.0-1"),
        ("1:1.0-1", "2.0-1"),
        ("1.0+dfsg-1", "1.0-1"),
        ("1.0.", "1.0"),
        ("1a", "1+"),
        ("1.2.3-4-5", "1.2.3-4-6"),
        ("0:1", "1"),
        ("1.0-1", "1.0-1~"),
        ("1-a0", "1-a"),
    ],
)
def test_known_corners(one: str, other: str) -> None:
    assert ours(one, other) == by_dpkg(one, other)


@pytest.mark.parametrize("text", ["", "1-", "1 2", "1_2", "x:1", "1\n", "ä", "1" * 300, "9999999999:1", "\u0661.2"])
def test_what_is_no_version_has_no_order(text: str) -> None:
    assert versions.key(text) is None


def test_what_a_version_is_made_of() -> None:
    assert versions.upstream("1:3.0.17-1~deb12u2") == "3.0.17"
    assert versions.upstream("1.2-3-4") == "1.2-3"
    assert versions.upstream("1.2") == "1.2"
    assert versions.upstream("2:1.2") == "1.2"
    assert versions.source_version("5.2.15-2+b13") == "5.2.15-2"
