# SPDX-License-Identifier: GPL-2.0-or-later
"""A run: a folder with what was asked for, the merged file, and the hosts' own files; it can be gone on with."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import TYPE_CHECKING, Any

import msgspec

from drakmet import __version__
from drakmet.fleet.errors import FleetError
from drakmet.lab.places import write_private
from drakmet.store import Reader

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_FILE = "run.json"
_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}")
_LAST = """
SELECT * FROM fleet_host WHERE id IN (SELECT max(id) FROM fleet_host GROUP BY name) ORDER BY name
"""
# Of the scans of a guest of a host, the last one tells whether it could be read.
_UNREAD = """
SELECT h.name AS host, s.source AS source, s.outcome AS outcome FROM session AS s
JOIN guest AS g ON g.id = s.guest JOIN host AS h ON h.id = g.host
WHERE s.id IN (SELECT max(a.id) FROM session AS a JOIN guest AS b ON b.id = a.guest GROUP BY b.host, a.source)
AND s.outcome IS NOT 'done' ORDER BY s.id
"""
_GUESTS = """
SELECT h.name AS host, count(DISTINCT s.source) AS guests FROM session AS s
JOIN guest AS g ON g.id = s.guest JOIN host AS h ON h.id = g.host GROUP BY h.name
"""
_PLACES = """
SELECT s.id AS session, h.name AS host, s.source AS source FROM session AS s
JOIN guest AS g ON g.id = s.guest JOIN host AS h ON h.id = g.host
"""


class Settings(msgspec.Struct):
    """What a run was asked for: ``arguments`` are Ansible's, without passwords; seconds and bytes."""

    arguments: list[str]
    directory: str
    hosts: list[str] = []
    name: str = msgspec.field(default_factory=lambda: f"result-{secrets.token_hex(8)}")
    """What a result is called on the hosts: this run's and no other's."""
    remote: str = "/var/cache/drakmet-fleet"
    deadline: float = 600.0
    retries: int = 1
    longest: int = 512 << 20
    live: bool = False
    keep: bool = True
    plugins: list[str] = []
    identity: str | None = None
    drakmet: str = __version__


class Run:
    """The folder of a run."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings
        self.database = folder / "fleet.db"
        self.incoming = folder / "incoming"
        self.ansible = folder / "ansible"

    @classmethod
    def begin(cls, folder: Path, settings: Settings) -> Run:
        """Make the folder of a new run; raise `FleetError` if that cannot be."""
        run = cls(folder, settings)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for part in (run.incoming, run.ansible, folder / "results"):
                part.mkdir(mode=0o700, exist_ok=True)
            write_private(folder / _FILE, msgspec.json.format(msgspec.json.encode(settings)).decode())
        except OSError as error:
            raise FleetError(f"the run's folder cannot be made: {error.strerror}", where=str(folder)) from error
        return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Return a run that was begun; raise `FleetError` if there is none."""
        try:
            settings = msgspec.json.decode((folder / _FILE).read_bytes(), type=Settings)
        except FileNotFoundError as error:
            raise FleetError(
                "there is no run of a fleet", where=str(folder), hint="give the folder that `fleet scan` named"
            ) from error
        except (OSError, msgspec.DecodeError) as error:
            raise FleetError(f"what was asked for cannot be read: {error}", where=str(folder / _FILE)) from error
        return cls(folder, settings)

    @staticmethod
    def is_begun(folder: Path) -> bool:
        """Tell whether a run was begun in a folder."""
        return (folder / _FILE).exists()

    def file_of(self, host: str) -> str:
        """Return the name of the file that is fetched from a host: nothing in it is the host's choice."""
        safe = host if _SLUG.fullmatch(host) else hashlib.sha256(host.encode()).hexdigest()[:40]
        return f"{safe}.db.gz"

    def keep_result(self, host: str) -> Path:
        """Put the file that was fetched from a host to those of earlier attempts, and return its name."""
        name = self.file_of(host)
        folder = self.folder / "results" / name.removesuffix(".db.gz")
        folder.mkdir(mode=0o700, exist_ok=True)
        return (self.incoming / name).rename(folder / f"{len(list(folder.iterdir())) + 1}.db.gz")

    def rows(self) -> list[dict[str, Any]]:
        """Return a row a host: its last attempt, or that there was none yet, and the guests of all attempts."""
        last = {row["name"]: row for row in self._select(_LAST)}
        unread = self.unread()
        for row in self._select(_GUESTS):
            if row["host"] in last:
                last[row["host"]] |= {"guests": row["guests"], "failed_guests": len(unread.get(row["host"], ()))}
        nothing: dict[str, Any] = dict.fromkeys(next(iter(last.values()), ()))
        names = [*self.settings.hosts, *(name for name in last if name not in set(self.settings.hosts))]
        return [last.get(name) or {**nothing, "name": name, "outcome": "not yet"} for name in names]

    def unread(self) -> dict[str, list[str]]:
        """Return for each host the guests whose last scan failed, as URIs."""
        found: dict[str, list[str]] = {}
        for row in self._select(_UNREAD):
            found.setdefault(row["host"], []).append(row["source"])
        return found

    def missing(self) -> dict[str, str]:
        """Return why hosts could not be read, or not wholly, by their names."""
        return {
            row["name"]: f"{row['outcome']}: {row['reason']}" if row.get("reason") else row["outcome"]
            for row in self.rows()
            if row["outcome"] not in ("done", "gaps")
        }

    def places(self) -> dict[int | None, str]:
        """Return host and guest of each session, for people."""
        return {row["session"]: f"{row['host']} {row['source']}" for row in self._select(_PLACES)}

    def left(self) -> dict[str, list[str]]:
        """Return the hosts that are still to be scanned, each with its guests that are; none means all of them."""
        unread = self.unread()
        left: dict[str, list[str]] = {}
        for row in self.rows():
            if row["outcome"] in ("done", "gaps"):
                continue
            # Of a host that was read before, in whatever the last attempt ended, only what was not read is missing.
            left[row["name"]] = [uri for uri in unread.get(row["name"], ()) if is_uri(uri)]
        return left

    def _select(self, sql: str) -> Iterable[dict[str, Any]]:
        if not self.database.exists():
            return []
        with Reader(self.database) as reader:
            known = {table.name for table in reader.tables()}
            if "fleet_host" not in known:
                return []
            return list(reader.select(sql, seconds=120.0)[1])


def is_uri(text: str) -> bool:
    """Tell whether a host's word for one of its guests may be used as what to scan there."""
    return text.startswith(("xen:", "image:", "vmi:")) and len(text) < 1000
