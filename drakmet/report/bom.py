# SPDX-License-Identifier: GPL-2.0-or-later
"""What ran as a CycloneDX 1.6 bill of materials, and what is known of its holes as CycloneDX VEX.

VEX is written in CycloneDX and not in OpenVEX, as it can then point at the very components of the bill (BOM-Link), and
say of each version whether it is affected, unaffected or unknown without calling the hole exploitable.
"""

from __future__ import annotations

import json
import re
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from drakmet import __version__
from drakmet.naming.records import LAST

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from drakmet.store import Reader

Row = dict[str, Any]
_LONG: Final = 600.0
_MOST_PLACES: Final = 50
_SPACE: Final = uuid.UUID("6f1f3a52-7c0a-5d0b-9a55-5f1b9f0a2d11")
# deb-control(5); a Windows program's product is called a package here, too, and has no URL of this kind.
_DEBIAN_NAME: Final = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_WINDOWS: Final = re.compile(r"\.(?:exe|dll|sys|efi|ocx|cpl|scr)$", re.IGNORECASE)
_BRANCH: Final = re.compile(r"[+~]deb(\d{1,2})u\d")
_CODENAMES: Final = {8: "jessie", 9: "stretch", 10: "buster", 11: "bullseye", 12: "bookworm", 13: "trixie"}
# Rows of one package in one version are one component; memory that is no file's is none.
_RAN: Final = """
SELECT g.id AS guest, a.package, a.version, a.candidates, a.verdict, a.path, count(DISTINCT a.process) AS processes,
       max(a.pages) AS pages, a.known, p.pid
FROM application AS a JOIN session AS s ON s.id = a.session JOIN guest AS g ON g.id = s.guest
LEFT JOIN process AS p ON p.id = a.process
WHERE a.path IS NOT NULL AND a.path NOT GLOB '[[]*[]]' AND (:session IS NULL OR a.session = :session) AND {last}
GROUP BY g.id, a.package, a.version, a.candidates, a.verdict, a.path
ORDER BY g.id, a.package, a.version, a.candidates, a.verdict, a.path
"""
_HOLES: Final = """
SELECT g.id AS guest, hole.hole, hole.state, hole.package, hole.version, hole.versions, hole.source, hole.fixed_in,
       hole.urgency, hole.why, hole.rests_on
FROM hole JOIN session AS s ON s.id = hole.session JOIN guest AS g ON g.id = s.guest
WHERE hole.time = (SELECT max(time) FROM advisory AS a WHERE a.session = hole.session)
  AND (:session IS NULL OR hole.session = :session)
ORDER BY hole.hole, hole.state, g.id, hole.package, hole.versions
"""
_GUESTS: Final = """
SELECT g.id, g.name, h.name AS host, g.kernel, min(s.begin) AS begin, max(s.id) AS last, group_concat(s.id) AS sessions
FROM session AS s JOIN guest AS g ON g.id = s.guest JOIN host AS h ON h.id = g.host
WHERE :session IS NULL OR s.id = :session GROUP BY g.id ORDER BY g.id
"""
_ANALYSIS: Final = {
    "affected": "exploitable",
    "may be affected": "in_triage",
    "not known": "in_triage",
    "fixed": "resolved",
    "not affected": "not_affected",
}
_STATUS: Final = {"affected": "affected", "fixed": "unaffected", "not affected": "unaffected"}
_SEVERITY: Final = {"unimportant": "info", "low": "low", "medium": "medium", "high": "high"}


def bill(reader: Reader, session: int | None = None) -> Row:
    """Return the bill of materials of what ran in a file's guests, or in one session."""
    guests = _select(reader, _GUESTS, session)
    parts: dict[int, list[Row]] = {guest["id"]: [] for guest in guests}
    parts |= _components(reader, session)
    document = _document(guests, "bom")
    if len(guests) == 1:
        document["metadata"]["component"] = _guest(guests[0])
        document["components"] = parts[guests[0]["id"]]
    else:
        document["components"] = [_guest(guest) | {"components": parts[guest["id"]]} for guest in guests]
    return document


def vex(reader: Reader, session: int | None = None) -> Row:
    """Return what advisories said of holes in what ran; it points at the components of `bill`."""
    guests = _select(reader, _GUESTS, session)
    of_bill = _serial(guests, "bom").removeprefix("urn:uuid:")
    document = _document(guests, "vex")
    found: dict[tuple[Any, ...], Row] = {}
    for row in _select(reader, _HOLES, session) if "hole" in reader.names else ():
        key = (row["hole"], row["state"], row["source"], row["fixed_in"], row["urgency"], row["why"], row["rests_on"])
        entry = found.get(key)
        if entry is None:
            entry = found[key] = _vulnerability(row, len(found) + 1)
        versions = _versions(row["versions"])
        entry["affects"].append(
            {
                "ref": f"urn:cdx:{of_bill}/1#{quote(_reference(row['guest'], versions, row['version']), safe='')}",
                "versions": [
                    {"version": version, "status": _STATUS.get(row["state"], "unknown")} for _, version in versions
                ],
            }
        )
    document["vulnerabilities"] = list(found.values())
    return document


def purl(package: str, version: str, architecture: str | None = None) -> str:
    """Return a package of Debian's as a package URL; the release is told where the version names it."""
    release = _BRANCH.search(version)
    codename = _CODENAMES.get(int(release[1])) if release else None
    said = [f"arch={quote(architecture, safe='')}"] if architecture else []
    said += [f"distro={codename}"] if codename else []
    of = "ubuntu" if "ubuntu" in version else "debian"
    return f"pkg:deb/{of}/{quote(package.lower(), safe='')}@{quote(version, safe=':~')}" + (
        "?" + "&".join(said) if said else ""
    )


