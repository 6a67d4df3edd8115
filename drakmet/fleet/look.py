# SPDX-License-Identifier: GPL-2.0-or-later
"""Looks at the hosts of a fleet and brings nothing there."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from drakmet.fleet.play import Request, list_hosts, playing
from drakmet.fleet.words import meaning

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST = 64 << 20


def request(
    arguments: list[str], directory: Path, variables: Mapping[str, Any], passwords: Mapping[str, str], folder: str = ""
) -> Request:
    """Return what to run to look at hosts; ``folder`` is Ansible's to write to, the system's temporary one if empty."""
    extra = ["--extra-vars", msgspec.json.encode({"drakmet_fleet": dict(variables)}).decode()]
    playbook = str(Path(__file__).with_name("hosts.yml"))
    return Request(folder, playbook, [*arguments, *extra], str(directory), _LONGEST, dict(passwords))


def look(arguments: list[str], directory: Path, remote: str, passwords: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a row a host; raise `FleetError` if Ansible finds none."""
    with tempfile.TemporaryDirectory(prefix="drakmet-fleet-") as folder:
        asked = request(arguments, directory, {"dir": remote}, passwords, folder)
        rows: dict[str, dict[str, Any]] = {host: _row(host) for host in list_hosts(asked)}
        with playing(asked) as events:
            for event in events:
                if (row := rows.get(event.host)) is None:
                    continue
                told = event.result
                row |= {name: told.get(name) for name in ("python", "machine", "xen")} | {"own_name": told.get("name")}
                row["free_mib"] = told["free"] >> 20 if isinstance(told.get("free"), int) else None
                row["bundles"] = len(told.get("bundles") or ())
                row |= {"outcome": "ok", "reason": None}
                if event.kind != "ok":
                    reason = str(told.get("msg") or "it failed without a word")
                    row["outcome"] = told.get("kind") or meaning(reason, down=event.kind == "unreachable")
                    row["reason"] = reason.removeprefix("Task failed: ")
    return list(rows.values())


def _row(host: str) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(("python", "machine", "xen", "own_name", "free_mib", "bundles"))
    return row | {"name": host, "outcome": "not reached", "reason": "Ansible did not come to it"}
