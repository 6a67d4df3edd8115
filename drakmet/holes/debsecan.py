# SPDX-License-Identifier: GPL-2.0-or-later
"""debsecan's data files and reports (debsecan 0.4).

Its data is text, mostly packed by zlib: ``VERSION 1``, then three lists that end with an empty line: holes as
``name,flags,description``; packages as ``package,number of the hole,flags,version,versions``; and binaries of sources.
The first flag is B if the package is a binary one, the second the urgency, the fourth F if there is a fix. The version
is the one that closes the hole in unstable, empty if none does; the versions are those of other releases without it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from drakmet.errors import UsageError
from drakmet.holes import versions
from drakmet.holes.book import NAME, release_of
from drakmet.holes.opinion import Opinion, State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.holes.book import Account, Wanted
    from drakmet.holes.opinion import Version

HEADING: Final = "VERSION 1\n"
_URGENCIES: Final = {"L": "low", "M": "medium", "H": "high"}
_MOST_HOLES: Final = 2_000_000
# --format summary and simple, and the first line of detail, which names no package
LINE: Final = re.compile(r"((?:CVE|TEMP)-[0-9A-Za-z-]{4,64})(?: ([a-z0-9][a-z0-9.+-]+))?(?: \(([^()]*)\))?")
_INSTALLED: Final = re.compile(r"installed: (\S+) (\S+)")
_FIX: Final = re.compile(r"fixed (?:in unstable|on branch): +\S+ (\S+) \((binary|source) package\)")


class _Row(NamedTuple):
    hole: str
    binary: bool
    urgency: str | None
    unstable: str
    others: tuple[str, ...]


class Data:
    """A data file, as far as it is about the packages that are wanted."""

    weak = False

    def __init__(self, text: str, wanted: Wanted, account: Account) -> None:
        account.kind = "debsecan data"
        self._account = account
        self._rows: dict[str, list[_Row]] = {}
        lines = iter(text.removeprefix(HEADING).split("\n"))
        names: list[str] = []
        for line in lines:
            if not line:
                break
            names.append(line.partition(",")[0])
            if len(names) > _MOST_HOLES:
                raise UsageError("it names too many holes", where=account.name)
        for line in lines:
            if not line:
                break
            package = line.partition(",")[0]
            if package in wanted.sources or package in wanted.packages:
                row = self._row(line, names)
                if row is None:
                    account.refuse("a line about a package that is not of the format")
                elif (package in wanted.packages) if row.binary else (package in wanted.sources):
                    self._rows.setdefault(package, []).append(row)
                    account.statements += 1

    def about(self, version: Version) -> Iterator[Opinion]:
        """Yield what the data says of a version."""
        rows = [(row, version.source_version) for row in self._rows.get(version.source, ()) if not row.binary]
        rows += [(row, version.version) for row in self._rows.get(version.package, ()) if row.binary]
        seen: set[str] = set()
        for row, text in rows:
            ours = versions.key(text)
            if ours is not None and row.hole not in seen:
                seen.add(row.hole)
                yield self._judge(row, text, ours)

    def _row(self, line: str, names: list[str]) -> _Row | None:
        parts = line.split(",", 4)
        if len(parts) != 5 or len(parts[2]) != 4 or not (parts[1].isascii() and parts[1].isdigit()):
            return None
        number = int(parts[1]) if len(parts[1]) < 10 else len(names)
        others = tuple(parts[4].split())
        known = [versions.key(one) for one in others] + ([versions.key(parts[3])] if parts[3] else [])
        if number >= len(names) or not NAME.fullmatch(names[number]) or None in known:
            return None
        return _Row(names[number], parts[2][0] == "B", _URGENCIES.get(parts[2][1]), parts[3], others)

    def _judge(self, row: _Row, text: str, ours: versions.Key) -> Opinion:
        basis = self._account.name
        if row.unstable and ours >= (versions.key(row.unstable) or versions.LEAST):
            return Opinion(row.hole, State.FIXED, row.unstable, None, row.urgency, basis)
        same = [one for one in row.others if versions.key(one) == ours]
        if same:
            return Opinion(row.hole, State.FIXED, same[0], None, row.urgency, basis)
        release = release_of(text)
        below = [one for one in row.others if (versions.key(one) or versions.LEAST) < ours]
        above = [one for one in row.others if one not in below]
        branch = next((one for one in above if release is not None and release_of(one) == release), None)
        if any(release_of(one) == release for one in below):
            why = "the version is newer than one without it that the data names, and not named itself"
            return Opinion(row.hole, State.MAYBE, row.unstable or None, why, row.urgency, basis)
        return Opinion(row.hole, State.AFFECTED, branch or row.unstable or None, None, row.urgency, basis)


class Report:
    """What debsecan printed about some machine. Only its detailed form says which versions were installed there."""

    weak = False

    def __init__(self, text: str, wanted: Wanted, account: Account) -> None:
        account.kind = "debsecan report"
        self._account = account
        self._found: dict[str, list[tuple[str, str | None, str | None, str | None]]] = {}
        hole = urgency = None
        fixes: list[str] = []
        installed: tuple[str, str] | None = None
        for line in (*text.split("\n"), ""):
            found = LINE.fullmatch(line.rstrip())
            if (found or not line.strip()) and hole and installed and installed[0] in wanted.packages:
                # Of the versions that close it, the one on the branch is what this machine would get; it comes last.
                self._keep(installed[0], hole, installed[1], fixes[-1] if fixes else None, urgency)
            if found or not line.strip():
                hole, installed, fixes = None, None, []
            if found:
                hole, package, notes = found.groups()
                urgency = next((w for w in ("low", "medium", "high") if f"{w} urgency" in (notes or "")), None)
                if package in wanted.packages:
                    self._keep(package, hole, None, None, urgency)
            elif hole and (seen := _INSTALLED.search(line)):
                installed = seen[1], seen[2]
            elif hole and (seen := _FIX.search(line)) and versions.key(seen[1]) is not None:
                fixes.append(seen[1])
            elif line.strip() and hole is None:
                account.refuse("a line that is not of the format")

    def _keep(self, package: str, hole: str, version: str | None, fixed_in: str | None, urgency: str | None) -> None:
        self._found.setdefault(package, []).append((hole, version, fixed_in, urgency))
        self._account.statements += 1

    def about(self, version: Version) -> Iterator[Opinion]:
        """Yield what the report says of a version."""
        best: dict[str, Opinion] = {}
        for hole, installed, fixed_in, urgency in self._found.get(version.package, ()):
            if installed == version.version:
                best[hole] = Opinion(hole, State.AFFECTED, fixed_in, None, urgency, self._account.name)
            elif hole not in best:
                why = f"the report is about {installed}" if installed else "the report does not say of which version"
                best[hole] = Opinion(hole, State.MAYBE, fixed_in, why, urgency, self._account.name)
        yield from best.values()