def _select(reader: Reader, sql: str, session: int | None) -> list[Row]:
    return list(reader.select(sql, {"session": session}, seconds=_LONG)[1])


def _document(guests: list[Row], kind: str) -> Row:
    begin = max((guest["begin"] or 0 for guest in guests), default=0)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": _serial(guests, kind),
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(begin // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "lifecycles": [{"phase": "operations"}],
            "tools": {"components": [{"type": "application", "name": "drakmet", "version": __version__}]},
        },
    }


def _serial(guests: list[Row], kind: str) -> str:
    """Return a number that is the same for the same sessions, so that VEX finds its bill of materials."""
    told = [[guest["host"], guest["name"], guest["begin"], guest["sessions"]] for guest in guests]
    return uuid.uuid5(_SPACE, json.dumps([kind, told])).urn


def _guest(guest: Row) -> Row:
    said = {"name": "drakmet:host", "value": str(guest["host"])}, {"name": "drakmet:kernel", "value": guest["kernel"]}
    return {
        "type": "platform",
        "bom-ref": f"guest-{guest['id']}",
        "name": str(guest["name"]),
        "properties": [one for one in said if one["value"]],
    }


def _components(reader: Reader, session: int | None) -> dict[int, list[Row]]:
    found: dict[int, dict[str, Row]] = {}
    columns = {column.name for table in reader.tables() if table.name == "application" for column in table.columns}
    last = LAST.replace("id IN", "a.id IN", 1) if "subject" in columns else "1"
    for row in _select(reader, _RAN.format(last=last), session) if columns else ():
        candidates = [text.split(" ", 3) for text in _texts(row["candidates"])]
        named = [(c[0], c[1]) for c in candidates if len(c) == 4 and c[0] != "-"]
        sure = row["version"] if row["verdict"] == "verified" else None
        own = _reference(row["guest"], sorted(set(named)), sure) if named else f"{row['guest']}/file{row['path']}"
        place = found.setdefault(row["guest"], {})
        component = place.get(own)
        if component is None:
            component = place[own] = _component(row, own, sorted({tuple(c[:3]) for c in candidates if len(c) == 4}))
        places = component["evidence"]["occurrences"]
        if len(places) < _MOST_PLACES:
            places.append(_occurrence(row))
        if not row["path"].split("/")[-1].partition(".so")[1]:
            component["type"] = "application" if named else "file"
    return {guest: list(parts.values()) for guest, parts in found.items()}


def _component(row: Row, own: str, candidates: list[tuple[str, ...]]) -> Row:
    windows = _WINDOWS.search(row["path"]) is not None
    packaged = [c for c in candidates if _DEBIAN_NAME.fullmatch(c[0]) and c[1] != "-" and not windows]
    share = row["known"] / row["pages"] if row["pages"] and row["known"] is not None else 0.0
    identities = [
        {
            "field": "purl",
            "concludedValue": purl(package, version, None if architecture == "-" else architecture),
            "confidence": round(share / len(candidates), 4),
            "methods": [
                {
                    "technique": "hash-comparison",
                    "confidence": round(share, 4),
                    "value": f"{row['known']} of {row['pages']} pages of code in memory",
                }
            ],
        }
        for package, version, architecture in packaged
    ]
    name = row["package"] or (packaged[0][0] if packaged else row["path"].split("/")[-1] or row["path"])
    component: Row = {"type": "library" if row["package"] or packaged else "file", "bom-ref": own, "name": name}
    if row["version"] and row["verdict"] == "verified":
        component["version"] = row["version"]
        if packaged:
            architectures = {c[2] for c in packaged}
            component["purl"] = purl(name, row["version"], architectures.pop() if len(architectures) == 1 else None)
    component["properties"] = [{"name": "drakmet:verdict", "value": str(row["verdict"])}]
    component["evidence"] = {"occurrences": []} | ({"identity": identities} if identities else {})
    return component


def _occurrence(row: Row) -> Row:
    said = f"{row['known'] or 0} of {row['pages'] or 0} pages of its code are known"
    others = f" and {row['processes'] - 1} more processes" if row["processes"] > 1 else ""
    who = f"; pid {row['pid']}{others}" if row["pid"] is not None else ""
    return {"location": row["path"], "additionalContext": said + who}


def _vulnerability(row: Row, number: int) -> Row:
    entry: Row = {"bom-ref": f"hole-{number}", "id": row["hole"]}
    if row["rests_on"]:
        entry["source"] = {"name": row["rests_on"]}
    if row["urgency"] in _SEVERITY:
        entry["ratings"] = [{"severity": _SEVERITY[row["urgency"]], "method": "other"}]
    if row["fixed_in"] and row["state"] in ("affected", "may be affected"):
        entry["recommendation"] = f"Update {row['source'] or row['package']} to {row['fixed_in']} and start it again."
    detail = f"drakmet: {row['state']}" + (f"; {row['why']}" if row["why"] else "")
    entry["analysis"] = {"state": _ANALYSIS[row["state"]], "detail": detail}
    if row["state"] == "affected" and row["fixed_in"]:
        entry["analysis"]["response"] = ["update"]
    entry["affects"] = []
    return entry


def _reference(guest: int, versions: Iterable[tuple[str, str]], sure: str | None) -> str:
    """Return the name of a component in the bill: its guest, what it may be, and whether it is that for sure."""
    told = "|".join(f"{package}@{version}" for package, version in versions)
    return f"{guest}/{told}" + ("" if sure else "?")


def _versions(value: Any) -> list[tuple[str, str]]:
    return sorted({(text.partition(" ")[0], text.partition(" ")[2]) for text in _texts(value)})


def _texts(value: Any) -> Iterator[str]:
    yield from map(str, value) if isinstance(value, list) else ()
