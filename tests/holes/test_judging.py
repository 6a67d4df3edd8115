# SPDX-License-Identifier: GPL-2.0-or-later
"""What changelogs tell, what several advisories tell together, and what is told of code that may be of two versions."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from holes.samples import EARLY, FROM_START, LATE, MIDDLE, NEW, OLD, UNFIXED, file, libssl, osv, tracker, wanted

from drakmet.holes.book import Account
from drakmet.holes.changelogs import Changelogs
from drakmet.holes.compare import Ran, applications, compare
from drakmet.holes.files import load
from drakmet.holes.opinion import Opinion, State, Version, by_hole, doubted, of_candidates
from drakmet.holes.records import Advisory, Hole
from drakmet.identity import changelog
from drakmet.identity.changes import Lines

if TYPE_CHECKING:
    from collections.abc import Sequence

OPENSSL = changelog.parse(
    gzip.compress((Path(__file__).parent.parent / "data" / "changelog-openssl.txt").read_bytes()), "openssl"
)


def lines(*entries: changelog.Entry, previous: dict[str, str | None] | None = None) -> Lines:
    before = [one.version for one in entries[1:]] + [None]
    return Lines(
        previous or {one.version: older for one, older in zip(entries, before, strict=True)},
        {one.version: one.fixes for one in entries},
        {one.version: one.completes for one in entries},
    )


def asked(known: Lines, version: str) -> dict[str, Opinion]:
    return {one.hole: one for one in Changelogs(lambda _: known, Account("pages.db")).about(libssl(version))}


def entry(version: str, *fixes: str, completes: Sequence[str] = ()) -> changelog.Entry:
    return changelog.Entry("openssl", version, frozenset(fixes), frozenset(completes))


def test_a_real_changelog_of_a_later_version_tells_what_an_earlier_one_lacks() -> None:
    found = asked(lines(*OPENSSL), MIDDLE)
    assert (found[LATE].state, found[LATE].fixed_in) == (State.AFFECTED, NEW)  # of one upstream version
    assert (found[EARLY].state, found[EARLY].fixed_in) == (State.FIXED, "3.0.17-1~deb12u3")
    old = asked(lines(*OPENSSL), OLD)
    assert (old[EARLY].state, old[EARLY].fixed_in) == (State.AFFECTED, "3.0.17-1~deb12u3")
    # 3.0.22 may have brought the hole that its second update closes.
    assert (old[LATE].state, old[LATE].fixed_in) == (State.MAYBE, NEW)
    assert {one.state for one in asked(lines(*OPENSSL), NEW).values()} == {State.FIXED}


def test_what_is_on_another_line_says_nothing_sure() -> None:
    known = lines(
        entry("3.0.17-1~deb12u3", "CVE-1", "CVE-2"),
        entry("3.0.17-1"),
        entry("3.5.1-1", "CVE-1", "CVE-3"),
        previous={"3.0.17-1~deb12u3": "3.0.17-1", "3.5.1-1": "3.0.17-1", "3.0.17-1": None},
    )
    found = asked(known, "3.0.17-1~deb12u3")
    assert {hole: one.state for hole, one in found.items()} == {
        "CVE-1": State.FIXED,
        "CVE-2": State.FIXED,
        "CVE-3": State.UNKNOWN,
    }
    assert asked(known, "3.5.1-1").keys() == {"CVE-1", "CVE-3"}  # what an older version of another line closed: silence
    assert {one.state for one in asked(known, "3.0.18-1").values()} == {State.UNKNOWN}
    assert asked(Lines({}, {}, {}), OLD) == {}
    assert asked(known, "no version") == {}


def test_what_was_closed_in_part_is_no_more_than_doubted_until_the_rest_is() -> None:
    known = lines(entry("1-3", "CVE-1", completes=["CVE-1"]), entry("1-2", "CVE-1"), entry("1-1"))
    assert [asked(known, f"1-{number}")["CVE-1"].state for number in (1, 2, 3)] == [
        State.AFFECTED,
        State.MAYBE,
        State.FIXED,
    ]
    assert asked(known, "1-3")["CVE-1"].fixed_in == "1-3"


def test_advisories_go_before_changelogs_and_have_to_agree(tmp_path: Path) -> None:
    known = Changelogs(lambda _: lines(*OPENSSL), Account("pages.db"))
    (of_tracker,) = load([file(tmp_path, tracker(), "tracker.json")], wanted())
    together = by_hole([known, of_tracker[1]], libssl(OLD))
    assert together[LATE].state is State.AFFECTED  # the changelogs alone: may be
    assert together[LATE].basis == "tracker.json: resolved in bookworm"
    assert together["CVE-2026-7383"].basis == "pages.db: changelog of 3.0.20-1~deb12u2"  # the tracker is silent
    fixed = osv(LATE, FROM_START, {"fixed": OLD})
    (of_osv,) = load([file(tmp_path, fixed, "osv.json")], wanted())
    against = by_hole([known, of_tracker[1], of_osv[1]], libssl(OLD))[LATE]
    assert against.state is State.MAYBE
    assert "do not agree" in (against.why or "")


@pytest.mark.parametrize(
    ("states", "together"),
    [
        ([State.AFFECTED, State.AFFECTED], State.AFFECTED),
        ([State.AFFECTED, State.FIXED], State.MAYBE),
        ([State.FIXED, State.NOT_AFFECTED], State.FIXED),
        ([State.NOT_AFFECTED, State.NOT_AFFECTED], State.NOT_AFFECTED),
        ([State.FIXED, None], State.UNKNOWN),
        ([State.AFFECTED, None], State.MAYBE),
        ([State.UNKNOWN, State.MAYBE], State.MAYBE),
    ],
)
def test_code_that_may_be_of_two_versions(states: list[State | None], together: State) -> None:
    each = [{} if state is None else {"CVE-1": Opinion("CVE-1", state)} for state in states]
    (said,) = of_candidates(each)
    assert said.state is together


def test_of_changed_code_nothing_is_sure() -> None:
    for state, left in ((State.AFFECTED, State.MAYBE), (State.FIXED, State.UNKNOWN), (State.MAYBE, State.MAYBE)):
        assert doubted(Opinion("CVE-1", state), "it was changed").state is left


def ran(process: int, path: str, *versions: str, verdict: str = "verified", source: str = "openssl") -> Ran:
    candidates = tuple(f"libssl3 {version} amd64 {path}" for version in versions)
    return Ran(process, path, verdict, candidates, tuple(f"{source} {version}" for version in versions))


def test_rows_name_what_ran_and_what_they_rest_on(tmp_path: Path) -> None:
    all_of = applications(
        [
            ran(7, "/usr/lib/libssl.so.3", OLD),
            ran(8, "/usr/lib/libssl.so.3", OLD),
            ran(8, "/usr/lib/libcrypto.so.3", OLD),
            ran(9, "/usr/lib/libssl.so.3", OLD, NEW),
            ran(10, "/usr/lib/libssl.so.3", OLD, verdict="modified"),
            Ran(11, "/opt/own", "verified", ("- - - /opt/own",), ("- -",)),
            Ran(12, "/usr/lib/x", "verified", (f"libssl3 {OLD} amd64 /x", "- - - /opt/x"), (f"openssl {OLD}", "- -")),
        ]
    )
    advisories = list(load([file(tmp_path, tracker())], wanted()))
    rows = list(compare(3, all_of, advisories, now=5))
    assert {row.session for row in rows} == {3}  # type: ignore[attr-defined]
    (advisory,) = (row for row in rows if isinstance(row, Advisory))
    assert (advisory.time, advisory.name, advisory.statements, advisory.refused) == (5, "advisories.json", 4, 0)
    late = [row for row in rows if isinstance(row, Hole) and row.hole == LATE]
    assert [(row.version, row.versions, row.processes, row.state) for row in late] == [
        (OLD, [f"libssl3 {OLD}"], 2, "affected"),
        (None, [f"libssl3 {OLD}", f"libssl3 {NEW}"], 1, "may be affected"),
        (None, [f"libssl3 {OLD}"], 1, "may be affected"),
        (None, [f"libssl3 {OLD}"], 1, "may be affected"),
    ]
    assert (late[0].process, late[0].package, late[0].source, late[0].fixed_in) == (7, "libssl3", "openssl", NEW)
    assert late[0].paths == ["/usr/lib/libssl.so.3", "/usr/lib/libcrypto.so.3"]


def test_the_source_is_guessed_only_where_it_was_not_stored() -> None:
    (one,) = applications([Ran(1, "/bin/bash", "verified", ("bash 5.2.15-2+b13 amd64 /bin/bash",), ())])
    assert one.versions == (Version("bash", "5.2.15-2+b13", "bash", "5.2.15-2"),)


def test_an_open_hole_without_a_fix_is_affected(tmp_path: Path) -> None:
    advisories = list(load([file(tmp_path, tracker())], wanted()))
    rows = compare(1, applications([ran(1, "/x", NEW)]), advisories)
    assert [(row.hole, row.fixed_in) for row in rows if isinstance(row, Hole) and row.state == "affected"] == [
        (UNFIXED, None)
    ]
