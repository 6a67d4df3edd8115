# SPDX-License-Identifier: GPL-2.0-or-later
"""What a trap costs, in instructions, and where they go; on a lab host that is up and whose guest is idle.

    drakmet lab up --name bench --vcpus 1
    python tests/bench/trap_cost.py --host bench              # --json for machines; it takes some ten minutes

In the guest, `opens.c` opens and closes one file 2,000 times, several rounds in each way to be watched. The emulated
machine's time is its count of instructions, 80 to the microsecond, so a busy machine falsifies nothing. A hit's cost
is all in: what a round took above an unwatched one, whatever it was spent on, divided by its opens; the median round.
The shares come from samples of what the emulator executes during the rounds (see `emulated`).

On a host with more than one CPU (`lab up --host-cpus 2`), dom0 and the guest do not take turns, and most of what Xen
does to stop the guest's vCPU runs while dom0 reads. Bochs then runs in its debugger's loop, in which each CPU that is
not halted executes five instructions, and time goes on by as many as the busiest did: a microsecond is 80 instructions
there, too, of each CPU at once. A cost is then the time that an open took longer, as before; the shares are of what
all CPUs executed, looking for the next event included, and add up to more. An entry trap took 83,700 instructions with
one CPU, 58,800 with two while the loop yields (--poll 0), 54,400 to 54,700 while it looks again. Of that time the
guest's CPU executed 0.863 instructions where it might execute one, but unwatched no more than 0.90 (12,000 opens: 114 M
executed in the time of 126 M; why was not found, so a cost is rather overstated): it waited for the answer for 2,600 to
8,900 of the 54,400. The rest is what Xen does to stop and start a vCPU, the runstate copies below among it, and cannot
be had from Python. Xen's older scheduler (credit, in a CPU pool of its own) makes no difference. Decoded it took
58,700, and stored 79,600 (118,200 with one CPU): there dom0 has half of its CPU to spare while the guest runs, but
stores at its ticks, in one go, and the guest waits meanwhile.

What a monitor cannot change, by an exact trace of a loop in C that does nothing but answer (Xen 4.17.7): 50,600
instructions a hit, 47,600 of them Xen's. Of these, 28,000 go into telling the guest's vCPU, once as it stops and once
as it goes on, how long it did not run: Linux asks for that in its own memory (the runstate area, in three parts), and
for each part Xen walks the guest's page tables and for each of those its own. Neither side can be told to leave that:
Linux registers the area wherever it has Xen's clock (xen_setup_runstate_info) and asks for the marks that make three
parts of it (VMASST_TYPE_runstate_update_flag); dom0 can change neither. Xen from 4.18 on can be given a frame in the
place of an address (VCPUOP_register_runstate_phys_area), which Linux does not do yet. Another 3,600 go into finding the
frame that the breakpoint is in. The same loop in Python takes 64,000.
(All that with one CPU. DRAKVUF's figures are of one CPU, too.)

A C compiler is needed (gcc), and this checkout's drakmet in the environment.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.emulated import WHERE, Emulator
from bench.laboratory import Laboratory

from drakmet.errors import DrakmetError, LabError
from drakmet.lab.emulators import INSTRUCTIONS_A_SECOND
from drakmet.lab.hosts import find_host
from drakmet.lab.places import find_places

HERE: Final = Path(__file__).resolve().parent
_ROUND: Final = re.compile(r"^opens (\d+) ns (\d+)$", re.MULTILINE)
_A_NANOSECOND: Final = INSTRUCTIONS_A_SECOND / 1e9
WAYS: Final = {
    "unwatched": "an open and a close, not watched",
    "ignored": "a hit of a process that is filtered out",
    "entry": "the entry trap only, process known, nothing fetched",
    "decoded": "the name and the process decoded",
    "stored": "the same, and stored in SQLite",
    "returned": "entry and return: two hits, full path and result, stored",
}
DRAKVUF: Final = {
    "ignored": (99_000, "filetracer -F, ignored by pid"),
    "stored": (213_000, "syscalls, openat only, -F, JSON out"),
    "returned": (364_000, "the same with its return, -F"),
}
"""DRAKVUF 1.1, measured earlier on the same kind of host (Bochs 3.0, Xen 4.17.7, Linux 6.1), in the same way."""


@dataclass
class Row:
    """One way: instructions an open, above an unwatched one (of the unwatched: in all)."""

    way: str
    what: str
    instructions: int
    opens: int
    hits: int = 0
    records: int = 0
    drakvuf: int | None = None
    drakvuf_way: str | None = None
    profile: dict[str, int] = field(default_factory=dict)
    """Instructions an open by whose code they are, the open's own and its close's included, of all CPUs together."""


def rounds(printed: str) -> list[tuple[int, int]]:
    """Return ``(opens, nanoseconds)`` of each round that opens.c told of."""
    return [(int(opens), int(nanoseconds)) for opens, nanoseconds in _ROUND.findall(printed)]


def an_open(told: list[tuple[int, int]]) -> float:
    """Return the instructions that an open took in the median round; `LabError` if there was none."""
    if not told:
        raise LabError("the guest told of no round")
    return statistics.median(nanoseconds * _A_NANOSECOND / opens for opens, nanoseconds in told)


def shares(samples: Counter[str], instructions: float) -> dict[str, int]:
    """Return the instructions an open by owner, from samples of all that ran meanwhile."""
    total = samples.total()
    return {where: round(instructions * samples[where] / total) for where in WHERE} if total else {}


def table(rows: list[Row]) -> str:
    """Return the rows for people."""
    lines = [f"{'':58} {'drakmet':>9} {'DRAKVUF 1.1':>12}"]
    for row in rows:
        theirs = f"{row.drakvuf:>12,}  ({row.drakvuf_way})" if row.drakvuf else ""
        lines.append(f"{row.what:58} {row.instructions:>9,} {theirs}".rstrip())
    lines += ["", f"{'where an open goes, itself and its close included':58} " + " ".join(f"{w:>15}" for w in WHERE)]
    for row in rows:
        if row.profile:
            lines.append(f"{row.what:58} " + " ".join(f"{row.profile[where]:>15,}" for where in WHERE))
    lines.append("\nInstructions, an open; above an unwatched one, but for the first line.")
    return "\n".join(lines)


class Bench(Laboratory):
    """A host, its guest, and the rounds in it."""

    def __init__(self, host: str, guest: str, opens: int, count: int, poll: int | None = None) -> None:
        found = find_host(find_places(), host)
        self.host, self.guest, self.opens, self.count = found.name, guest, opens, count
        self._emulator, self._memory = found.pid, found.choice.guest_memory << 20
        self.cpus, self.poll = found.choice.host_cpus, poll

    def prepare(self) -> None:
        """Bring the checkout to dom0 and the load to the guest."""
        self._run("sync", self.host)
        self._run("push", self.host, str(HERE / "inside.py"), "/root/")
        with tempfile.TemporaryDirectory() as folder:
            program = Path(folder) / "opens"
            subprocess.run(["gcc", "-O2", "-static", "-o", program, HERE / "opens.c"], check=True)
            put = "cat > /root/opens && chmod +x /root/opens"
            self._run("guest", "--host", self.host, "-i", self.guest, "--", "sh", "-c", put, given=program.read_bytes())

    def load(self) -> tuple[list[tuple[int, int]], Counter[str], int]:
        """Have the rounds run; return them, samples of what ran, and how many instructions all CPUs executed."""
        samples: Counter[str] = Counter()
        words = ("guest", "--host", self.host, self.guest, "--", "/root/opens", str(self.opens), str(self.count))
        told: list[str] = []
        runner = threading.Thread(target=lambda: told.append(self._run(*words)))
        with Emulator(self._emulator, self.cpus) as emulator:
            before = sum(emulator.executed())
            runner.start()
            while runner.is_alive():
                samples += emulator.sample(0.5, self._memory)
            runner.join()
            executed = sum(emulator.executed()) - before
        return rounds("".join(told)), samples, executed

    def watched(self, way: str) -> tuple[list[tuple[int, int]], Counter[str], int, dict[str, int]]:
        """Have the rounds run while the guest is watched in this way."""
        words = self._lab("exec", "-i", self.host, "--", "python3", "/root/inside.py", self.guest, way)
        words += [] if self.poll is None else [str(self.poll)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watch:
            assert watch.stdin is not None
            assert watch.stdout is not None
            if watch.stdout.readline().strip() != "ready":
                raise LabError(f"the guest cannot be watched ({way})", where=self.host)
            told, samples, executed = self.load()
            watch.stdin.close()
            return told, samples, executed, json.loads(watch.stdout.read())

    def run(self, ways: list[str]) -> list[Row]:
        """Measure each way and return the table's rows."""
        self.prepare()
        base, _, _ = self.load()
        alone = an_open(base)
        rows = [Row("unwatched", WAYS["unwatched"], round(alone), self.opens * len(base))]
        for way in ways:
            print(f"{way} ...", file=sys.stderr, flush=True)
            told, samples, executed, counted = self.watched(way)
            cost = an_open(told)
            theirs, how = DRAKVUF.get(way, (None, None))
            row = Row(way, WAYS[way], round(cost - alone), self.opens * len(told), drakvuf=theirs, drakvuf_way=how)
            row.hits, row.records = counted["hits"], counted["records"]
            # On one CPU all that time was spent executing; on several, work overlaps, and who waits executes nothing.
            row.profile = shares(samples, cost if self.cpus == 1 else executed / row.opens)
            rows.append(row)
        return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", required=True, help="a lab host that is up (drakmet lab up --name NAME --vcpus 1)")
    parser.add_argument("--guest", default="web1")
    parser.add_argument("--opens", type=int, default=2000, help="opens in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--poll", type=int, help="microseconds to look for the next event (drakmet watch --poll)")
    parser.add_argument("--way", action="append", choices=[way for way in WAYS if way != "unwatched"])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    try:
        rows = Bench(given.host, given.guest, given.opens, given.rounds, given.poll).run(given.way or [*WAYS][1:])
    except DrakmetError as error:
        sys.exit(f"trap_cost: {error}")
    print(json.dumps([asdict(row) for row in rows], indent=2) if given.json else table(rows))


if __name__ == "__main__":
    main()
