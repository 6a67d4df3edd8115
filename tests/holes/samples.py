# SPDX-License-Identifier: GPL-2.0-or-later
"""Advisories of each kind about openssl 3.0 of Debian 12, in the shapes that are published.

Holes and versions are those of the real changelog in tests/data; what is said of other releases is made up.
"""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any

from drakmet.holes.book import Account, Wanted
from drakmet.holes.files import load
from drakmet.holes.opinion import Opinion, Version, by_hole

if TYPE_CHECKING:
    from pathlib import Path

OLD, MIDDLE, NEW = "3.0.17-1~deb12u2", "3.0.22-1~deb12u1", "3.0.22-1~deb12u2"
LATE, EARLY, UNFIXED, OTHER = "CVE-2026-84782", "CVE-2025-9230", "CVE-2029-0001", "CVE-2029-0002"
SUITES = {"bookworm": "3.0.20-1~deb12u2", "bookworm-security": NEW}


def tracker(**changes: Any) -> dict[str, Any]:
    def resolved(version: str, **more: Any) -> dict[str, Any]:
        return {
            "status": "resolved",
            "fixed_version": version,
            "repositories": SUITES,
            "urgency": "not yet assigned",
        } | more

    return {
        "openssl": {
            LATE: {
                "description": "DTLS retransmits from a stale buffer",
                "scope": "remote",
                "releases": {
                    "bookworm": resolved(NEW, urgency="medium"),
                    "sid": resolved("3.6.3-1", repositories={"sid": "3.6.3-1"}),
                },
            },
            EARLY: {
                "debianbug": 1,
                "releases": {
                    "bookworm": resolved("3.0.17-1~deb12u3"),
                    "trixie": resolved("3.5.4-1", repositories={"trixie": "3.5.4-1"}),
                },
            },
            UNFIXED: {
                "releases": {
                    "bookworm": {
                        "status": "open",
                        "repositories": SUITES,
                        "urgency": "low",
                        "nodsa": "Minor issue",
                        "nodsa_reason": "",
                    }
                }
            },
            OTHER: {"releases": {"bookworm": resolved("0"), "sid": {"status": "undetermined"}}},
            **changes,
        },
        "bash": {},
    }


def osv(hole: str, *events: dict[str, str], ecosystem: str = "Debian:12", **more: Any) -> dict[str, Any]:
    return {
        "schema_version": "1.7.3",
        "id": f"DEBIAN-{hole}",
        "upstream": [hole],
        "modified": "2026-10-22T08:00:00Z",
        "affected": [
            {
                "package": {"ecosystem": ecosystem, "name": "openssl", "purl": "pkg:deb/debian/openssl?arch=source"},
                "ranges": [{"type": "ECOSYSTEM", "events": list(events)}],
                "versions": [],
                "ecosystem_specific": {"urgency": "not yet assigned"},
            }
        ],
    } | more


FROM_START = {"introduced": "0"}
DEBSECAN = f"""VERSION 1
{LATE},,DTLS retransmits
{EARLY},,Out-of-bounds read
{UNFIXED},,Something
{OTHER},,Of the binary package

openssl,0, MRF,3.6.3-1,{NEW}
openssl,1,  ?F,3.5.4-1,3.0.17-1~deb12u3 3.0.20-1~deb12u2 {NEW}
openssl,2, L  ,,
libssl3,3,B   ,3.0.18-1,

openssl,libssl3 openssl

"""
DETAIL = f"""{LATE} (fixed, remotely exploitable, medium urgency)
  DTLS retransmits
  installed: libssl3 {OLD}
             (built from openssl {OLD})
  fixed in unstable: openssl 3.6.3-1 (source package)
  fixed on branch:   openssl {NEW} (source package)
  fix is available for the selected suite (bookworm)

"""


def libssl(version: str) -> Version:
    return Version("libssl3", version, "openssl", version)


def wanted(release: str | None = None) -> Wanted:
    return Wanted(frozenset({"openssl", "bash"}), frozenset({"libssl3", "bash"}), release)


def file(folder: Path, content: Any, name: str = "advisories.json") -> Path:
    path = folder / name
    data = (
        content
        if isinstance(content, bytes)
        else content.encode()
        if isinstance(content, str)
        else json.dumps(content).encode()
    )
    path.write_bytes(data)
    return path


def said(path: Path, version: str, release: str | None = None) -> tuple[dict[str, Opinion], Account]:
    ((account, advisories),) = load([path], wanted(release))
    return by_hole([advisories], libssl(version)), account


def debsecan_packed() -> bytes:
    return zlib.compress(DEBSECAN.encode())
