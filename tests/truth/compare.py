# SPDX-License-Identifier: GPL-2.0-or-later
# ruff: noqa: S108  # the paths are the guest's
"""Compares records with strace, thread by thread and in order: nothing missing, nothing twice, nothing invented."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from . import strace

if TYPE_CHECKING:
    from pathlib import Path

    from drakmet.records import Record

KINDS = ("open", "exec", "connect", "bind", "listen", "send", "remove", "chmod", "chown", "exit")
# What the scripts of work.sh make of an exec.
SCRIPTS = {"/tmp/script": ["/bin/sh", "-e"], "/tmp/nested": ["/bin/sh", "-e", "/tmp/script", "nested"]}
LINKS = {"/proc/self/exe": "/bin/busybox", "/proc/self/fd/9": "/tmp/removed", "": "/memfd:hidden"}


def differences(records: list[Record], truth: dict[int, str], root: Path) -> tuple[Counter[str], list[str]]:
    """Return how many events of each kind strace saw, and what drakmet has that is not the same."""
    threads = {one.id: (one.pid, one.tid) for one in records if one.table == "process"}  # type: ignore[attr-defined]
    leaders = {pid for pid, _ in threads.values()}
    superseded = set(map(int, re.findall(r"superseded by execve in pid (\d+)", "".join(truth.values()))))
    seen: Counter[str] = Counter()
    found = []
    for thread, lines in truth.items():
        wanted = [_plain(event, root) for event in strace.events(lines, thread in superseded)]
        had = [
            event
            for one in records
            if one.table != "process" and threads.get(getattr(one, "process", None), (0, 0))[1] == thread
            and (event := strace.of_record(one)) is not None
        ]  # fmt: skip
        for kind in KINDS:
            if kind == "exit" and (thread not in leaders or thread in superseded):
                continue
            want = [event for event in wanted if event[0] == kind]
            have = [event for event in had if event[0] == kind]
            if kind == "send":  # strace has the address of those that say it themselves
                rest = iter(have)
                have = [event for event in want if event in rest]
            seen[kind] += len(want)
            if len(want) != len(have) or not all(map(_same, want, have)):
                found.append(f"thread {thread}: strace {want}, drakmet {have}")
    return seen, found


def _plain(event: strace.Event, root: Path) -> strace.Event:
    """Return an exec as the kernel carries it out: links followed, scripts given to their interpreters."""
    if event[0] != "exec":
        return event
    _, path, argv = event
    at = "/tmp/" + path.removeprefix("./") if path.startswith("./") else path
    if at in SCRIPTS:
        return "exec", "/bin/busybox", [*SCRIPTS[at], path, *argv[1:]]
    link = root / at[1:]
    if at in LINKS:
        at = LINKS[at]
    elif link.is_symlink():
        at = f"/bin/{link.readlink()}"
    return "exec", at, argv


def _same(want: strace.Event, have: strace.Event) -> bool:
    if want[0] in ("remove", "chmod", "chown"):  # strace has the name as it was given
        names: list[Any] = [want[1], have[1]]
        return want[2:] == have[2:] and (names[0] == names[1] or names[1].endswith("/" + names[0]))
    return want == have
