# SPDX-License-Identifier: GPL-2.0-or-later
"""Watching a guest in dom0 as a person would, for tests of what may happen meanwhile."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drakmet.lab.client import Agent
    from drakmet.lab.hosts import Host

STATE = """
import json, sys
from drakmet.pyxen import Control, Xenstore
from drakmet.pyxen.ports import ports_of
with Control() as control, Xenstore() as store:
    ids = [domid for domid, name in store.names().items() if name == sys.argv[1]]
    info = control.domain(ids[-1]) if ids else None
    print(json.dumps({
        "journals": store.list("/tool/drakmet"),
        "domains": sorted(one.domid for one in control.domains()),
        "host": ports_of(control, 0).used,
        "guest": info and {"pages": info.tot_pages, "limit": info.max_pages, "paused": info.paused,
                           "pool": control.paging_pool(info.domid), "ports": ports_of(control, info.domid).used,
                           "rings": len(ports_of(control, info.domid).xen),
                           "heard": len(ports_of(control, info.domid).heard)},
    }))
"""
WATCH = """
cd /root
{before}
drakmet watch xen:{name} --plugin {plugin} --no-rules --db {db} --json {more} > w.out 2> w.err < /dev/null
echo $? > w.code
"""
READY, ENDED = 1200, 1200
"""Wall seconds for what takes a few on a quiet machine."""


class Dom0:
    """The host's toolstack, and a watch in it."""

    def __init__(self, host: Host, name: str, guest: Agent) -> None:
        self.agent, self.name, self.guest = host.agent, name, guest
        self.database = "w.db"

    def quiet(self) -> None:
        """End what a test that failed has left running."""
        ended = "for pid in $(pgrep -f 'drakmet watc[h]'); do kill -CONT $pid; kill $pid; done"
        self.run("sh", "-c", ended, check=False)
        self.wait_for("! pgrep -f 'drakmet watc[h]'", ENDED)

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command in dom0."""
        return self.agent.run(list(command), check=check, timeout=ENDED).stdout.decode()

    def state(self) -> dict[str, Any]:
        """Return what is there of the guest, and of drakmet's notes."""
        state: dict[str, Any] = json.loads(self.run("python3", "-c", STATE, self.name))
        return state

    def start(self, more: str = "", *, plugin: str = "file", before: str = "", database: str = "w.db") -> None:
        """Begin to watch the guest, which may fail; a shell runs ``before`` and then is the watch's parent."""
        self.database = database
        self.run("sh", "-c", "rm -f /root/w.*")
        script = WATCH.format(name=self.name, more=more, plugin=plugin, before=before, db=database)
        self.run("sh", "-c", f"setsid sh -c '{script}' < /dev/null > /dev/null 2>&1 &")
        self.wait_for("grep -q watching /root/w.err || test -e /root/w.code", READY)

    def watch(self, more: str = "", *, plugin: str = "file", before: str = "", database: str = "w.db") -> None:
        """Begin to watch the guest; its traps are armed when this returns."""
        self.start(more, plugin=plugin, before=before, database=database)
        assert "watching" in self.run("cat", "/root/w.err"), self.run("cat", "/root/w.err")

    def wait_for(self, condition: str, seconds: float) -> None:
        """Wait until a shell's condition holds in dom0."""
        until = time.monotonic() + seconds
        while self.agent.run(["sh", "-c", condition]).returncode:
            assert time.monotonic() < until, condition
            time.sleep(0.5)

    def ended(self) -> tuple[int, str]:
        """Return the watch's exit code and what its session says of its end."""
        self.wait_for("test -e /root/w.code", ENDED)
        return int(self.run("cat", "/root/w.code")), self.session()[0]

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Return what the file that was fetched last says."""
        with sqlite3.connect("/tmp/drakmet-toolstack.db") as database:  # noqa: S108
            found = database.execute(sql).fetchall()
        database.close()
        return found

    def fetch(self) -> None:
        """Fetch the watch's file."""
        self.agent.pull(f"/root/{self.database}", Path("/tmp/drakmet-toolstack.db"))  # noqa: S108

    def session(self) -> tuple[str, int]:
        """Return the outcome of the session in the file, and how many records of its busiest table it has."""
        self.fetch()
        ((outcome,),) = self.rows("SELECT outcome FROM session")
        tables = {table for (table,) in self.rows("SELECT name FROM sqlite_master WHERE type = 'table'")}
        table = next(table for table in ("bad_open", "file_open") if table in tables)
        ((opens,),) = self.rows(f"SELECT count(*) FROM {table}")  # noqa: S608
        return outcome, opens

    def gaps(self) -> set[str]:
        """Return why traps did not see all, by the coverage of the file that was fetched last."""
        return {
            reason
            for (reason,) in self.rows("SELECT gap FROM coverage WHERE gap IS NOT NULL AND kind <> 'guest paused'")
        }

    def alive(self) -> bool:
        """Tell whether the guest's programs go on: whether one answers within some seconds."""
        return self.guest.answers(20)

    def lines(self) -> int:
        """Return how many records the watch has shown."""
        return int(self.run("sh", "-c", "wc -l < /root/w.out"))

    def goes_on(self) -> None:
        """See that records come."""
        before = self.lines()
        self.wait_for(f"test $(wc -l < /root/w.out) -gt {before + 5}", READY)

    def stop(self) -> tuple[int, str]:
        """End the watch by SIGINT."""
        self.run("sh", "-c", "kill -INT $(pgrep -f 'drakmet watc[h]')")
        return self.ended()
