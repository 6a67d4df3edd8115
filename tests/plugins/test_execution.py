# SPDX-License-Identifier: GPL-2.0-or-later
"""What the plugin execution makes of hits, branch by branch."""

from __future__ import annotations

from typing import Any

import pytest
from guest.images import NAMES, image
from guest.truth import expected, raw

from drakmet.guest.files import File
from drakmet.guest.kernel import Kernel
from drakmet.guest.linux import LinuxGuest
from drakmet.guest.memory import SparseMemory
from drakmet.guest.pathtypes import GuestPath
from drakmet.plugins import bundled
from drakmet.scan.session import Reading
from drakmet.testing import PROCESS, load, run_trap, trap
from drakmet.text import escape

plugin = load(bundled() / "execution.py")
EXEC, FORK, EXIT = (trap(plugin, label) for label in ("exec", "fork", "exit"))


def program(path: str, kind: Any = "file", *, deleted: bool = False) -> File:
    return File(address=0xFFFF888000000000, flags=0, path=GuestPath(path, kind, deleted))


def started(**changes: Any) -> Any:
    values = {
        "pid": 1000, "file": program("/usr/bin/id"), "argv": ["id", "-u"], "cwd": "/root", "filename": "/usr/bin/id",
        "interp": "/usr/bin/id", "uid": 0, "euid": 0, "result": 0,
    }  # fmt: skip
    (record,) = run_trap(EXEC, **{key: value for key, value in {**values, **changes}.items() if value != "lost"})
    return record


def test_a_program_starts() -> None:
    record = started()
    assert (record.path, record.argv, record.cwd) == ("/usr/bin/id", ["id", "-u"], "/root")
    assert (record.script, record.interpreter) == (None, None)
    assert (record.pid, record.uid, record.euid, record.process) == (1000, 0, 0, PROCESS.id)
    assert (record.memfd, record.deleted, record.unreadable) == (False, False, None)


@pytest.mark.parametrize(
    ("cwd", "given", "script"),
    [
        ("/root", "/opt/run.sh", "/opt/run.sh"),
        ("/root", "run.sh", "/root/run.sh"),
        ("/root", "./run.sh", "/root/run.sh"),
        ("/root", ".//bin/./run.sh", "/root/bin/run.sh"),
        ("/", "run.sh", "/run.sh"),
        # What `link/..` is only the guest's file system knows.
        ("/root", "link/../run.sh", "/root/link/../run.sh"),
        ("/root", "../run.sh", "/root/../run.sh"),
    ],
)
def test_a_script_is_told_by_its_path(cwd: str, given: str, script: str) -> None:
    record = started(file=program("/usr/bin/dash"), filename=given, interp="/bin/sh", cwd=cwd)
    assert (record.path, record.script, record.interpreter) == ("/usr/bin/dash", script, "/bin/sh")
    assert record.unreadable is None


def test_a_script_of_an_unknown_directory_is_not_guessed() -> None:
    record = started(filename="run.sh", interp="/bin/sh", cwd="lost")
    assert (record.script, record.interpreter) == (None, "/bin/sh")
    assert set(record.unreadable.split(",")) == {"cwd", "script"}


@pytest.mark.parametrize("lost", ["filename", "interp"])
def test_whether_it_is_a_script_may_be_unknown(lost: str) -> None:
    record = started(**{lost: "lost"})
    assert (record.script, record.interpreter) == (None, None)
    assert set(record.unreadable.split(",")) == {"script", "interpreter"}


def test_a_program_in_memory_only() -> None:
    record = started(file=program("/memfd:x", "memfd"))
    assert (record.memfd, record.deleted) == (True, True)


def test_a_program_whose_name_was_removed() -> None:
    record = started(file=program("/srv/x", deleted=True))
    assert (record.path, record.memfd, record.deleted) == ("/srv/x", False, True)


def test_a_setuid_program_runs_with_the_rights_it_has_in_the_end() -> None:
    # begin_new_exec computes them itself, so that they are right only when it returns.
    assert {"uid", "euid"} <= set(EXEC.returns or ())
    record = started(uid=1000, euid=0)
    assert (record.uid, record.euid) == (1000, 0)


def test_an_exec_that_failed_started_nothing() -> None:
    assert run_trap(EXEC, file=program("/usr/bin/id"), result=-12) == []


def test_an_exec_cut_off_by_the_end_is_told() -> None:
    record = started(result="lost", uid="lost", euid="lost")
    assert record.path == "/usr/bin/id"
    assert set(record.unreadable.split(",")) == {"uid", "euid"}


@pytest.mark.parametrize("file", ["lost", File(address=1, flags=0, missing={"path": "gone"})])
def test_an_unknown_file_is_marked(file: Any) -> None:
    record = started(file=file)
    assert (record.path, record.memfd, record.deleted) == (None, None, None)
    assert set(record.unreadable.split(",")) == {"path", "memfd", "deleted"}


