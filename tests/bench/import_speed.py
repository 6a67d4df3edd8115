# SPDX-License-Identifier: GPL-2.0-or-later
"""Imports a DRAKVUF log, and lets DRAKVUF Sandbox split it and build its process tree, side by side in one run.

    python3 -m venv peer
    peer/bin/pip install --no-deps drakvuf-sandbox && peer/bin/pip install mslex pydantic-settings
    python tests/bench/import_speed.py peer/bin/python [MEGABYTES] [LOG]

The log is repeated to the size asked for (100 MB). Seconds are CPU of the whole programs, start included; the memory is
the largest that each had. Ours stores all of it in SQLite, chained by hash, and gives the process tree as well.
"""

from __future__ import annotations

import gzip
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

LOG = Path(__file__).parent.parent / "data" / "drakvuf-windows-93b2d184.log.gz"
ROWS = (
    "SELECT (SELECT count(*) FROM drakvuf_syscall) + (SELECT count(*) FROM drakvuf_sysret)"
    " + (SELECT count(*) FROM drakvuf_procmon) + (SELECT count(*) FROM drakvuf_apimon)"
)
PEER = """
import sys, types
from importlib.util import find_spec
from pathlib import Path
# The packages' own imports want all that the sandbox needs to run; what is measured needs none of it.
root = Path(find_spec("drakrun").submodule_search_locations[0])
for name in ("analyzer", "analyzer/postprocessing", "analyzer/postprocessing/plugins"):
    package = types.ModuleType("drakrun." + name.replace("/", "."))
    package.__path__ = [str(root / name)]
    sys.modules[package.__name__] = package
from drakrun.analyzer.postprocessing.plugins.split_drakmon_log import split_drakmon_log
from drakrun.analyzer.postprocessing.plugins.build_process_tree import build_process_tree
context = types.SimpleNamespace(analysis_dir=Path(sys.argv[1]), update_report=lambda report: None)
split_drakmon_log(context)
build_process_tree(context)
"""


def repeated(log: Path, size: int, path: Path) -> int:
    """Write a log again and again until it has so many bytes; return how many lines that are."""
    with gzip.open(log, "rb") as file:
        data = file.read().rstrip(b"\n") + b"\n"
    times = max(1, size // len(data))
    with path.open("wb") as out:
        for _ in range(times):
            out.write(data)
    return times * data.count(b"\n")


def measured(command: list[str]) -> tuple[float, int]:
    """Run a command; return its seconds of CPU and its largest memory in MB."""
    watch = (
        "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL);"
        "u = resource.getrusage(resource.RUSAGE_CHILDREN);"
        "print(u.ru_utime + u.ru_stime, u.ru_maxrss, code)"
    )
    done = subprocess.run([sys.executable, "-c", watch, *command], capture_output=True, text=True, check=True)
    seconds, memory, code = done.stdout.split()
    if code != "0":
        raise SystemExit(f"{command[0]} ended with {code}: {done.stderr}")
    return float(seconds), int(memory) // 1024


def main(peer: str, megabytes: int, log: Path) -> None:
    """Run both and print what it took."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        lines = repeated(log, megabytes << 20, directory / "drakmon.log")
        size = (directory / "drakmon.log").stat().st_size
        database = directory / "ours.db"
        ours = measured(
            [sys.executable, "-m", "drakmet", "import", str(directory / "drakmon.log"), "--db", str(database),
             "--no-rules", "--json"]
        )  # fmt: skip
        with sqlite3.connect(database) as connection:
            (rows,) = connection.execute(ROWS).fetchone()
        theirs = measured([peer, "-c", PEER, str(directory)])
    print(f"{size / 1e6:.0f} MB, {lines} lines; {rows} rows in the four large tables")
    print(f"drakmet import:  {ours[0]:8.2f} s of CPU, {size / 1e6 / ours[0]:6.1f} MB/s, at most {ours[1]} MB of memory")
    print(f"DRAKVUF Sandbox: {theirs[0]:8.2f} s of CPU, {size / 1e6 / theirs[0]:6.1f} MB/s, at most {theirs[1]} MB")
    print(f"ours is {theirs[0] / ours[0]:.1f} times as fast")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100, Path(sys.argv[3]) if len(sys.argv) > 3 else LOG)
