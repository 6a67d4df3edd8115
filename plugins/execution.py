# SPDX-License-Identifier: GPL-2.0-or-later
"""What runs: programs that start, processes that fork and end, and those that ran already."""

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated

from drakmet import Attached, DrakmetError, EventRecord, Hit, Trap, escape_bytes, hookimpl


class ProcessStart(EventRecord):
    """A program was executed (execve). ``process`` is the process as it was before: what it ran until then."""

    indexes = (("process", "time"),)

    path: Annotated[str | None, "file that was executed, from the root of the mount namespace; a script's interpreter"]
    argv: Annotated[list[str] | None, "the arguments as the new program gets them"]
    cwd: Annotated[str | None, "its working directory"]
    script: Annotated[str | None, "the script's file, if an interpreter runs one"]
    interpreter: Annotated[str | None, "the interpreter as the script names it"]
    pid: Annotated[int | None, "process id"]
    uid: Annotated[int | None, "real user id that the program runs with"]
    euid: Annotated[int | None, "effective user id that the program runs with: another than uid for a setuid program"]
    memfd: Annotated[bool | None, "whether the file is in memory only (memfd_create)"]
    deleted: Annotated[bool | None, "whether the file's name was removed before"]
    command_line: Annotated[str | None, "Windows: the command line as it was given, which argv is taken from"] = None


class ProcessFork(EventRecord):
    """A process or thread was made; ``process`` is who made it."""

    child_pid: Annotated[int | None, "process id of the new process; its maker's for a thread"]
    child_tid: Annotated[int | None, "id of the new thread"]
    child_start_time: Annotated[int | None, "nanoseconds from the guest's boot to its start"]
    thread: Annotated[bool | None, "whether it is a thread of the process that made it"]


class ProcessExit(EventRecord):
    """A process ended: its last thread did."""

    pid: Annotated[int | None, "process id"]
    status: Annotated[int | None, "what it gave to exit; null if a signal ended it"]
    signal: Annotated[int | None, "the signal that ended it"]
    core: Annotated[bool | None, "whether it dumped core"]


class ProcessRunning(EventRecord):
    """A process that ran already when the guest was attached to, or scanned."""

    pid: Annotated[int | None, "process id"]
    argv: Annotated[list[str] | None, "its arguments, as they lie in its memory now: it may have changed them"]
    path: Annotated[str | None, "the file it executes, from the root of the mount namespace"] = None
    cwd: Annotated[str | None, "its working directory"] = None
    memfd: Annotated[bool | None, "whether the file is in memory only (memfd_create)"] = None
    deleted: Annotated[bool | None, "whether the file's name was removed"] = None


_GROUP_EXIT = 0x4  # SIGNAL_GROUP_EXIT, include/linux/sched/signal.h
_CORE = 0x80  # WCOREDUMP, in the wait status


@hookimpl
def drakmet_records() -> list[type[EventRecord]]:
    """Return this plugin's records."""
    return [ProcessStart, ProcessFork, ProcessExit, ProcessRunning]


@hookimpl
def drakmet_traps() -> list[Trap]:
    """Return this plugin's traps."""
    return [
        # Once it returns the exec cannot fail but by killing the process; what it is given is in the kernel's hands.
        Trap(
            function="begin_new_exec",
            name="exec",
            fetch={
                "pid": "$current->tgid",
                "file": "bprm->file|file",
                "argv": "bprm|argv",
                "cwd": "$current|cwd",
                "filename": "bprm->filename",
                "interp": "bprm->interp",
            },
            # Itself computes what a setuid program may do (since Linux 5.9), and makes that the process' own.
            returns={
                "result": "$return|errno",
                "uid": "$current->cred->uid.val",
                "euid": "$current->cred->euid.val",
            },
            record=ProcessStart,
            handler=on_exec,
        ),
        Trap(
            function="wake_up_new_task",
            name="fork",
            fetch={
                "child_pid": "p->tgid",
                "child_tid": "p->pid",
                "child_start_time": "p->start_boottime",
                "pid": "$current->tgid",
            },
            record=ProcessFork,
            handler=on_fork,
        ),
        # Called by do_exit for every thread, after it is known whether it is the last and before its memory goes.
        Trap(
            function="taskstats_exit",
            name="exit",
            fetch={
                "last": "group_dead",
                "pid": "tsk->tgid",
                "code": "tsk->group_leader->exit_code",
                "group_code": "tsk->signal->group_exit_code",
                "signal_flags": "tsk->signal->flags",
            },
            record=ProcessExit,
            handler=on_exit,
        ),
    ]


