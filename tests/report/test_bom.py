# SPDX-License-Identifier: GPL-2.0-or-later
"""Bills of materials and VEX: valid by the published schemas, and true to the rows they come from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given
from hypothesis import strategies as st
from packageurl import PackageURL

from drakmet.cli import cli
from drakmet.holes.records import HOLE_RECORDS, Advisory, Hole
from drakmet.naming import Application
from drakmet.records import Process
from drakmet.report.bom import purl
from drakmet.scan import SCAN_RECORDS
from drakmet.store import Writer
from report.files import EVIL

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW = "3.0.17-1~deb12u2", "1:3.0.22-1+b1"


def exported(path: Path, form: str, *more: str) -> dict[str, Any]:
    result = CliRunner().invoke(cli, ["export", str(path), "--format", form, *more], catch_exceptions=False)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(result.stdout) is None
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def ran(session: int, *versions: str, path: str = "/usr/lib/libssl.so.3", **more: Any) -> Application:
    return Application(
        session=session,
        path=path,
        verdict="verified",
        package="libssl3",
        version=versions[0] if len(versions) == 1 else None,
        candidates=[f"libssl3 {one} amd64 {path}" for one in versions],
        pages=8,
        known=8,
        **more,
    )


def hole(session: int, name: str, state: str, *versions: str, **more: Any) -> Hole:
    return Hole(
        session=session,
        time=5,
        hole=name,
        state=state,
        package="libssl3",
        version=versions[0] if len(versions) == 1 else None,
        versions=[f"libssl3 {one}" for one in versions],
        source="openssl",
        paths=[],
        rests_on="debian.json: resolved in bookworm",
        **more,
    )


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "web1.db"
    with Writer(path, [*SCAN_RECORDS, *HOLE_RECORDS]) as writer:
        opened = writer.begin_session(source="xen:web1", host="xen1", guest="web1", kernel="Linux 6.1", begin=10**18)
        one = opened.session
        for pid in (7, 8):
            writer.put(Process(id=pid, session=one, time=1, pid=pid))
            writer.put(ran(one, OLD, process=pid))
        writer.put(ran(one, OLD, path="/usr/bin/openssl", process=8))
        writer.put(ran(one, OLD, NEW, process=8))
        writer.put(Application(session=one, path="/opt/own", verdict="unknown", pages=4, known=0, process=8))
        writer.put(Application(session=one, path="[anonymous]", verdict="unverifiable", why="memory without a file"))
        # What a watch says of a file last counts.
        writer.put(ran(one, "1.0-1", path="/usr/lib/x.so", subject=1))
        writer.put(ran(one, OLD, path="/usr/lib/libssl.so.3", subject=1, process=7))
        writer.put(Advisory(session=one, time=5, name="debian.json", kind="x", digest=""))
        writer.put(hole(one, "CVE-2025-9230", "affected", OLD, fixed_in="3.0.17-1~deb12u3", urgency="medium"))
        writer.put(hole(one, "CVE-2025-9230", "may be affected", OLD, NEW, fixed_in="3.0.17-1~deb12u3"))
        writer.put(hole(one, "CVE-2029-1", "fixed", OLD, fixed_in="3.0.1-1"))
        writer.put(hole(one, "CVE-2029-2", "not known", OLD, why="undetermined"))
        writer.put(hole(one, "CVE-2029-3", "not affected", OLD, urgency="unimportant"))
        writer.end_session(one, "done")
    return path


def test_a_bill_of_materials_has_what_ran_with_its_evidence(stored: Path) -> None:
    found = exported(stored, "cyclonedx")
    broken = found | {"components": [{"type": "no such type", "name": 1}]}
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(broken)) is not None
    assert found["metadata"]["component"]["name"] == "web1"
    assert found["metadata"]["timestamp"] == "2001-09-09T01:46:40Z"
    parts = {(one["name"], one.get("version")): one for one in found["components"]}
    assert parts.keys() == {("libssl3", OLD), ("libssl3", None), ("own", None)}
    sure = parts["libssl3", OLD]
    assert (sure["type"], sure["purl"]) == (
        "application",
        "pkg:deb/debian/libssl3@3.0.17-1~deb12u2?arch=amd64&distro=bookworm",
    )
    assert sure["evidence"]["occurrences"] == [
        {"location": "/usr/bin/openssl", "additionalContext": "8 of 8 pages of its code are known; pid 8"},
        {
            "location": "/usr/lib/libssl.so.3",
            "additionalContext": "8 of 8 pages of its code are known; pid 7 and 1 more processes",
        },
    ]
    (identity,) = sure["evidence"]["identity"]
    assert (identity["concludedValue"], identity["confidence"]) == (sure["purl"], 1.0)
    both = parts["libssl3", None]["evidence"]["identity"]
    assert [one["confidence"] for one in both] == [0.5, 0.5]
    assert "purl" not in parts["libssl3", None]
    assert "identity" not in parts["own", None]["evidence"]


def test_vex_says_of_each_component_what_is_known_and_points_at_the_bill(stored: Path) -> None:
    bill, said = exported(stored, "cyclonedx"), exported(stored, "vex")
    states = [(one["id"], one["analysis"]["state"], one["affects"][0]["versions"]) for one in said["vulnerabilities"]]
    assert states == [
        ("CVE-2025-9230", "exploitable", [{"version": OLD, "status": "affected"}]),
        (
            "CVE-2025-9230",
            "in_triage",
            [{"version": NEW, "status": "unknown"}, {"version": OLD, "status": "unknown"}],
        ),
        ("CVE-2029-1", "resolved", [{"version": OLD, "status": "unaffected"}]),
        ("CVE-2029-2", "in_triage", [{"version": OLD, "status": "unknown"}]),
        ("CVE-2029-3", "not_affected", [{"version": OLD, "status": "unaffected"}]),
    ]
    assert said["vulnerabilities"][0]["recommendation"].startswith("Update openssl to 3.0.17-1~deb12u3")
    from urllib.parse import unquote

    known = {f"urn:cdx:{bill['serialNumber'][9:]}/1#{one['bom-ref']}" for one in bill["components"]}
    assert {unquote(place["ref"]) for one in said["vulnerabilities"] for place in one["affects"]} <= known
    assert exported(stored, "cyclonedx") == bill
    assert said["serialNumber"] != bill["serialNumber"]


def test_several_guests_and_hostile_texts_are_valid_too(tmp_path: Path) -> None:
    path = tmp_path / "evil.db"
    with Writer(path, SCAN_RECORDS) as writer:
        for evil in EVIL:
            session = writer.begin_session(source=evil, host=evil, guest=evil, kernel=evil).session
            writer.put(Application(session=session, path=evil, verdict=evil, candidates=[evil, f"a b c {evil}"]))
            writer.put(Application(session=session, path="/", verdict="unknown"))
            writer.put(Advisory(session=session, time=1, name=evil, kind=evil, digest=evil))
            writer.put(Hole(session=session, time=1, hole=evil, state="not known", versions=[evil], paths=[], why=evil))
            writer.end_session(session, "done")
    bill = exported(path, "cyclonedx")
    assert len(bill["components"]) == len(EVIL)
    exported(path, "vex")
    assert "component" in exported(path, "cyclonedx", "--session", "1")["metadata"]


def test_a_file_in_which_nothing_was_named_has_an_empty_bill(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    Writer(path).close()
    assert exported(path, "cyclonedx")["components"] == []
    assert exported(path, "vex")["vulnerabilities"] == []


@given(
    st.from_regex(r"[a-z0-9][a-z0-9+.-]{1,10}", fullmatch=True),
    st.from_regex(r"([0-9]:)?[0-9][A-Za-z0-9.+~-]{0,12}", fullmatch=True),
)
def test_package_urls_are_read_back_by_others(package: str, version: str) -> None:
    found = PackageURL.from_string(purl(package, version, "amd64"))
    assert (found.type, found.name, found.version) == ("deb", package, version)
    assert found.qualifiers["arch"] == "amd64"  # type: ignore[index, call-overload]
