# SPDX-License-Identifier: GPL-2.0-or-later
"""The plugin that tests/data/web1.drec was recorded with: its records must come out of a replay as they did live."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from drakmet.records import EventRecord
from drakmet.traps import Attached, Trap

if TYPE_CHECKING:
    from collections.abc import Iterator


class SeenOpen(EventRecord):
    """An open and what came of it."""

    requested: Annotated[str | None, "the name as it was given"] = None
    path: Annotated[str | None, "the file"] = None
    result: Annotated[int | None, "0, or the negative error number"] = None


class SeenExec(EventRecord):
    """A program that is started."""

    argv: Annotated[list[str] | None, "its arguments"] = None
    path: Annotated[str | None, "its file"] = None
    pid: Annotated[int | None, "who starts it"] = None


class SeenConnect(EventRecord):
    """A connect."""

    address: Annotated[str | None, "where to"] = None


class SeenTask(EventRecord):
    """A process that ran when the watch began."""

    pid: Annotated[int | None, "its id"] = None


def execution(hit: Any) -> Any:
    return hit.make(SeenExec, argv=hit.argv, path=hit.path, pid=hit.process.pid if hit.process else None)


def running(attached: Attached) -> Iterator[SeenTask]:
    for task in attached.guest.tasks():
        process = attached.process(task)
        if process is not None and not process.kernel_thread:
            yield SeenTask(session=attached.session, time=attached.time, process=process.id, pid=process.pid)


class _Plugin:
    name = "seen"
    sinks = ()
    collectors = (running,)
    traps = (
        Trap(
            function="do_filp_open",
            fetch={"requested": "pathname->name"},
            returns={"path": "$return|path", "result": "$return|errno"},
            record=SeenOpen,
        ),
        Trap(function="begin_new_exec", fetch={"argv": "bprm|argv", "path": "bprm->file|path"}, handler=execution),
        Trap(function="security_socket_connect", fetch={"address": "address|sockaddr(addrlen)"}, record=SeenConnect),
        Trap(function="no_function_of_any_kernel", record=SeenConnect),
    )


PLUGIN = _Plugin()
