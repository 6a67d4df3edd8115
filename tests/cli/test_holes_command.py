# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet holes`` over stored files, and what ``drakmet apps`` counts of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from holes.samples import EARLY, LATE, NEW, OLD, OTHER, UNFIXED, file, tracker

from drakmet.cli.apps import apps
from drakmet.cli.holes import holes
from drakmet.errors import StoreError, UsageError
from drakmet.naming import Application
from drakmet.scan import SCAN_RECORDS
from drakmet.store import Reader, Writer

if TYPE_CHECKING:
    from pathlib import Path


def application(version: str | None, *versions: str, package: str = "libssl3", **more: Any) -> Application:
    named = [*versions, *([version] if version else [])]
    path = more.pop("path", "/usr/lib/libssl.so.3")
    return Application(
        session=1,
        process=more.pop("process", 1),
        time=10**9,
        path=path,
        verdict=more.pop("verdict", "verified"),
        package=package,
        version=version,
        candidates=[f"{package} {one} amd64 {path}" for one in named],
        sources=[f"{'openssl' if package == 'libssl3' else package} {one}" for one in named],
        pages=5,
        known=5,
        **more,
    )


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "web1.db"
    with Writer(path, list(SCAN_RECORDS)) as writer:
        session = writer.begin_session(source="xen:web1", host="xen1", guest="web1").session
        for row in (
            application(OLD),
            application(OLD, process=2),
            application(None, OLD, NEW, process=3),
            application(OLD, process=4, verdict="modified"),
            application("5.2.15-2", package="bash", path="/usr/bin/bash", process=5),
            Application(session=1, process=6, time=10**9, path="/opt/own", verdict="unknown", pages=3, known=0),
        ):
            writer.put(row)
        writer.end_session(session, "done")
    return path


def run(*arguments: str) -> tuple[int, Any, str]:
    result = CliRunner().invoke(holes, [*arguments, "--json"], catch_exceptions=False, standalone_mode=False)
    return int(result.return_value or 0), json.loads(result.stdout), result.stderr


def test_what_ran_is_compared_kept_and_shown_again(stored: Path, tmp_path: Path) -> None:
    advisories = file(tmp_path, tracker(), "debian.json")
    code, rows, said = run(str(stored), "--advisories", str(advisories))
    assert code == 1
    assert "not known, as no advisory speaks of it: bash" in said
    first = rows[0]
    assert (first["guest"], first["hole"], first["state"], first["version"]) == ("web1", EARLY, "affected", OLD)
    assert (first["fixed_in"], first["processes"]) == ("3.0.17-1~deb12u3", 2)
    assert first["rests_on"] == "debian.json: resolved in bookworm"
    assert {row["hole"] for row in rows if row["state"] == "affected"} == {EARLY, LATE, UNFIXED}
    assert all(row["state"] not in ("fixed", "not affected") for row in rows)
    again, shown, _ = run(str(stored))
    assert (again, shown) == (code, rows)
    everything = run(str(stored), "--all")[1]
    assert OTHER in {row["hole"] for row in everything if row["state"] == "not affected"}


def test_a_second_comparison_takes_the_place_of_the_first(stored: Path, tmp_path: Path) -> None:
    run(str(stored), "--advisories", str(file(tmp_path, tracker())))
    closed = {"openssl": {LATE: {"releases": {"bookworm": {"status": "resolved", "fixed_version": "3.0.1-1"}}}}}
    code, rows, said = run(str(stored), "--advisories", str(file(tmp_path, closed)))
    assert [(row["state"], row["why"]) for row in rows] == [
        ("not known", "fixed as packaged, but its code in memory differs from the package's")
    ]
    assert code == 3  # of bash nobody speaks
    assert "2 fixed" in said


def test_apps_counts_holes_and_calls_silence_not_known(stored: Path, tmp_path: Path) -> None:
    def listed() -> dict[tuple[str, str | None, str], str | None]:
        result = CliRunner().invoke(apps, [str(stored), "--json"], catch_exceptions=False)
        return {(row["application"], row["version"], row["verdict"]): row["holes"] for row in json.loads(result.stdout)}

    assert set(listed().values()) == {None}
    run(str(stored), "--advisories", str(file(tmp_path, tracker())))
    assert listed() == {
        ("/usr/lib/libssl.so.3", OLD, "verified"): "3 affected, 1 not affected",
        ("/usr/lib/libssl.so.3", None, "verified"): "1 affected, 2 may be affected, 1 not affected",
        ("/usr/lib/libssl.so.3", OLD, "modified"): "3 may be affected, 1 not known",
        ("/usr/bin/bash", "5.2.15-2", "verified"): "not known",
        ("/opt/own", None, "unknown"): "not known",
    }


def test_the_coverage_names_what_no_advisory_speaks_of_and_what_was_refused(stored: Path, tmp_path: Path) -> None:
    broken = file(tmp_path, "{", "broken.json")
    wrong = file(tmp_path, tracker(**{"CVE-2029-0009": 7}), "debian.json")
    code, _, said = run(str(stored), "--advisories", str(broken), "--advisories", str(wrong))
    assert code == 1
    assert "broken.json: the JSON is broken" in said
    with Reader(stored) as reader:
        gaps = [row["gap"] for row in reader.select("SELECT gap FROM coverage WHERE gap IS NOT NULL")[1]]
        kept = list(reader.select("SELECT name, refused, statements FROM advisory ORDER BY id")[1])
    assert len(gaps) == 1
    assert "speaks of bash" in gaps[0]
    assert "a hole of openssl" in gaps[0]
    assert [(row["name"], row["refused"], row["statements"]) for row in kept] == [
        ("broken.json", 1, 0),
        ("debian.json", 1, 4),
    ]


def test_what_cannot_be_compared_is_an_error_that_says_what_to_do(stored: Path, tmp_path: Path) -> None:
    for arguments, kind in (
        ([str(stored)], StoreError),
        ([str(tmp_path / "none.db")], StoreError),
        ([str(stored), "--advisories", str(file(tmp_path, "{"))], UsageError),
    ):
        assert isinstance(CliRunner().invoke(holes, arguments).exception, kind)
    empty = tmp_path / "empty.db"
    Writer(empty, list(SCAN_RECORDS)).close()
    result = CliRunner().invoke(holes, [str(empty), "--advisories", str(file(tmp_path, tracker()))])
    assert isinstance(result.exception, UsageError)
