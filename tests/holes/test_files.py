# SPDX-License-Identifier: GPL-2.0-or-later
"""Advisory files: what each kind says of a version, and what becomes of broken ones."""

from __future__ import annotations

import contextlib
import gzip
import json
import lzma
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from holes.samples import (
    DEBSECAN,
    DETAIL,
    EARLY,
    FROM_START,
    LATE,
    MIDDLE,
    NEW,
    OLD,
    OTHER,
    UNFIXED,
    debsecan_packed,
    file,
    osv,
    said,
    tracker,
    wanted,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drakmet.errors import UsageError
from drakmet.holes.files import load
from drakmet.holes.opinion import State

if TYPE_CHECKING:
    from pathlib import Path


def test_the_tracker_is_asked_about_the_release_that_the_version_names(tmp_path: Path) -> None:
    path = file(tmp_path, tracker())
    old, account = said(path, OLD)
    assert (account.kind, account.statements, account.refused.total()) == ("Debian security tracker", 4, 0)
    assert {hole: (one.state, one.fixed_in) for hole, one in old.items()} == {
        LATE: (State.AFFECTED, NEW),
        EARLY: (State.AFFECTED, "3.0.17-1~deb12u3"),
        UNFIXED: (State.AFFECTED, None),
        OTHER: (State.NOT_AFFECTED, None),
    }
    assert (old[LATE].urgency, old[EARLY].urgency, old[UNFIXED].why) == ("medium", None, "Minor issue")
    new, _ = said(path, NEW)
    assert {hole: one.state for hole, one in new.items()} == {
        LATE: State.FIXED,
        EARLY: State.FIXED,
        UNFIXED: State.AFFECTED,
        OTHER: State.NOT_AFFECTED,
    }


def test_where_the_release_is_not_known_only_what_all_say_is_sure(tmp_path: Path) -> None:
    path = file(tmp_path, tracker())
    strange, _ = said(path, "3.0.19-1")  # of no release's update, and in none of the lists
    assert strange[LATE].state is State.AFFECTED  # as bookworm and sid say
    assert strange[EARLY].state is State.MAYBE
    assert strange[OTHER].state is State.UNKNOWN
    known, _ = said(path, "3.0.19-1", release="bookworm")
    assert (known[EARLY].state, known[OTHER].state) == (State.FIXED, State.NOT_AFFECTED)
    exact, _ = said(path, "3.5.4-1")  # a version that trixie has
    assert exact[EARLY].state is State.FIXED


def test_a_version_that_is_newer_than_the_tracker_knows_is_no_more_than_doubted(tmp_path: Path) -> None:
    newer, _ = said(file(tmp_path, tracker()), "3.0.23-1~deb12u1")
    assert newer[UNFIXED].state is State.MAYBE


@pytest.mark.parametrize(
    ("events", "version", "state", "fixed_in"),
    [
        ([FROM_START, {"fixed": NEW}], OLD, State.AFFECTED, NEW),
        ([FROM_START, {"fixed": NEW}], NEW, State.FIXED, NEW),
        ([FROM_START], NEW, State.AFFECTED, None),
        ([{"introduced": "3.0.20-1~deb12u1"}, {"fixed": NEW}], OLD, State.NOT_AFFECTED, None),
        ([{"fixed": NEW}, FROM_START], MIDDLE, State.AFFECTED, NEW),
        ([FROM_START, {"last_affected": MIDDLE}], MIDDLE, State.AFFECTED, None),
        ([FROM_START, {"last_affected": MIDDLE}], NEW, State.FIXED, None),
        ([FROM_START, {"fixed": OLD}, {"introduced": MIDDLE}, {"fixed": NEW}], MIDDLE, State.AFFECTED, NEW),
        ([FROM_START, {"fixed": OLD}, {"introduced": MIDDLE}, {"fixed": NEW}], "3.0.20-1", State.FIXED, OLD),
        ([FROM_START, {"fixed": "no version"}], OLD, State.UNKNOWN, None),
    ],
)
def test_ranges_of_osv(
    events: list[dict[str, str]], version: str, state: State, fixed_in: str | None, tmp_path: Path
) -> None:
    found, account = said(file(tmp_path, osv(LATE, *events)), version)
    assert (found[LATE].state, found[LATE].fixed_in, account.kind) == (state, fixed_in, "OSV")
    assert account.date == 1792656000 * 10**9


def test_osv_reports_of_other_releases_and_ecosystems_and_withdrawn_ones(tmp_path: Path) -> None:
    fixed = (FROM_START, {"fixed": NEW})
    for report in (
        osv(LATE, *fixed, ecosystem="Debian:13"),
        osv(LATE, *fixed, ecosystem="Ubuntu:22.04"),
        osv(LATE, *fixed, withdrawn="2026-10-23T00:00:00Z"),
    ):
        assert said(file(tmp_path, report), OLD)[0] == {}
    several = osv("CVE-1999-0001", *fixed, id="DSA-9999-1", upstream=[LATE, EARLY])
    assert said(file(tmp_path, several), OLD)[0].keys() == {LATE, EARLY}
    listed = osv(LATE, *fixed)
    listed["affected"][0] |= {"ranges": [{"type": "GIT", "events": [FROM_START]}], "versions": [MIDDLE]}
    path = file(tmp_path, listed)
    assert (said(path, MIDDLE)[0][LATE].state, said(path, OLD)[0][LATE].state) == (State.AFFECTED, State.UNKNOWN)


def test_osv_in_a_directory_an_archive_and_a_list(tmp_path: Path) -> None:
    reports = [osv(LATE, FROM_START, {"fixed": NEW}), osv(EARLY, FROM_START, {"fixed": OLD})]
    folder = tmp_path / "osv"
    (folder / "deeper").mkdir(parents=True)
    file(folder, reports[0], "a.json")
    file(folder / "deeper", reports[1], "b.json")
    file(folder, "broken", "c.json")
    archive = tmp_path / "all.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for one in ("a.json", "deeper/b.json", "c.json"):
            packed.write(folder / one, one)
        packed.writestr("README", "text")
    for path in (folder, archive, file(tmp_path, [*reports, 7])):
        found, account = said(path, OLD)
        assert {hole: one.state for hole, one in found.items()} == {LATE: State.AFFECTED, EARLY: State.FIXED}
        assert (account.statements, account.refused.total(), len(account.digest)) == (2, 1, 64)


@pytest.mark.parametrize(
    "pack", [str.encode, lambda text: debsecan_packed(), lambda text: gzip.compress(text.encode())]
)
def test_debsecans_data(pack: Any, tmp_path: Path) -> None:
    path = file(tmp_path, pack(DEBSECAN), "generic")
    old, account = said(path, OLD)
    assert (account.kind, account.statements, account.refused.total()) == ("debsecan data", 4, 0)
    assert {hole: (one.state, one.fixed_in) for hole, one in old.items()} == {
        LATE: (State.AFFECTED, NEW),
        EARLY: (State.AFFECTED, "3.0.17-1~deb12u3"),
        UNFIXED: (State.AFFECTED, None),
        OTHER: (State.AFFECTED, "3.0.18-1"),
    }
    new, _ = said(path, NEW)
    assert (new[LATE].state, new[OTHER].state, new[UNFIXED].state) == (State.FIXED, State.FIXED, State.AFFECTED)
    between, _ = said(path, MIDDLE)  # above a version without the hole, and not named itself
    assert (between[EARLY].state, between[LATE].state) == (State.MAYBE, State.AFFECTED)


def test_debsecans_reports_tell_of_the_version_that_was_installed_if_of_any(tmp_path: Path) -> None:
    path = file(tmp_path, DETAIL, "report")
    found, account = said(path, OLD)
    assert (account.kind, found[LATE].state, found[LATE].fixed_in) == ("debsecan report", State.AFFECTED, NEW)
    other, _ = said(path, MIDDLE)
    assert (other[LATE].state, other[LATE].why) == (State.MAYBE, f"the report is about {OLD}")
    summary = file(tmp_path, f"{LATE} libssl3 (fixed, low urgency)\n{EARLY} libssl3\n{EARLY} bash\nnoise!\n", "summary")
    found, account = said(summary, OLD)
    assert {hole: (one.state, one.urgency) for hole, one in found.items()} == {
        LATE: (State.MAYBE, "low"),
        EARLY: (State.MAYBE, None),
    }
    assert account.refused.total() == 0  # a line below a hole is what it says of it


def test_parts_that_are_wrong_are_counted_and_the_others_count(tmp_path: Path) -> None:
    wrong: dict[str, Any] = {
        "CVE-2029-1": {"releases": {"bookworm": {"status": "open"}}},
        "CVE-2029-1001": {"releases": []},
        "CVE-2029-1002": 7,
        "CVE-2029-1003": {"releases": {"bookworm": {"status": "resolved", "fixed_version": "not a version"}}},
        "CVE-2029-1004": {"releases": {"bookworm": {"status": "resolved"}}},
        "CVE-2029-1005": {"releases": {"bookworm": {"status": "who knows"}, "sid": {"status": 1}}},
        "x" * 100: {"releases": {}},
        "evil\x1b[31m": {"releases": {"bookworm": {"status": "open"}}},
    }
    found, account = said(file(tmp_path, tracker(**wrong)), OLD)
    assert found.keys() == {LATE, EARLY, UNFIXED, OTHER, "CVE-2029-1"}
    assert account.refused.total() == 8


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"openssl": {}} {}',
        b"\xff\xfe\x00",
        b"PK\x03\x04 no archive",
        gzip.compress(b"{}")[:-5],
        lzma.compress(b"{}")[:-5],
        debsecan_packed()[:-5],
        b"some text\nof no kind\n",
    ],
)
def test_what_is_no_advisory_file_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        list(load([file(tmp_path, content)], wanted()))
    assert caught.value.where == str(tmp_path / "advisories.json")


