# SPDX-License-Identifier: GPL-2.0-or-later
"""How many pages a second are named on one core, and how large the database is, beside the naive way.

Run it by hand: ``python tests/bench/identity_speed.py SOURCE...`` with packages, or an unpacked root, of at least
300,000 pages. The naive way is a table with a row a page, of SHA-256 in hex, package, version and path, with an index,
asked for one page at a time. Seconds are of CPU, so that what else runs does not count.
"""

from __future__ import annotations

import hashlib
import random
import sqlite3
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from drakmet.identity import Identities
from drakmet.identity.filling import Filler

if TYPE_CHECKING:
    from collections.abc import Callable

_NAIVE = """
CREATE TABLE page (hash TEXT, package TEXT, version TEXT, architecture TEXT, path TEXT, build_id TEXT, number INTEGER);
CREATE INDEX page_hash ON page (hash);
"""


def timed(what: str, count: int, step: Callable[[], object]) -> None:
    """Run a step and print how many of ``count`` it did in a second of CPU."""
    begun = time.process_time()
    step()
    seconds = time.process_time() - begun
    print(f"{what:<58}{count:>9} in {seconds:7.2f} s {count / seconds:>12,.0f} /s", flush=True)


def naive(identities: Identities, path: Path) -> sqlite3.Connection:
    """Make the naive database of the same pages; SHA-256 of our hash stands for that of the page: it is as long."""
    connection = sqlite3.connect(path)
    connection.executescript(_NAIVE)
    query = "SELECT hash, code, number FROM page"
    rows = (
        (hashlib.sha256(digest).hexdigest(), *match[:5], number)
        for digest, code, number in identities.connection.execute(query)
        for match in identities.files(code)
    )
    connection.executemany("INSERT INTO page VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    connection.commit()
    connection.execute("VACUUM")
    return connection


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "pages.db"
        with Identities.open(database, create=True) as identities:
            filler = Filler(identities, lambda text: print(text, file=sys.stderr))
            begun = time.process_time()
            for source in sys.argv[1:]:
                filler.add(Path(source))
            filler.compact()
            print(f"filled in {time.process_time() - begun:.1f} s of CPU: {filler.filled.pages} pages of files")
            stats = identities.stats()
        print(f"{stats}: {database.stat().st_size / stats['pages']:.1f} bytes a distinct page")
        with Identities.open(database) as identities:
            measure(identities, Path(folder) / "naive.db", stats["pages"])


def measure(identities: Identities, path: Path, distinct: int) -> None:
    """Ask both databases for every page, in a random order, and for every file."""
    files: dict[int, list[tuple[int, bytes]]] = defaultdict(list)
    for digest, code, number in identities.connection.execute("SELECT hash, code, number FROM page"):
        files[code].append((number, digest))
    hashes = list({digest for pages in files.values() for _, digest in pages})
    chance = random.Random(1)  # noqa: S311 - the same order each time
    chance.shuffle(hashes)
    total = sum(map(len, files.values()))

    def lookup() -> None:
        for start in range(0, len(hashes), 4096):
            assert len(identities.lookup(hashes[start : start + 4096])) == len(hashes[start : start + 4096])

    timed("hash to package, version, path, place; 4096 at once", distinct, lookup)
    unknown = [bytes(reversed(digest)) for digest in hashes]
    timed("hashes that are not known; 4096 at once", distinct, lambda: _all(identities, unknown))
    order = list(files.values())
    chance.shuffle(order)
    for count, name in ((32, "judged, 32 pages of a file at once"), (1 << 20, "judged, whole files")):
        groups = [pages[at : at + count] for pages in order for at in range(0, len(pages), count)]
        timed(name, total, lambda groups=groups: [identities.judge(pages) for pages in groups])  # type: ignore[misc]

    connection = naive(identities, path)
    print(f"naive database: {path.stat().st_size / distinct:.1f} bytes a distinct page")
    texts = [hashlib.sha256(digest).hexdigest() for digest in hashes]
    query = "SELECT package, version, architecture, path, build_id, number FROM page WHERE hash = ?"
    timed("naive: one query a page", distinct, lambda: [connection.execute(query, (t,)).fetchall() for t in texts])
    connection.close()


def _all(identities: Identities, hashes: list[bytes]) -> None:
    for start in range(0, len(hashes), 4096):
        assert not identities.places(hashes[start : start + 4096])


if __name__ == "__main__":
    main()
