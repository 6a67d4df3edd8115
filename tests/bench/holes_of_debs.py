# SPDX-License-Identifier: GPL-2.0-or-later
"""Real packages: what their changelogs say of an older version, against the difference of the two changelogs.

    apt-get download libssl3=3.0.17-1~deb12u2 libssl3=3.0.22-1~deb12u2 ...
    python tests/bench/holes_of_debs.py *.deb

Each pair of versions of one source is compared: what the newer one's changelog has above the older one must be
affected, or may be, in the older one, and fixed in the newer. Prints a line a pair; ends with 1 if one is wrong.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from drakmet.holes import versions
from drakmet.holes.book import Account
from drakmet.holes.changelogs import Changelogs
from drakmet.holes.opinion import State, Version
from drakmet.identity import Identities, deb


def main(files: list[str]) -> int:
    """Compare all pairs."""
    packages: dict[str, dict[str, str]] = {}
    wrong = 0
    with tempfile.TemporaryDirectory() as folder, Identities.open(Path(folder) / "pages.db", create=True) as identities:
        begun = time.process_time()
        for file in files:
            identities.add(Path(file))
            package, _ = deb.read(Path(file).read_bytes())
            packages.setdefault(package.source, {})[package.source_version] = package.name
        print(f"{len(files)} packages added: {time.process_time() - begun:.1f} s CPU")
        asked = Changelogs(identities.lines_of, Account("pages.db"))
        for source, known in sorted(packages.items()):
            ordered = sorted(known, key=lambda one: versions.key(one) or versions.LEAST)
            for old, new in itertools.combinations(ordered, 2):
                lines = identities.lines_of(source)
                between = set(itertools.takewhile(lambda one, old=old: one != old, lines.down(new)))
                named = {hole for one in between for hole in lines.fixes.get(one, ())}
                said = {o.hole: o.state for o in asked.about(Version(known[old], old, source, old))}
                after = {o.hole: o.state for o in asked.about(Version(known[new], new, source, new))}
                bad = [h for h in named if said[h] not in (State.AFFECTED, State.MAYBE) or after[h] is not State.FIXED]
                counts = Counter(said[hole].value for hole in named)
                told = ", ".join(f"{number} {state}" for state, number in sorted(counts.items())) or "no hole named"
                print(f"{source}: {old} lacks of {new}: {told}; wrong: {len(bad)}")
                wrong += len(bad)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