def test_what_is_not_there_and_empty_directories_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(UsageError):
            list(load([path], wanted()))


def test_a_flood_that_is_packed_small_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drakmet.holes.files.MOST_BYTES", 1 << 20)
    flood = gzip.compress(b" " * (2 << 20))
    with pytest.raises(UsageError, match="unpacked"):
        list(load([file(tmp_path, flood)], wanted()))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    kind=st.sampled_from(["tracker", "osv", "debsecan", "detail"]),
    noise=st.binary(max_size=40),
    at=st.integers(0, 900),
)
def test_damage_is_refused_or_counted_and_nothing_worse(kind: str, noise: bytes, at: int, tmp_path: Path) -> None:
    whole = {
        "tracker": json.dumps(tracker()).encode(),
        "osv": json.dumps(osv(LATE, FROM_START, {"fixed": NEW})).encode(),
        "debsecan": DEBSECAN.encode(),
        "detail": DETAIL.encode(),
    }[kind]
    with contextlib.suppress(UsageError):
        said(file(tmp_path, whole[:at] + noise + whole[at + len(noise) :]), OLD)


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["0", NEW, "bookworm", "open", "resolved", LATE]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "releases",
                    "bookworm",
                    "status",
                    "fixed_version",
                    "repositories",
                    "affected",
                    "ranges",
                    "events",
                    "introduced",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(shape=_ANY)
def test_any_shape_is_taken_or_counted(shape: Any, tmp_path: Path) -> None:
    found, _ = said(file(tmp_path, {"openssl": {LATE: shape, EARLY: tracker()["openssl"][EARLY]}}), OLD)
    assert found[EARLY].state is State.AFFECTED
    report = osv(LATE, FROM_START) | {"affected": [shape, osv(LATE, FROM_START)["affected"][0]]}
    assert said(file(tmp_path, report), OLD)[0][LATE].state is not None
