# SPDX-License-Identifier: GPL-2.0-or-later
"""What execute traps cost a guest: instructions a trap, and the slow-down of some loads; on a lab host that is up.

    drakmet lab up --name bench --vcpus 1
    python tests/bench/execute_cost.py --host bench           # --json for machines

In the guest, `loads.c` runs unwatched, then twice while it is watched (plugin execution-pages, records
stored): the first time its pages, and those of the kernel that it needs, run for the first time; the second time they
did before. The emulated machine's time is its count of instructions, so a busy machine falsifies nothing. A trap's cost
is all in: what 400 pages that are made and then run took above an unwatched run, divided by 400. The host has one CPU,
so what dom0 does meanwhile counts as the guest's time.

A C compiler is needed (gcc), and this checkout's drakmet in the environment.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.laboratory import Laboratory

from drakmet.errors import DrakmetError, LabError
from drakmet.lab.emulators import INSTRUCTIONS_A_SECOND

HERE: Final = Path(__file__).resolve().parent
LOADS: Final = {"fresh": 400, "compute": 20, "programs": 30, "web": 100}
WHAT: Final = {
    "fresh": "pages that are made and run",
    "compute": "millions of additions",
    "programs": "programs started (fork, execve of true)",
    "web": "connections to a server on loopback",
}
DATABASE: Final = "/root/bench.db"
_LINE: Final = re.compile(r"^(\w+) (\d+) (\d+)$", re.MULTILINE)

Times = dict[str, int]
"""Nanoseconds by load."""


class Bench(Laboratory):
    """A host and its guest."""

    def __init__(self, host: str, guest: str) -> None:
        self.host, self.guest = host, guest

    def prepare(self) -> None:
        """Bring the checkout to dom0 and the loads to the guest."""
        self._run("sync", self.host)
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / "loads"
            subprocess.run(["gcc", "-O2", "-static", "-o", program, HERE / "loads.c"], check=True)
            put = "cat > /root/loads && chmod +x /root/loads"
            self._run("guest", "--host", self.host, "-i", self.guest, "--", "sh", "-c", put, given=program.read_bytes())

    def loads(self) -> Times:
        """Run the loads; return how long each took."""
        words = [word for load, count in LOADS.items() for word in (load, str(count))]
        told = self._run("guest", "--host", self.host, self.guest, "--", "/root/loads", *words)
        return {load: int(time) for load, _, time in _LINE.findall(told)}

    def watched(self) -> list[Times]:
        """Run them twice in one watch."""
        self._run("exec", self.host, "--", "sh", "-c", f"rm -f {DATABASE}*")
        words = self._lab("exec", self.host, "--", "drakmet", "watch", f"xen:{self.guest}")
        words += ["--plugin", "execution-pages", "--no-rules", "--db", DATABASE]
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as watch:
            assert watch.stderr is not None
            for line in watch.stderr:
                if "watching" in line:
                    break
            else:
                raise LabError("the guest cannot be watched", where=self.host)
            told = [self.loads(), self.loads()]
            watch.send_signal(signal.SIGINT)
            watch.stderr.read()
        return told

    def traps(self) -> int:
        """Return how many executions the watch stored."""
        asked = self._run("exec", self.host, "--", "drakmet", "query", DATABASE, "--json",
                          "SELECT count(*) AS n FROM executed_page")  # fmt: skip
        return int(json.loads(asked)[0]["n"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", required=True, help="a lab host that is up (drakmet lab up --name NAME --vcpus 1)")
    parser.add_argument("--guest", default="web1")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    bench = Bench(given.host, given.guest)
    try:
        bench.prepare()
        bench.loads()  # what is read from disk, and made by the kernel the first time
        alone = bench.loads()
        cold, warm = bench.watched()
        traps = bench.traps()
    except DrakmetError as error:
        sys.exit(f"execute_cost: {error}")
    a_trap = (cold["fresh"] - alone["fresh"]) * INSTRUCTIONS_A_SECOND / 1e9 / LOADS["fresh"]
    if given.json:
        print(json.dumps({"instructions": round(a_trap), "traps": traps, "alone": alone, "cold": cold, "warm": warm}))
        return
    print(f"a trap: {a_trap:,.0f} instructions; {traps} in the watch")
    print(f"{'':42} {'alone, ms':>10} {'first run':>10} {'again':>8}")
    for load, count in LOADS.items():
        what = f"{count} {WHAT[load]}"
        times = f"{alone[load] / 1e6:>10.1f} {cold[load] / alone[load]:>9.2f}x {warm[load] / alone[load]:>7.2f}x"
        print(f"{what:42} {times}")


if __name__ == "__main__":
    main()
