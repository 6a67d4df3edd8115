# SPDX-License-Identifier: GPL-2.0-or-later
"""What lines mean in our own records, on Windows and on Linux."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drakmet.drakvuf.meaning import Maker, meanings
from drakmet.drakvuf.meaning_windows import arguments, unescaped
from drakmet.plugins import load_plugins
from drakmet.records import Process, Record
from drakvuf.logs import line, parse

OWN = load_plugins().records


def own(*lines: bytes) -> list[Any]:
    """Return our own records for lines, process rows left out."""
    return [record for record in everything(*lines) if not isinstance(record, Process)]


def everything(*lines: bytes) -> list[Record]:
    found = parse(b"\n".join(lines), meanings=lambda parser, put: meanings(Maker(1, OWN, parser.processes, put)))
    assert found.refused == []
    return found.records


EXEC = [("ThreadName", "sh"), ("CommandLine", "sh -c id"), ("ImagePathName", "/bin/dash"), ("ouid", 33), ("euid", 0)]


def test_an_exec_on_linux() -> None:
    names = [("interp", "/bin/sh"), ("FileName", "/srv/x.sh")]
    (start,) = own(line("procmon", EXEC + names, method="do_execveat_common", UserId=33))
    assert (start.table, start.path, start.argv, start.pid) == ("process_start", "/bin/dash", ["sh", "-c", "id"], 100)
    assert (start.script, start.interpreter, start.uid, start.euid) == ("/srv/x.sh", "/bin/sh", 33, 0)
    assert start.unreadable == "cwd,memfd,deleted"


def test_a_command_line_that_drakvuf_could_not_read_is_said_to_be_unreadable() -> None:
    (start,) = own(line("procmon", [("CommandLine", ""), ("ImagePathName", "/bin/dash")], method="do_execveat_common"))
    assert (start.argv, start.unreadable.split(",")[0]) == (None, "argv")


def test_a_start_on_windows_is_its_maker_s_and_its_command_line_is_parted_as_windows_does() -> None:
    told = [
        *[
            ("Status", "0x0"),
            ("NewProcessHandle", "0x708"),
            ("NewPid", 200),
            ("NewThreadHandle", "0x1"),
            ("NewTid", 201),
        ],
        *[
            ("CommandLine", r"\"C:\\Program Files\\x.exe\" /c \"a b\" \303\251"),
            ("ImagePathName", r"C:\Program Files\x.exe"),
        ],
        *[("DllPath", ""), ("CWD", "C:\\")],
    ]
    shell = r"\Device\HarddiskVolume2\Windows\w3wp.exe"
    records = everything(line("procmon", told, method="NtCreateUserProcess", ProcessName=shell))
    maker, child, fork, start = records
    assert (maker.exe, maker.windows_session, maker.uid) == (shell.replace("\\", "\\\\"), 0, None)  # type: ignore[attr-defined]
    assert (child.pid, child.ppid, child.parent) == (200, 100, maker.life)  # type: ignore[attr-defined]
    assert (fork.child_pid, fork.child_tid, fork.thread) == (200, 201, False)  # type: ignore[attr-defined]
    assert start.process == maker.id  # type: ignore[attr-defined]
    assert start.argv == [r"C:\\Program Files\\x.exe", "/c", "a b", "é"]  # type: ignore[attr-defined]
    assert start.command_line == r'"C:\\Program Files\\x.exe" /c "a b" é'  # type: ignore[attr-defined]


@pytest.mark.parametrize("status", ["0xc0000022", None, "x"])
def test_a_start_that_failed_is_none(status: Any) -> None:
    assert own(line("procmon", [("Status", status), ("NewPid", 0)], method="NtCreateUserProcess")) == []


def test_a_pid_that_is_used_again_is_another_process() -> None:
    def of(pid: int, method: str, told: list[tuple[str, Any]], event: int) -> bytes:
        return line("procmon", told, method=method, PID=pid, TID=pid, EventUID=hex(event))

    clone = [("Flags", "CLONE_CHILD_SETTID"), ("NewPid", 300)]
    records = everything(
        of(1, "kernel_clone", clone, 1),
        of(300, "do_exit", [("ExitStatus", 7)], 2),
        of(300, "send_signal", [], 3),
        of(1, "kernel_clone", clone, 4),
        of(300, "do_exit", [("ExitStatus", 0)], 5),
    )
    lives = [one.life for one in records if isinstance(one, Process) and one.pid == 300]
    assert len(set(lives)) == 2
    exits: list[Any] = [one for one in records if one.table == "process_exit"]
    rows = {one.id: one.life for one in records if isinstance(one, Process)}
    assert [one.status for one in exits] == [7, 0]
    assert rows[exits[0].process] != rows[exits[1].process]


def test_a_pid_whose_second_beginning_was_not_seen_ends_a_second_time() -> None:
    def of(status: int, second: int) -> bytes:
        told = [("ExitStatus", status)]
        stamp = f"170000000{second}.000001"
        return line("procmon", told, method="do_exit", PID=300, TID=300, TimeStamp=stamp, EventUID=hex(second))

    records = everything(of(7, 1), of(0, 2))
    exits: list[Any] = [one for one in records if one.table == "process_exit"]
    rows = {one.id: one.life for one in records if isinstance(one, Process)}
    assert [one.status for one in exits] == [7, 0]
    assert rows[exits[0].process] != rows[exits[1].process]


def test_a_thread_is_no_process() -> None:
    fork, *rest = own(line("procmon", [("Flags", "CLONE_VM | CLONE_THREAD"), ("NewPid", 102)], method="kernel_clone"))
    assert (fork.thread, fork.child_pid, fork.child_tid, rest) == (True, 100, 102, [])
    assert own(line("procmon", [("ExitStatus", 0)], method="do_exit", PID=100, TID=101)) == []


def test_the_end_of_a_process_on_windows_is_told_once_and_by_whom_it_was() -> None:
    told = [("ExitPid", 200), ("ExitStatus", "0xc0000005"), ("ExitStatusStr", "STATUS_ACCESS_VIOLATION")]
    (end,) = own(
        line("procmon", told, method="NtTerminateProcess", EventUID="0x1"),
        line("procmon", [("ExitPid", 200)], method="MmCleanProcessAddressSpace", EventUID="0x2"),
    )
    assert (end.pid, end.status) == (200, 0xC0000005)


def files(*lines: tuple[str, list[tuple[str, Any]]], plugin: str = "filetracer") -> list[Any]:
    return own(*(line(plugin, told, method=m, EventUID=hex(n)) for n, (m, told) in enumerate(lines, 1)))


def test_files_on_linux() -> None:
    name = ("FileName", "/etc/x")
    found = files(
        ("do_filp_open", [name, ("Mode", "MODE_S_IFREG")]),
        ("vfs_write", [name, ("Mode", "MODE_S_IFREG")]),
        ("vfs_write", [name, ("Mode", "MODE_S_IFREG")]),
        ("vfs_write", [("FileName", "/null"), ("Mode", "MODE_S_IFCHR")]),
        ("filp_close", [name]),
        ("filp_close", [name]),
        ("vfs_rename", [name, ("old_name", "/srv/x")]),
        ("vfs_unlink", [name]),
        ("vfs_rmdir", [name]),
        ("chmod_common", [name, ("new_permissions", "4755")]),
        ("chown_common", [name, ("UID", "0"), ("GID", "4294967295")]),
        ("vfs_mkdir", [name]),
    )
    assert [one.table for one in found] == [
        *[
            "file_open",
            "file_write",
            "file_close",
            "file_rename",
            "file_remove",
            "file_remove",
            "file_chmod",
            "file_chown",
        ]
    ]
    assert (found[3].path, found[3].new_path) == ("/srv/x", "/etc/x")
    assert [one.directory for one in found[4:6]] == [False, True]
    assert found[6].mode == 0o4755
    assert (found[7].uid, found[7].gid) == (0, None)


def test_files_on_windows() -> None:
    path, handle = ("FileName", r"\??\C:\a.txt"), ("FileHandle", "0x10")
    how = [("DesiredAccess", "GENERIC_WRITE | SYNCHRONIZE"), ("CreateDisposition", "FILE_OVERWRITE_IF")]
    found = files(
        ("NtCreateFile", [path, handle, *how, ("Status", "0x0")]),
        ("NtOpenFile", [path, handle, ("DesiredAccess", "FILE_READ_DATA"), ("Status", "0xc0000034")]),
        ("NtWriteFile", [path, handle]),
        ("NtWriteFile", [path, handle]),
        ("NtSetInformationFile", [("Operation", "FileDispositionInformation"), path, handle]),
        ("NtSetInformationFile", [("Operation", "FileRenameInformation"), ("FileSrc", "a"), ("FileDst", "b"), handle]),
        ("NtReadFile", [path, handle]),
    )
    tables = ["file_open", "file_open", "file_write", "file_remove", "file_rename"]
    assert [one.table for one in found] == tables
    assert (found[0].access, found[0].create, found[0].result, found[0].path) == ("w", True, 0, r"\\??\\C:\\a.txt")
    assert (found[1].access, found[1].path, found[1].result) == ("r", None, 0xC0000034 - (1 << 32))
    assert (found[4].path, found[4].new_path) == ("a", "b")


def test_the_network_on_windows_is_the_owner_s() -> None:
    owner = [("Owner", "x"), ("OwnerId", 1), ("OwnerPID", 77), ("OwnerPPID", 1)]
    ends = [("LocalIp", "10.0.0.1"), ("LocalPort", 5000), ("RemoteIp", "198.51.100.1"), ("RemotePort", 443)]
    records = everything(
        line("socketmon", [*owner, ("Protocol", "TCPv4"), *ends], method="TcpCreateAndConnectTcbComplete"),
        line("socketmon", [*owner, ("Protocol", "UDPv6"), ("RemoteIp", "2001:db8::1"), ("RemotePort", 53)],
             method="UdpSendMessages", EventUID="0x2"),
        line("socketmon", [("DnsName", "evil.example.")], method="DnsQueryEx", EventUID="0x3"),
    )  # fmt: skip
    pids = {one.id: one.pid for one in records if isinstance(one, Process)}
    connect, datagram, query = [one for one in records if not isinstance(one, Process)]
    assert (connect.family, connect.protocol, connect.address, connect.port) == ("inet", "tcp", "198.51.100.1", 443)  # type: ignore[attr-defined]
    assert [pids[one.process] for one in (connect, datagram, query)] == [77, 77, 100]  # type: ignore[attr-defined]
    assert (datagram.family, datagram.port) == ("inet6", 53)  # type: ignore[attr-defined]
    assert query.name == "evil.example"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ('"C:\\a b\\x.exe" /c "d e"', ["C:\\a b\\x.exe", "/c", "d e"]),
        ('x \\"a\\" "b\\\\" c', ["x", '"a"', "b\\", "c"]),
        ('x "a""b" ""', ["x", 'a"b', ""]),
        ("", []),
    ],
)
def test_arguments_of_windows(command: str, found: list[str]) -> None:
    assert arguments(command) == found


@given(st.text(alphabet='ab \t"\\', max_size=30))
def test_arguments_of_windows_end(command: str) -> None:
    assert len("".join(arguments(command))) <= len(command)


@given(st.binary(max_size=20).filter(lambda data: b"\0" not in data))
def test_what_glib_escapes_is_undone(data: bytes) -> None:
    names = {8: "b", 12: "f", 10: "n", 13: "r", 9: "t", 11: "v", 92: "\\", 34: '"'}
    text = "".join(
        f"\\{names[byte]}" if byte in names else chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}" for byte in data
    )
    assert unescaped(text).encode("utf-8", "surrogateescape") == data


@given(st.sampled_from(["procmon", "filetracer", "socketmon"]), st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no fault
def test_no_value_is_taken_for_what_it_is_not(plugin: str, data: st.DataObject) -> None:
    found = parse(b"", meanings=lambda parser, put: meanings(Maker(1, OWN, parser.processes, put)))
    known = sorted(found.parser._meanings[plugin])
    keys = [
        "NewPid",
        "Status",
        "ExitPid",
        "ExitStatus",
        "FileName",
        "CommandLine",
        "OwnerPID",
        "RemoteIp",
        "RemotePort",
        "DnsName",
        "new_permissions",
        "UID",
        "Mode",
        "FileHandle",
        "Flags",
        "DesiredAccess",
        "Operation",
    ]
    values = (
        st.none() | st.integers(-(2**65), 2**65) | st.binary(max_size=6) | st.just([{"a": 1}]) | st.just("0xffffffff")
    )
    told = data.draw(st.lists(st.tuples(st.sampled_from(keys), values), max_size=6))
    method = data.draw(st.sampled_from(known))
    for record in everything(line(plugin, told, method=method)):
        for name in record.__struct_fields__:
            value = getattr(record, name)
            assert value is None or isinstance(value, str | list) or -(2**63) <= value < 2**63, name
