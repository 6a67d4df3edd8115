# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian packages of any release, through apt with a private state: nothing on this machine is installed or changed.

The archive's addresses come from the machine's own apt sources, in which the release's name is replaced; signatures
are checked by apt with the machine's own Debian keys.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import re
import shutil
import time
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING

from drakmet.errors import LabError
from drakmet.lab.places import locked, write_private
from drakmet.lab.run import run

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from drakmet.lab.progress import Progress

_URI_LINE = re.compile(r"^'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+) (?P<hash>\S*)$")
# Package lists older than this are fetched again: long enough for a day's work without the network, short enough for
# security updates to arrive.
LISTS_AGE = 7 * 86400.0


@dataclasses.dataclass(frozen=True, order=True)
class Package:
    """One version of one package: the name of its file tells all three; the hash is the one in the signed index."""

    name: str
    version: str
    file: str
    hash: str


@dataclasses.dataclass(frozen=True)
class Source:
    """A place that packages come from, as apt's deb822 format says it."""

    uris: str
    suite: str
    components: str
    signed_by: str | None = None
    trusted: str | None = None


def machine_release(os_release: Path = Path("/etc/os-release")) -> str:
    """Return the codename of this machine's Debian; raise LabError on another system."""
    fields = dict(
        line.split("=", 1) for line in os_release.read_text().splitlines() if "=" in line and not line.startswith("#")
    )
    if fields.get("ID", "").strip('"') != "debian" or not fields.get("VERSION_CODENAME"):
        raise LabError(
            "the lab builds on Debian only",
            where=str(os_release),
            hint="Use a machine or container with Debian 12 or 13.",
        )
    return fields["VERSION_CODENAME"].strip('"')


def machine_sources(apt: Path = Path("/etc/apt")) -> list[Source]:
    """Read the binary package sources that this machine's apt uses."""
    found: list[Source] = []
    lists = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    for path in lists:
        if path.suffix == ".sources":
            found += _read_deb822(path.read_text())
        elif path.suffix == ".list" and path.is_file():
            found += _read_one_line(path.read_text())
    return found


def _read_deb822(text: str) -> list[Source]:
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        last = ""
        for line in paragraph.splitlines():
            if line.startswith("#"):
                continue
            if line[:1].isspace() and last:
                fields[last] += "\n" + line
            elif ":" in line:
                last, _, value = line.partition(":")
                last = last.strip().lower()
                fields[last] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        found += [
            Source(
                fields.get("uris", ""),
                suite,
                fields.get("components", ""),
                fields.get("signed-by"),
                fields.get("trusted"),
            )
            for suite in fields.get("suites", "").split()
        ]
    return found


def _read_one_line(text: str) -> list[Source]:
    found = []
    for line in text.splitlines():
        match = re.match(
            r"^\s*deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>[^#]*)", line
        )
        if match:
            options = dict(part.split("=", 1) for part in (match["options"] or "").split() if "=" in part)
            found.append(
                Source(
                    match["uri"],
                    match["suite"],
                    match["components"].strip(),
                    options.get("signed-by"),
                    options.get("trusted"),
                )
            )
    return found


def sources_for(release: str, own: str, sources: Iterable[Source]) -> list[Source]:
    """Return the sources of another release: those of this machine's own, with the release's name replaced."""
    kept: dict[tuple[str, str], Source] = {}
    for source in sources:
        suite, _, rest = source.suite.partition("-")
        if suite not in (own, "stable") or rest not in ("", "security") or "main" not in source.components.split():
            continue
        named = dataclasses.replace(source, suite=release + (f"-{rest}" if rest else ""), components="main")
        kept.setdefault((named.uris, named.suite), named)
    if not kept:
        raise LabError(
            f"apt on this machine has no source for {own}",
            where="/etc/apt",
            hint="Add Debian's main archive to /etc/apt/sources.list.d and run `apt-get update`.",
        )
    return list(kept.values())