@hookimpl
def drakmet_collectors() -> list[object]:
    """Return what is read once at attach."""
    return [running]


def on_exec(hit: Hit) -> ProcessStart | None:
    """A program has taken the place of another."""
    if hit.result:
        return None
    path = hit.file.path if hit.file else None
    lost = [] if path else ["path", "memfd", "deleted"]
    script = interpreter = None
    if hit.filename is None or hit.interp is None:
        lost += ["script", "interpreter"]
    elif hit.interp != hit.filename:
        script, interpreter = _absolute(hit.filename, hit.cwd), hit.interp
        if script is None:
            lost.append("script")
    return hit.make(
        ProcessStart,
        lost,
        path=path.text if path else None,
        argv=hit.argv,
        cwd=hit.cwd,
        script=script,
        interpreter=interpreter,
        pid=hit.pid,
        uid=hit.uid,
        euid=hit.euid,
        memfd=path.kind == "memfd" if path else None,
        deleted=path.deleted or path.kind == "memfd" if path else None,
    )


def _absolute(name: str, cwd: str | None) -> str | None:
    """Return a path without what stands for nothing in it; ``..`` stays, as links may lead it anywhere."""
    if not name.startswith("/"):
        if cwd is None:
            return None
        name = f"{cwd}/{name}"
    return "/" + "/".join(part for part in name.split("/") if part not in ("", "."))


def on_fork(hit: Hit) -> ProcessFork:
    """A new task is about to run for the first time."""
    thread = None if hit.pid is None or hit.child_pid is None else hit.child_pid == hit.pid
    return hit.make(
        ProcessFork,
        ["thread"] if thread is None else [],
        child_pid=hit.child_pid,
        child_tid=hit.child_tid,
        child_start_time=hit.child_start_time,
        thread=thread,
    )


def on_exit(hit: Hit) -> ProcessExit | None:
    """A thread ends; only the last one of its process counts."""
    if not hit.last and hit.last is not None:
        return None
    code = None
    if hit.signal_flags is not None:
        code = hit.group_code if hit.signal_flags & _GROUP_EXIT else hit.code
    if code is None:
        return hit.make(ProcessExit, ["status", "signal", "core"], pid=hit.pid, status=None, signal=None, core=None)
    signal = code & 0x7F
    return hit.make(
        ProcessExit,
        pid=hit.pid,
        status=None if signal else code >> 8 & 0xFF,
        signal=signal or None,
        core=bool(code & _CORE),
    )


def running(attached: Attached) -> Iterator[ProcessRunning]:
    """List the processes that run already."""
    reader = attached.guest.task_reader
    for task in attached.guest.tasks():
        process = attached.process(task)
        if process is None or process.kernel_thread:
            continue
        argv, cwd, program = attached.argv(task), None, None
        with suppress(DrakmetError):
            cwd = escape_bytes(os.fsencode(attached.guest.cwd(task).text))
        with suppress(DrakmetError):
            program = reader.exe(reader.mm(task))
        lost = [name for name, value in (("argv", argv), ("cwd", cwd)) if value is None]
        lost += [] if program else ["path", "memfd", "deleted"]
        yield ProcessRunning(
            session=attached.session,
            time=attached.time,
            process=process.id,
            unreadable=",".join(lost) or None,
            pid=process.pid,
            argv=argv,
            path=process.exe if program else None,
            cwd=cwd,
            memfd=program.kind == "memfd" if program else None,
            deleted=program.deleted if program else None,
        )
