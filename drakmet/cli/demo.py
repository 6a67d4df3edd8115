# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet demo``: the main job from nothing, on an emulated Xen host, or from a recording of it."""

from __future__ import annotations

import signal
import struct
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

import drakmet
from drakmet.errors import DrakmetError, ExitCode, UsageError

if TYPE_CHECKING:
    from drakmet.lab.client import Agent, Connection
    from drakmet.lab.progress import Progress

_HERE = Path(drakmet.__file__).parent / "demo"
RECORDING = _HERE / "demo.drec"
INTRUSION = _HERE / "intrusion.sh"
_GUEST = "web1"
REMOTE_DB = "/root/demo.db"


@click.command(short_help="Show the main job on a Xen host of its own, in an emulator.")
@click.option("--replay", "from_recording", is_flag=True, help="from a recording of such a run, in seconds")
@click.option("--db", "database", type=click.Path(path_type=Path), default=Path("drakmet-demo.db"), show_default=True)
@click.option("--keep", is_flag=True, help="leave the emulated host up afterwards")
@click.pass_context
def demo(ctx: click.Context, /, *, from_recording: bool, database: Path, keep: bool) -> None:
    """Show the main job on a Xen host of its own, in an emulator.

    Brings up a real Xen host with a guest (minutes the first time: packages and images), watches the guest while
    somebody breaks into it, shows what was found, and says where the database is.

    \b
    Example:
      drakmet demo --replay
      drakmet demo --db demo.db --keep
    """
    if database.exists():
        raise UsageError(
            "the file is there already", where=str(database), hint="remove it, or choose another with --db"
        )
    if from_recording:
        ctx.exit(_replay(database))
    ctx.exit(_on_the_lab(database, keep=keep))


def _replay(database: Path) -> int:
    from drakmet.cli import running, views
    from drakmet.plugins import load_plugins
    from drakmet.rules import load_rules

    plugins = load_plugins(only=["execution", "file", "network-intent"])
    uri = f"replay:{RECORDING}"
    ended = running.run(uri, plugins, views.choose(json=False), database=database, rules=load_rules())
    _tell(database)
    return int(ended.exit_code)


def _on_the_lab(database: Path, *, keep: bool) -> int:
    from drakmet.lab import hosts
    from drakmet.lab.client import Upload
    from drakmet.lab.places import find_places
    from drakmet.lab.progress import Progress

    places, progress = find_places(), Progress()
    host = hosts.up(places, "demo", hosts.Choice(guest_vcpus=1), progress)
    if not host.seconds:
        hosts.finished(host, progress.seconds)
    try:
        guest = host.guest(_GUEST)
        guest.push([Upload("/root/intrusion.sh", INTRUSION.read_bytes(), 0o755)])
        host.agent.run(["rm", "-f", REMOTE_DB, f"{REMOTE_DB}-wal", f"{REMOTE_DB}-shm"], check=True)
        code = watched_intrusion(host.agent, guest, _GUEST, progress)
        host.agent.pull(REMOTE_DB, database)
        database.chmod(0o600)
    finally:
        if not keep:
            hosts.down(places, "demo")
    _tell(database)
    return code


def watched_intrusion(dom0: Agent, guest: Agent, name: str, progress: Progress) -> int:
    """Watch a guest from dom0, break into it once the traps are set, and return what the watch ended with.

    ``/root/intrusion.sh`` is in the guest; the watch's database is `REMOTE_DB` in dom0.
    """
    watching, ended = threading.Event(), threading.Event()

    def diagnostics(data: bytes) -> None:
        sys.stderr.buffer.write(data)
        sys.stderr.flush()
        if b"watching" in data:
            watching.set()

    def output(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()

    def intrude(connection: Connection) -> None:
        while not watching.wait(1.0):
            if ended.is_set():
                return
        progress.note("breaking into the guest")
        try:
            guest.run(["/bin/bash", "/root/intrusion.sh"])
            # What was seen last is stored and judged within a second.
            ended.wait(3.0)
        finally:
            connection.send(b"S", struct.pack(">i", signal.SIGINT))

    with dom0.connect() as connection:
        argv = ["drakmet", "watch", f"xen:{name}", "--db", REMOTE_DB, "--for", "20m"]
        dom0.begin(connection, argv)
        intruder = threading.Thread(target=intrude, args=(connection,), daemon=True)
        intruder.start()
        code = connection.collect(output, diagnostics)
        ended.set()
    intruder.join(10)
    if code not in (ExitCode.CLEAN, ExitCode.FINDINGS, ExitCode.PARTLY):
        raise DrakmetError(f"the watch in dom0 ended with {code}", hint="what it said stands above")
    return code


def _tell(database: Path) -> None:
    click.echo(f"\nThe database: {database}. For example:")
    click.echo(f'  drakmet query {database} "SELECT level, rule, message FROM finding"')  # noqa: S608 - an example to type, not a query
    click.echo(f'  drakmet query {database} "SELECT path, argv FROM process_start LIMIT 20"')  # noqa: S608
