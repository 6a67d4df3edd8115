# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of real packages run in a guest: each is named with its true version in the set, in a watch and a scan.

What is true is what the packages say that the guest's root was unpacked from. Then programs are replaced by those of an
older release while the guest runs, and run again.
"""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest
from lab.watching import DATABASE, watching

from drakmet.identity import Identities, code, deb
from drakmet.identity.filling import Filler
from drakmet.lab.archive import Archive
from drakmet.lab.client import Upload
from drakmet.lab.places import find_places
from drakmet.lab.progress import Progress
from drakmet.lab.recipes import GUEST, GUEST_RELEASE
from drakmet.naming.records import LAST

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from drakmet.lab.client import Agent
    from drakmet.lab.hosts import Host

pytestmark = pytest.mark.lab

OLDER = "bullseye"
REPLACED = (
    "coreutils", "sed", "findutils", "gzip", "tar", "mawk", "hostname", "netcat-openbsd", "strace", "wget",
    "util-linux", "libc-bin",
)  # fmt: skip
"""Packages whose older builds run on the newer libraries."""
PAGES = "/root/pages.db"
WATCH = ("--plugin", "execution-pages", "--identity", PAGES, "--no-rules")
HELD = """
cat; tac; sort; wc; head -n 99; tail -n 5; cut -c1; tr a b; fold; fmt; nl; od; base64; base32; basenc --base16; md5sum
sha1sum; sha224sum; sha256sum; sha384sum; sha512sum; b2sum; cksum; sum; uniq; paste; expand; unexpand; pr; ptx; shuf
split -l 100000 - /tmp/split; tsort; csplit -s -f /tmp/csplit - 5; comm - /etc/hostname; join - /etc/hostname
tee /dev/null; dd of=/dev/null; numfmt; factor; grep x; sed p; mawk 1; gzip -c; tar -t; xargs echo; bash; dash
busybox cat; python3.11 -c "input()"; openssl dgst -sha256; sleep 100000; timeout 99999 sleep 99998
watch -n 1000 true; vmstat 1000; rev; iconv -f utf8 -t latin1; ip monitor; wget -q -i - -O /dev/null
flock /tmp/lock sleep 99997; pidwait nobody-is-called-so; more; date -f -; du --files0-from=-; cp /dev/stdin /tmp/copy
dircolors -; mcookie -f -; shred -; top -b -d 1000; nc.openbsd -l 127.0.0.1 4711; find / -xdev -name x -files0-from -
strace -o /dev/null sleep 99996; sysctl -p -; ss -E; bridge monitor; tc monitor; nice cat; env cat
"""
"""Programs that wait for input that never comes, or for a time that does not pass."""
_HOLD = """
rm -f /root/hold; mkfifo /root/hold
setsid sh -c 'exec sleep 99995 > /root/hold' < /dev/null > /dev/null 2>&1 &
"""
AT_LEAST = 60
BEGUN = 600
"""Wall seconds that all of them may need to begin."""


class Build(NamedTuple):
    """The package and version that a file is of."""

    package: str
    version: str


class Truth:
    """The files of packages with code, by their paths once /usr was merged, and a database of all their pages."""

    def __init__(self, folder: Path) -> None:
        places, progress = find_places(), Progress()
        self.now = self._of(Archive(GUEST_RELEASE, places.cache, progress), GUEST, closure=True)
        self.before = self._of(Archive(OLDER, places.cache, progress), REPLACED, closure=False)
        self.database = folder / "pages.db"
        with Identities.open(self.database, create=True) as identities:
            filler = Filler(identities)
            for path in (*self.now, *self.before):
                filler.add(path)
            filler.compact()
            assert filler.filled.failed == 0, filler.filled.problems

    @staticmethod
    def _of(archive: Archive, names: Iterable[str], *, closure: bool) -> list[Path]:
        return archive.fetch(archive.resolve(list(names), closure=closure))

    def files(self, *, older: bool = False) -> Iterator[tuple[str, Build, bytes]]:
        """Yield path, package and content of each program and library."""
        for path in self.before if older else self.now:
            package, bodies = deb.read(path.read_bytes())
            for name, body in bodies:
                if code.begins(body):
                    merged = name if name.startswith("/usr/") else "/usr" + name
                    yield merged, Build(package.name, package.version), body


class Named(NamedTuple):
    """What drakmet said of a file."""

    path: str
    verdict: str
    package: str | None
    version: str | None
    candidates: list[str]
    pages: int


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return Truth(tmp_path_factory.mktemp("truth"))


@pytest.fixture(scope="module")
def ready(lab_host: Host, lab_guest: Agent, truth: Truth) -> Agent:
    """Return the guest, with dom0 having the database."""
    lab_host.agent.push([Upload(PAGES, truth.database.read_bytes(), 0o600, 0)])
    lab_guest.run(["sh", "-c", _HOLD], check=True)
    return lab_guest


def programs() -> list[str]:
    return [one.strip() for line in HELD.strip().splitlines() for one in line.split(";") if one.strip()]


@contextmanager
def held(guest: Agent, commands: Iterable[str]) -> Iterator[dict[str, str]]:
    """Have programs run; yield the files they execute, by process id, as the guest says."""
    script = "".join(f"setsid {one} < /root/hold > /dev/null 2>&1 & echo $!\n" for one in commands)
    guest.run(["sh", "-c", f"({script}) > /root/held"], check=True)
    try:
        yield settled(guest)
    finally:
        guest.run(["sh", "-c", "kill -9 $(cat /root/held) 2> /dev/null; true"])


def settled(guest: Agent) -> dict[str, str]:
    """Return the files that the held programs execute, once all have begun and those that end at once have ended."""
    ask = 'for p in $(cat /root/held); do echo "$p $(readlink /proc/$p/exe)"; done'
    before: dict[str, str] = {}
    until = time.monotonic() + BEGUN
    while True:
        said = guest.run(["sh", "-c", ask], check=True).stdout.decode()
        running = {pid: exe for pid, _, exe in (line.partition(" ") for line in said.splitlines()) if exe}
        if running and running == before:
            return running
        assert time.monotonic() < until, running
        before = running
        time.sleep(5)


def named(host: Host, folder: Path) -> dict[str, list[Named]]:
    """Fetch what the last watch or scan stored, by path: what it knew at last."""
    target = folder / "applications.db"
    host.agent.pull(DATABASE, target)
    found: dict[str, list[Named]] = {}
    query = f"SELECT path, verdict, package, version, candidates, pages FROM application WHERE {LAST}"  # noqa: S608
    with closing(sqlite3.connect(target)) as connection:
        for path, verdict, package, version, candidates, pages in connection.execute(query):
            row = Named(path, verdict, package, version, json.loads(candidates or "[]"), pages)
            found.setdefault(path, []).append(row)
    return found


def agree(found: dict[str, list[Named]], true: dict[str, Build], ran: Iterable[str]) -> tuple[int, int]:
    """See that all that ran is named truly, and nothing falsely; return how many, and how many in one version."""
    missing = sorted(path for path in set(ran) if path not in found)
    assert missing == []
    single = total = 0
    for path, rows in found.items():
        if path not in true:
            continue
        for row in rows:
            if row.verdict == "unverifiable":
                continue
            total += 1
            single += row.version is not None
            assert row.verdict == "verified", row
            assert any(one.split(" ")[:2] == list(true[path]) for one in row.candidates), (row, true[path])
            assert row.version in (None, true[path].version), (row, true[path])
    return total, single


def test_what_runs_is_named_while_it_is_watched(lab_host: Host, ready: Agent, truth: Truth, tmp_path: Path) -> None:
    true = {path: package for path, package, _ in truth.files()}
    with watching(lab_host.agent, lab_host.guest_names()[0], *WATCH) as watch, held(ready, programs()) as running:
        ran = set(running.values())
    assert watch.code in (0, 3), watch.said
    assert len(ran & true.keys()) >= AT_LEAST, sorted(ran)
    total, single = agree(named(lab_host, tmp_path), true, ran & true.keys())
    print(f"watch: {len(ran)} programs ran; {total} files named, {single} of them in one version")


def test_what_runs_is_named_by_a_scan(lab_host: Host, ready: Agent, truth: Truth, tmp_path: Path) -> None:
    true = {path: package for path, package, _ in truth.files()}
    with held(ready, programs()) as running:
        ran = set(running.values())
        scan(lab_host)
    assert len(ran & true.keys()) >= AT_LEAST, sorted(ran)
    total, single = agree(named(lab_host, tmp_path), true, ran & true.keys())
    print(f"scan: {len(ran)} programs ran; {total} files named, {single} of them in one version")


def test_what_was_replaced_while_the_guest_ran_is_named_by_what_it_is_now(
    lab_host: Host, ready: Agent, truth: Truth, tmp_path: Path
) -> None:
    true = {path: package for path, package, _ in truth.files()}
    there = set(ready.run(["sh", "-c", "find /usr/bin /usr/sbin -type f"], check=True).stdout.decode().split())
    older = {path: (package, body) for path, package, body in truth.files(older=True) if path in there}
    assert len({package for package, _ in older.values()}) >= 10
    assert all(true[path] != package for path, (package, _) in older.items() if path in true)
    ready.push([Upload(path, body, 0o755, 0) for path, (_, body) in older.items()])
    true |= {path: package for path, (package, _) in older.items()}
    with watching(lab_host.agent, lab_host.guest_names()[0], *WATCH) as watch, held(ready, programs()) as running:
        ready.run(["sh", "-c", "hostname; getconf PAGE_SIZE; nc.openbsd -h; true"])
        ran = set(running.values()) & older.keys()
    assert watch.code in (0, 3), watch.said
    assert len({true[path].package for path in ran}) >= 8, sorted(ran)
    watched = named(lab_host, tmp_path)
    with held(ready, programs()) as running:
        scan(lab_host)
    assert set(running.values()) >= ran
    for name, found in (("watch", watched), ("scan", named(lab_host, tmp_path))):
        # Processes that ran before have the old files mapped still; these are deleted now, and told of as such.
        total, single = agree({path: rows for path, rows in found.items() if path in ran}, true, ran)
        print(f"replaced, {name}: {len(ran)} programs ran; {total} named, {single} of them in one version")


def scan(host: Host) -> None:
    """Scan the guest in dom0."""
    guest = host.guest_names()[0]
    host.agent.run(["sh", "-c", f"rm -f {DATABASE}*"], check=True)
    ended = host.agent.run(["drakmet", "scan", f"xen:{guest}", "--identity", PAGES, "--db", DATABASE, "--no-rules"])
    assert ended.returncode in (0, 3), ended.stderr.decode()
