# SPDX-License-Identifier: GPL-2.0-or-later
"""Are versions told apart that lie side by side in Debian's archive, and is the true one always among those named?

Run it by hand: ``python tests/bench/version_pairs.py [--pairs 200] [--releases bookworm,trixie,sid,bullseye]``. It
takes pairs of versions of one package from the archive (first those that one release has side by side, as its security
updates, then those of neighbouring releases), makes one database of all, and judges each file of each package as if it
ran: by all of its pages, by some, by one, and with one page changed. Packages are kept under the lab's cache.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from drakmet.identity import Identities, Verdict, code, deb
from drakmet.identity.filling import Filler
from drakmet.lab.archive import Archive, Package
from drakmet.lab.places import find_places
from drakmet.lab.progress import Progress
from drakmet.lab.run import run

RELEASES = "bookworm,trixie,sid,bullseye"
LARGEST = 3_000_000  # bytes of a package: two hundred pairs are to be a few hundred megabytes


class Offered(NamedTuple):
    """A version of a package that a release's archive has."""

    release: str
    name: str
    version: str
    size: int


class Pair(NamedTuple):
    """Two versions of one package."""

    old: Offered
    new: Offered


def offered(archive: Archive) -> list[Offered]:
    """Return all versions of small packages for amd64 that have code for the C library."""
    archive._update(refresh=False)
    found = []
    for file in sorted((archive._folder / "state/lists").glob("*_Packages*")):
        text = run(["/usr/lib/apt/apt-helper", "cat-file", file])
        for stanza in text.split("\n\n"):
            fields = dict(re.findall(r"^(\S+): (.*)$", stanza, re.MULTILINE))
            if fields.get("Architecture") != "amd64" or "libc6" not in fields.get("Depends", ""):
                continue
            one = Offered(archive.release, fields["Package"], fields["Version"], int(fields["Size"]))
            if one.size <= LARGEST and not one.name.endswith(("-dev", "-dbg", "-dbgsym")):
                found.append(one)
    return found


def choose(everything: list[Offered], wanted: int) -> list[Pair]:
    """Return pairs of versions, those first that are nearest: the same upstream version, the same release."""
    by_name: dict[str, dict[str, Offered]] = {}
    for one in everything:
        by_name.setdefault(one.name, {}).setdefault(one.version, one)
    pairs = [
        Pair(old, new) for versions in by_name.values() for old, new in pairwise(list(versions.values()))
    ]  # fmt: skip
    chance = random.Random(1)  # noqa: S311 - the same pairs each time
    chance.shuffle(pairs)
    return sorted(pairs, key=_distance)[:wanted]


def _distance(pair: Pair) -> int:
    same_upstream = pair.old.version.rsplit("-", 1)[0] == pair.new.version.rsplit("-", 1)[0]
    return 2 * (pair.old.release != pair.new.release) + (not same_upstream)


def fetch(archives: dict[str, Archive], pairs: list[Pair]) -> dict[Offered, Path]:
    """Download what is not there yet."""
    files: dict[Offered, Path] = {}
    for release, archive in archives.items():
        wanted = sorted({one for pair in pairs for one in pair if one.release == release})
        packages = [
            Package(one.name, one.version, f"{one.name}_{one.version.replace(':', '%3a')}_amd64.deb", "")
            for one in wanted
        ]
        for start in range(0, len(packages), 40):
            paths = archive.fetch(packages[start : start + 40])
            files.update(zip(wanted[start : start + 40], paths, strict=True))
    return files


class Tally:
    """What was counted of one way to look at files."""

    def __init__(self) -> None:
        self.looks = self.missing = self.wrong = self.single = 0
        self.verdicts: Counter[str] = Counter()

    def count(
        self, verdict: Verdict, versions: frozenset[tuple[str | None, str | None]], true: tuple[str, str]
    ) -> None:
        """Count one answer; a version is named only by a verdict of verified with one member."""
        self.looks += 1
        self.verdicts[verdict.value] += 1
        self.missing += true not in versions
        self.single += len(versions) == 1
        self.wrong += len(versions) == 1 and true not in versions

    def line(self, name: str) -> str:
        """Return it as a line of the table."""
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(self.verdicts.items()))
        share = 100 * self.single / self.looks if self.looks else 0
        return f"{name:<22}{self.looks:>8}{self.missing:>10}{self.wrong:>8}{share:>9.1f} %   {verdicts}"


def told_apart_by_nothing(identities: Identities, pairs: list[Pair]) -> int:
    """Return the number of pairs whose versions have exactly the same code."""
    query = (
        "SELECT DISTINCT code, path FROM file JOIN package ON package.id = file.package WHERE name = ? AND version = ?"
    )

    def codes(one: Offered) -> list[tuple[int, str]]:
        return sorted(identities.connection.execute(query, (one.name, one.version)))

    return sum(codes(pair.old) == codes(pair.new) for pair in pairs)


def judge(identities: Identities, files: dict[Offered, Path]) -> dict[str, Tally]:
    """Judge each file of each package in several ways."""
    chance = random.Random(2)  # noqa: S311 - the same looks each time
    tallies = {name: Tally() for name in ("package, all pages", "all pages", "half", "8 pages", "1 page", "1 changed")}
    for one, path in files.items():
        package, bodies = deb.read(path.read_bytes())
        true = (package.name, package.version)
        whole: list[frozenset[tuple[str | None, str | None]]] = []
        for _, body in bodies:
            pages = code.read(body).pages if code.begins(body) else []
            if not pages:
                continue
            looks = {
                "all pages": pages,
                "half": chance.sample(pages, -(-len(pages) // 2)),
                "8 pages": chance.sample(pages, min(8, len(pages))),
                "1 page": chance.sample(pages, 1),
            }
            for name, look in looks.items():
                said = identities.judge(look)
                tallies[name].count(said.verdict, said.versions, true)
                if name == "all pages":
                    whole.append(said.versions)
            if len(pages) > 1:
                at = chance.randrange(len(pages))
                said = identities.judge([(n, bytes(16) if i == at else digest) for i, (n, digest) in enumerate(pages)])
                tallies["1 changed"].count(said.verdict, said.versions, true)
        if whole:
            tallies["package, all pages"].count(Verdict.VERIFIED, frozenset.intersection(*whole), true)
        else:
            print(f"no code in {one.name} {one.version}", file=sys.stderr)
    return tallies


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--releases", default=RELEASES)
    options = parser.parse_args()
    progress = Progress()
    cache = find_places().cache / "pairs"
    archives = {release: Archive(release, cache, progress) for release in options.releases.split(",")}
    everything = [one for archive in archives.values() for one in offered(archive)]
    pairs = choose(everything, options.pairs)
    files = fetch(archives, pairs)
    side = sum(pair.old.release == pair.new.release for pair in pairs)
    print(f"{len(pairs)} pairs, {side} of them side by side in one release; {len(files)} packages")
    with tempfile.TemporaryDirectory() as folder, Identities.open(Path(folder) / "pages.db", create=True) as identities:
        filler = Filler(identities, progress.note)
        for path in files.values():
            filler.add(path)
        filler.compact()
        equal = told_apart_by_nothing(identities, pairs)
        print(f"{equal} pairs have the same code in both versions: nothing in memory tells these apart")
        stats = identities.stats()
        print(f"{stats}, {stats['bytes'] / stats['pages']:.1f} bytes a distinct page")
        print(f"{'look':<22}{'answers':>8}{'not in it':>10}{'wrong 1':>8}{'one left':>11}")
        for name, tally in judge(identities, files).items():
            print(tally.line(name))


if __name__ == "__main__":
    main()
