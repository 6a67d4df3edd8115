# SPDX-License-Identifier: GPL-2.0-or-later
"""Which processes are watched: asked once for each process row, so that a hit of any other costs next to nothing."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drakmet.records import Process


@dataclass(frozen=True, kw_only=True)
class Filters:
    """A process is watched if it fits one entry of every kind that has entries; without any, all are.

    ``names`` are patterns (``*``, ``?``) for the kernel's name of it, for its executable's path or the last part of
    that. ``containers`` are starts of container ids; the word ``none`` stands for what is in no container. A process
    of which something is not known is watched: a filter must not hide what it cannot judge.
    """

    pids: frozenset[int] = field(default_factory=frozenset)
    names: tuple[str, ...] = ()
    uids: frozenset[int] = field(default_factory=frozenset)
    containers: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.pids or self.names or self.uids or self.containers)

    def told(self) -> str | None:
        """Say which processes are watched; None if all are."""
        kinds = (
            ("pid", sorted(self.pids)),
            ("name", self.names),
            ("uid", sorted(self.uids)),
            ("container", self.containers),
        )
        wanted = [f"{kind} {' or '.join(map(str, values))}" for kind, values in kinds if values]
        return f"only processes with {', '.join(wanted)} were watched" if wanted else None

    def wants(self, process: Process) -> bool:
        """Tell whether the process is watched."""
        if self.pids and process.pid is not None and process.pid not in self.pids:
            return False
        if self.uids and not self._uid(process):
            return False
        if self.names and not self._name(process):
            return False
        return not self.containers or self._container(process)

    def _uid(self, process: Process) -> bool:
        known = {process.uid, process.euid} - {None}
        return not known or not known.isdisjoint(self.uids)

    def _name(self, process: Process) -> bool:
        known = [name for name in (process.comm, process.exe) if name is not None]
        if process.exe is not None:
            known.append(process.exe.rpartition("/")[2])
        elif not process.kernel_thread:
            return True
        return any(fnmatch.fnmatchcase(name, pattern) for name in known for pattern in self.names)

    def _container(self, process: Process) -> bool:
        if process.container is None:
            return "none" in self.containers or "cgroup" in (process.unreadable or "").split(",")
        return any(process.container.startswith(one) for one in self.containers if one != "none")