class Archive:
    """One Debian release, with package lists and downloads of its own under the lab's cache."""

    def __init__(self, release: str, cache: Path, progress: Progress) -> None:
        self.release = release
        self._folder = cache / "apt" / release
        self._debs = cache / "debs"
        self._progress = progress
        self._locks = cache / "resolved"

    def resolve(
        self, packages: Sequence[str], *, closure: bool = True, skip: Sequence[str] = (), refresh: bool = False
    ) -> list[Package]:
        """Return the versions to use of packages, with what they depend on if ``closure``, less what matches ``skip``.

        The answer is kept for a week, so that a warm cache works without the network.
        """
        question = json.dumps([self.release, sorted(packages), closure, sorted(skip)])
        kept = self._locks / f"{_digest(question)}.json"
        if not refresh and kept.exists() and time.time() - kept.stat().st_mtime < LISTS_AGE:
            return [Package(**fields) for fields in json.loads(kept.read_text())["packages"]]
        with locked(self._folder):
            self._update(refresh=refresh)
            verb = ["install", "--no-install-recommends"] if closure else ["download"]
            output = self._apt("-qq", "--print-uris", *verb, *packages)
        found = [parse_uri_line(line) for line in output.splitlines() if line.startswith("'")]
        chosen = sorted(p for p in found if not any(fnmatch.fnmatch(p.name, pattern) for pattern in skip))
        if not chosen:
            raise LabError(f"no package found for {' '.join(packages)}", where=f"archive of {self.release}")
        write_private(kept, json.dumps({"question": question, "packages": [dataclasses.asdict(p) for p in chosen]}))
        return chosen

    def depends(self, package: str) -> list[str]:
        """Return the names a package depends on directly; a meta package's one dependency is what it stands for."""
        kept = self._locks / f"{_digest(json.dumps([self.release, 'depends', package]))}.json"
        if kept.exists() and time.time() - kept.stat().st_mtime < LISTS_AGE:
            return [str(name) for name in json.loads(kept.read_text())]
        with locked(self._folder):
            self._update(refresh=False)
            output = run(["apt-cache", "-c", self._config(), "depends", "--important", package])
        names = re.findall(r"^\s*\|?(?:Pre)?Depends: (\S+)", output, re.MULTILINE)
        write_private(kept, json.dumps(names))
        return names

    def fetch(self, packages: Iterable[Package]) -> list[Path]:
        """Download what is not there yet and return the package files."""
        wanted = list(packages)
        folder = self._debs
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            missing = [p for p in wanted if not (folder / p.file).exists()]
            if missing:
                with self._progress.stage(f"download {len(missing)} packages of {self.release}"), locked(self._folder):
                    self._update(refresh=False)
                    self._download(missing, folder)
        return [folder / p.file for p in wanted]

    def _download(self, missing: Sequence[Package], folder: Path) -> None:
        partial = folder / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        self._apt("-qq", "download", *(f"{p.name}={p.version}" for p in missing), cwd=partial)
        for package in missing:
            got = partial / package.file
            if not got.exists():
                raise LabError(
                    f"apt did not bring {package.file}",
                    hint="Run the command with --refresh: the archive has moved on.",
                )
            got.rename(folder / package.file)

    def _update(self, *, refresh: bool) -> None:
        stamp = self._folder / "updated"
        if not refresh and stamp.exists() and time.time() - stamp.stat().st_mtime < LISTS_AGE:
            return
        config = self._config()
        with self._progress.stage(f"fetch the package lists of {self.release}"):
            run(
                ["apt-get", "-c", config, "-qq", "update"],
                hint="Is the network there? Debian's archive is asked, as /etc/apt says, for another release.",
            )
        stamp.touch()

    def _apt(self, *words: str, cwd: Path | None = None) -> str:
        return run(
            ["apt-get", "-c", self._config(), "-o", "APT::Get::AllowUnauthenticated=false", *words],
            cwd=cwd,
            hint="If the archive has moved on since the lists were fetched, run the command with --refresh.",
        )

    def _config(self) -> Path:
        """Write the private apt configuration and return its path."""
        folder = self._folder
        for part in ("state/lists/partial", "cache/archives/partial"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        sources = sources_for(self.release, machine_release(), machine_sources())
        if self.release not in ("bookworm", "trixie"):
            # Old releases lose their security suite before they lose their place in the archive.
            sources = [s for s in sources if "-" not in s.suite]
        (folder / "lab.sources").write_text("\n".join(_deb822(s) for s in sources))
        config = folder / "apt.conf"
        config.write_text(
            f'Dir::State "{folder}/state";\nDir::State::status "{folder}/status";\nDir::Cache "{folder}/cache";\n'
            f'Dir::Etc::sourcelist "{folder}/lab.sources";\nDir::Etc::sourceparts "/dev/null";\n'
            'Dir::Etc::preferences "/dev/null";\nDir::Etc::preferencesparts "/dev/null";\n'
            'APT::Install-Recommends "false";\nAPT::Sandbox::User "";\nAcquire::Languages "none";\n'
            # The machine's own hooks speak to its own services; this state is none of theirs.
            "#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n"
            "#clear DPkg::Pre-Install-Pkgs;\n"
        )
        return config


def parse_uri_line(line: str) -> Package:
    """Read a line of ``apt-get --print-uris``."""
    match = _URI_LINE.match(line)
    if match is None:
        raise LabError(f"apt printed a line that is not understood: {line[:200]!r}")
    file = match["file"]
    name, version, _ = file.rsplit("_", 2)
    return Package(name, urllib.parse.unquote(version), file, match["hash"])


def _deb822(source: Source) -> str:
    lines = ["Types: deb", f"URIs: {source.uris}", f"Suites: {source.suite}", f"Components: {source.components}"]
    if source.signed_by:
        lines.append(f"Signed-By: {source.signed_by}")
    if source.trusted:
        lines.append(f"Trusted: {source.trusted}")
    return "\n".join(lines) + "\n"


def _digest(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:16]