def test_hostile_text_is_escaped() -> None:
    record = started(argv=["\x1b[2J", "a\\b"], file=program("/srv/\udcff"))
    assert record.argv == ["\\x1b[2J", "a\\\\b"]
    assert record.path == "/srv/\\xff"


@pytest.mark.parametrize(("tgid", "thread"), [(1000, True), (1001, False)])
def test_a_thread_or_a_process_is_made(tgid: int, *, thread: bool) -> None:
    (record,) = run_trap(FORK, child_pid=tgid, child_tid=1001, child_start_time=7, pid=1000)
    assert (record.child_pid, record.child_tid, record.child_start_time) == (tgid, 1001, 7)
    assert (record.thread, record.unreadable) == (thread, None)


def test_a_fork_that_cannot_be_read() -> None:
    (record,) = run_trap(FORK, process=None, child_tid=1001)
    assert (record.thread, record.process) == (None, None)
    assert set(record.unreadable.split(",")) == {"child_pid", "child_start_time", "thread"}


def ended(**values: Any) -> Any:
    (record,) = run_trap(EXIT, **{"last": 1, "pid": 1000, "code": 0, "group_code": 0, "signal_flags": 0, **values})
    return record


def test_a_thread_ends() -> None:
    assert run_trap(EXIT, last=0, pid=1000, code=0, group_code=0, signal_flags=0) == []


@pytest.mark.parametrize(
    ("values", "status", "signal", "core"),
    [
        ({"code": 0}, 0, None, False),
        ({"code": 3 << 8}, 3, None, False),
        ({"code": 255 << 8}, 255, None, False),
        ({"code": 9}, None, 9, False),
        ({"code": 0x8B}, None, 11, True),
        # With SIGNAL_GROUP_EXIT the group's code is the process', whatever this thread's own.
        ({"code": 9, "group_code": 5 << 8, "signal_flags": 4}, 5, None, False),
        ({"code": 0, "group_code": 15, "signal_flags": 0x44}, None, 15, False),
        ({"code": 2 << 8, "group_code": 9, "signal_flags": 0x40}, 2, None, False),
    ],
)
def test_a_process_ends(values: dict[str, int], status: int | None, signal: int | None, *, core: bool) -> None:
    record = ended(**values)
    assert (record.pid, record.status, record.signal, record.core) == (1000, status, signal, core)
    assert record.unreadable is None


@pytest.mark.parametrize("lost", ["signal_flags", "code"])
def test_an_end_that_cannot_be_read(lost: str) -> None:
    values: dict[str, Any] = {"last": 1, "pid": 1000, "code": 0, "group_code": 0, "signal_flags": 0}
    del values[lost]
    (record,) = run_trap(EXIT, **values)
    assert (record.status, record.signal, record.core) == (None, None, None)
    assert set(record.unreadable.split(",")) == {"status", "signal", "core"}


def test_what_runs_already_is_listed() -> None:
    (collector,) = plugin.collectors
    for name in NAMES:
        guest = image(name)
        told = {line["process"]: line for line in guest.told if "process" in line}
        found: list[Any] = list(collector(Reading(guest.guest, 3, 1, 99)))
        assert {(one.session, one.time) for one in found} == {(3, 99)}
        assert {one.pid for one in found} == {pid for pid, line in told.items() if "exe" in line}
        for one in found:
            line = told[one.pid]
            name, deleted = str(expected(line)["exe"]), expected(line)["exe_deleted"]
            assert (one.path, one.deleted, one.unreadable) == (escape(name), deleted, None)
            assert one.memfd == name.startswith("/memfd:")
            assert one.argv == [escape(part) for part in raw(line["cmdline"]).removesuffix("\0").split("\0")]
            assert one.cwd == escape(raw(line["cwd"]))


def test_what_cannot_be_read_of_a_process_is_named() -> None:
    (collector,) = plugin.collectors
    guest = image("6.1")
    whole = Reading(guest.guest, 3, 1, 99)
    of_init = next(iter(whole.guest.tasks()))
    for lost, member in (("argv", "mm"), ("cwd", "fs")):
        at = guest.kernel.gpa(of_init + guest.guest.types.offset("task_struct", member))
        memory = SparseMemory(dict(guest.memory.pages), guest.memory.size)
        page = bytearray(memory.pages[at >> 12])
        page[at & 0xFFF : (at & 0xFFF) + 8] = b"\1" * 8
        memory.pages[at >> 12] = bytes(page)
        found = guest.kernel
        damaged = LinuxGuest(Kernel(found.profile, memory, found.base, found.slide, found.levels))
        rows: list[Any] = list(collector(Reading(damaged, 3, 1, 99)))
        assert lost in rows[0].unreadable.split(",")
        assert getattr(rows[0], lost) is None
        assert all(row.unreadable is None for row in rows[1:])
