# SPDX-License-Identifier: GPL-2.0-or-later
"""The same image read by drakmet and by Volatility 3: is what they find the same, and how long does it take?

    python tests/bench/scan_against_volatility.py IMAGE --vol VENV/bin/vol --isf DIRECTORY [--runs 7] [--cold 1]
        [--prepare COMMAND...]

Volatility is no dependency of drakmet's: install it in an environment of its own, and drakmet in another, for what else
is installed makes the start of either slower. It needs a profile of the guest's kernel (ISF) in DIRECTORY; with
--prepare (all that follows; {image} and {isf} stand for the paths) the script makes it and counts that, too. Times are
medians of CPU seconds of the whole program, from its start, and of wall-clock seconds in brackets: a busy machine makes
the latter longer. "cold" begins without any symbols kept of earlier runs, "warm" with them; both programs have their
bytecode, as they have once they are installed, and take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LIST = """
import sys, json
from drakmet.guest.linux import LinuxGuest
from drakmet.sources.images import ImageSource
source = ImageSource(sys.argv[1])
guest = LinuxGuest(source.kernel())
found = [guest.process(task) for task in guest.tasks()]
print(json.dumps([[one.tgid, one.ppid, one.comm] for one in found]))
"""


def run(command: list[str], **environment: str) -> tuple[float, float, str]:
    """Return CPU seconds, wall seconds and output of a command."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1, 3):
        raise SystemExit(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return cpu, time.monotonic() - start, done.stdout


def query(database: Path, sql: str) -> list[tuple[Any, ...]]:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(sql).fetchall()


def volatility_sockets(rows: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
    """Return internet sockets as (pid, descriptor, protocol, near and far address and port)."""
    found = set()
    for row in rows:
        if row["Family"] in ("AF_INET", "AF_INET6") and row["PID"] == row["TID"]:
            near, far = (row["Source Addr"], row["Source Port"]), (row["Destination Addr"], row["Destination Port"])
            found.add((row["PID"], row["FD"], row["Proto"].lower(), *map(_plain, (*near, *far))))
    return found


def _plain(value: Any) -> str:
    text = "" if value is None else str(value)
    return "" if text in ("0.0.0.0", "::", "0", "N/A", "-") else text  # noqa: S104 - an address to leave out


def our_sockets(database: Path) -> set[tuple[Any, ...]]:
    sql = """SELECT p.pid, fd, protocol, local_address, local_port, address, port FROM open_socket
             JOIN process p ON p.id = open_socket.process WHERE family IN ('inet', 'inet6')"""
    return {(pid, fd, protocol, *map(_plain, rest)) for pid, fd, protocol, *rest in query(database, sql)}


def differ(what: str, ours: set[Any], theirs: set[Any]) -> None:
    print(f"{what}: {len(ours & theirs)} the same, {len(ours - theirs)} only here, {len(theirs - ours)} only there")
    for one in sorted(ours - theirs, key=str)[:5]:
        print("   only here ", one)
    for one in sorted(theirs - ours, key=str)[:5]:
        print("   only there", one)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--vol", required=True)
    parser.add_argument("--isf", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=7, help="how many warm runs of each")
    parser.add_argument("--cold", type=int, default=1, help="how many cold runs of each")
    parser.add_argument("--prepare", nargs=argparse.REMAINDER, default=[])
    options = parser.parse_args()
    image = str(options.image.resolve())
    prepared = 0.0, 0.0
    if options.prepare:
        words = [word.format(image=image, isf=options.isf) for word in options.prepare]
        prepared = run(words)[:2]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(work / "bytecode")
        mine, vols = [sys.executable, "-c", LIST, image], _vol(options, image, "linux.pslist")
        run(mine, XDG_CACHE_HOME=str(work / "ours"))
        run([options.vol, "-h"], XDG_CACHE_HOME=str(work / "theirs"))
        ours: dict[str, list[tuple[float, float, str]]] = {"cold": [], "warm": []}
        theirs: dict[str, list[tuple[float, float, str]]] = {"cold": [], "warm": []}
        for kind, times in (("cold", options.cold), ("warm", options.runs)):
            for _ in range(times):
                if kind == "cold":
                    shutil.rmtree(work / "ours", ignore_errors=True)
                    shutil.rmtree(work / "theirs", ignore_errors=True)
                ours[kind].append(run(mine, XDG_CACHE_HOME=str(work / "ours")))
                theirs[kind].append(run(vols, XDG_CACHE_HOME=str(work / "theirs")))
        cache = {"XDG_CACHE_HOME": str(work / "theirs")}
        modules = run(_vol(options, image, "linux.lsmod"), **cache)
        sockets = run(_vol(options, image, "linux.sockstat"), **cache)
        database = work / "scan.db"
        scan = [sys.executable, "-m", "drakmet", "scan", f"image:{image}", "--db", str(database), "--no-rules"]
        whole = run(scan, XDG_CACHE_HOME=str(work / "ours"))
        listed = {tuple(one) for one in json.loads(ours["cold"][0][2])}
        rows = json.loads(theirs["cold"][0][2])
        differ("processes", listed, {(row["PID"], row["PPID"], row["COMM"]) for row in rows})
        wanted = {(row["Module Name"], row["Offset"] & (1 << 48) - 1) for row in json.loads(modules[2])}
        loaded = {name for (name,) in query(database, "SELECT name FROM kernel_module")}
        differ("modules", loaded, {name for name, _ in wanted})
        differ("sockets", our_sockets(database), volatility_sockets(json.loads(sockets[2])))
    print(f"{'to the process list':<28} {'drakmet':>18} {'Volatility 3':>18}  times")
    for kind in ("cold", "warm"):
        _line(f"{kind}, profile not counted", median(ours[kind]), median(theirs[kind]))
    if options.prepare:
        both = tuple(one + two for one, two in zip(median(theirs["cold"]), prepared, strict=True))
        _line("cold, profile counted in", median(ours["cold"]), both)
    every = tuple(median(theirs["warm"])[at] + modules[at] + sockets[at] for at in (0, 1))
    _line("and modules and sockets, warm", whole, every)


def median(runs: list[tuple[float, float, str]]) -> tuple[float, float]:
    """Return the medians of CPU and wall seconds."""
    return statistics.median(one[0] for one in runs), statistics.median(one[1] for one in runs)


def _vol(options: argparse.Namespace, image: str, plugin: str) -> list[str]:
    return [options.vol, "-q", "-r", "json", "-f", image, "-s", str(options.isf), plugin]


def _line(what: str, ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> None:
    shown = (f"{one[0]:.3f} s ({one[1]:.1f})" for one in (ours, theirs))
    print(f"{what:<28} {next(shown):>18} {next(shown):>18}  {theirs[0] / ours[0]:.1f}")


if __name__ == "__main__":
    main()
