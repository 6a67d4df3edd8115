# SPDX-License-Identifier: GPL-2.0-or-later
"""Two looks at a guest, and what is told to be different."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from drakmet.cli import cli
from drakmet.cli.known import known_records
from drakmet.errors import ExitCode, UsageError
from drakmet.holes.records import Advisory, Hole
from drakmet.naming import Application
from drakmet.records import Coverage, Finding, Process
from drakmet.report.diff import COLUMNS, Change, Side, compare
from drakmet.scan.records import GuestState, HiddenObject, KernelModule, MappedFile, MountPoint, OpenSocket
from drakmet.store import Reader, Writer

if TYPE_CHECKING:
    from pathlib import Path

KNOWN = known_records()
Running = next(record for record in KNOWN if record.table == "process_running")
SCANNED = (Running, GuestState, OpenSocket, KernelModule, MountPoint, MappedFile, Application, HiddenObject)


class Scan:
    """Writes scans with what a test says is in the guest."""

    def __init__(self, path: Path) -> None:
        self.writer = Writer(path, KNOWN)

    def __enter__(self) -> Scan:
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()

    def session(self, *things: Any, guest: str = "web1", missing: tuple[type, ...] = (), begin: int = 1) -> int:
        opened = self.writer.begin_session(host="xen1", guest=guest, source=f"xen:{guest}", begin=begin)
        for record in SCANNED:
            if record not in missing:
                self.writer.put(
                    Coverage(session=opened.session, plugin="scan", trap=record.table, tables=[record.table], begin=1)
                )
        for number, thing in enumerate(things, start=opened.next_process):
            self._put(thing, opened.session, number)
        self.writer.end_session(opened.session, "done", end=2)
        return opened.session

    def _put(self, thing: Any, session: int, number: int) -> None:
        if isinstance(thing, tuple):
            argv, uid = thing
            self.writer.put(Process(id=number, session=session, time=1, pid=number + 100, exe=argv[0], uid=uid))
            thing = Running(process=number, pid=number + 100, argv=list(argv), path=argv[0])
        thing.session = session
        self.writer.put(thing)


def finding(message: str) -> Finding:
    return Finding(session=1, time=1, found=1, rule="bad", level="high", title="Bad", message=message)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    path = tmp_path / "two.db"
    with Scan(path) as scan:
        scan.session(
            (("/usr/sbin/sshd", "-D"), 0),
            (("/bin/old",), 0),
            (("/bin/web",), 33),
            GuestState(release="6.1.0-47", uptime=5),
            KernelModule(name="e1000", version="1", address=1 << 63),
            OpenSocket(fd=3, family="inet", protocol="tcp", state="listen", local_address="10.0.0.1", local_port=22),
            MountPoint(path="/", source="/dev/xvda", type="ext4", options=["ro"]),
            MappedFile(path="/lib/libssl.so.3", executable=True, inode=10),
            Application(path="/lib/libssl.so.3", package="libssl3", version="3.0.15", verdict="verified", pages=9),
            finding("pid 101 does it"),
            finding("it is over"),
            begin=1,
        )
        scan.session(
            (("/bin/web",), 0),
            (("/usr/sbin/sshd", "-D"), 0),
            (("/home/\\x1b[31mminer", "-o", "pool"), 0),
            GuestState(release="6.1.0-48", uptime=9),
            KernelModule(name="e1000", version="2", address=1 << 62),
            KernelModule(name="rootkit"),
            OpenSocket(fd=3, family="inet", protocol="tcp", state="listen", local_address="10.0.0.1", local_port=22),
            OpenSocket(fd=4, family="inet6", protocol="tcp", state="listen", local_address="::", local_port=31337),
            MountPoint(path="/", source="/dev/xvda", type="ext4", options=["rw"]),
            MappedFile(path="/lib/libssl.so.3", executable=True, inode=11),
            Application(path="/lib/libssl.so.3", package="libssl3", version="3.0.16", verdict="verified", pages=8),
            HiddenObject(kind="module", name="rootkit", missing_in=["list of modules"]),
            finding("pid 7 does it"),
            finding("it is new"),
            begin=2,
        )
    return path


def changes(path: Path, **options: Any) -> set[tuple[str, str, str]]:
    with Reader(path) as file:
        found = compare(Side(file, [1]), Side(file, [2]), **options)
    return {(one.kind, one.change, one.what) for one in found}


def test_what_is_new_gone_and_changed(two: Path) -> None:
    assert changes(two) == {
        ("kernel", "changed", "kernel"),
        ("process", "new", "/home/\\x1b[31mminer -o pool"),
        ("process", "gone", "/bin/old"),
        ("process", "changed", "/bin/web"),
        ("module", "new", "rootkit"),
        ("module", "changed", "e1000"),
        ("listener", "new", "tcp [::]:31337"),
        ("mount", "changed", "/"),
        ("code file", "changed", "/lib/libssl.so.3"),
        ("application", "changed", "/lib/libssl.so.3"),
        ("hidden object", "new", "module rootkit"),
        ("finding", "new", "it is new"),
        ("finding", "gone", "it is over"),
    }


def test_a_change_says_what_was_and_what_is(two: Path) -> None:
    with Reader(two) as file:
        (kernel,) = compare(Side(file, [1]), Side(file, [2]), {"kernel"})
    assert kernel == Change(
        "xen1", "web1", "kernel", "changed", "kernel", before="release: 6.1.0-47", after="release: 6.1.0-48"
    )


def test_a_file_compared_with_itself_has_no_difference(two: Path) -> None:
    with Reader(two) as one, Reader(two) as other:
        assert compare(Side(one), Side(other)) == []


def test_what_was_not_collected_is_not_known_and_nothing_new(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Scan(path) as scan:
        scan.session((("/bin/web",), 0), missing=(KernelModule,), begin=1)
        scan.session((("/bin/web",), 0), KernelModule(name="e1000"), begin=2)
    with Reader(path) as file:
        (change,) = compare(Side(file, [1]), Side(file, [2]))
    assert (change.kind, change.change) == ("module", "not known")
    assert change.note == "before: kernel_module: not collected"


def test_a_gap_is_told_beside_the_differences(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Scan(path) as scan:
        first = scan.session(KernelModule(name="e1000"), begin=1)
        gap = Coverage(session=first, plugin="scan", trap="modules", tables=["kernel_module"], begin=1)
        gap.kind, gap.gap = "unreadable", "the list goes in a circle"
        scan.writer.put(gap)
        scan.session(KernelModule(name="e1000"), KernelModule(name="other"), begin=2)
    assert changes(path, kinds={"module"}) == {
        ("module", "new", "other"),
        ("module", "not known", "whether all of it is told: module"),
    }


def test_guests_go_together_by_name_and_one_alone_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Scan(path) as scan:
        before = [scan.session((("/bin/a",), 0), guest=name) for name in ("web1", "web2")]
        after = [scan.session((("/bin/a",), 0), (("/bin/b",), 0), guest=name) for name in ("web2", "web3")]
    with Reader(path) as file:
        found = compare(Side(file, before), Side(file, after))
    assert [(one.guest, one.kind, one.change, one.what) for one in found] == [
        ("web1", "guest", "gone", "web1"),
        ("web2", "process", "new", "/bin/b"),
        ("web3", "guest", "new", "web3"),
    ]


def test_a_session_that_is_not_there_is_named(two: Path) -> None:
    with Reader(two) as file, pytest.raises(UsageError, match="no session 9"):
        compare(Side(file, [1]), Side(file, [9]))


def run(*arguments: object) -> Any:
    return CliRunner().invoke(cli, ["diff", *map(str, arguments)], standalone_mode=False)


def test_the_command_takes_the_last_two_sessions(two: Path) -> None:
    result = run(two, "--json")
    assert result.return_value == ExitCode.FINDINGS
    rows = json.loads(result.output)
    assert rows
    assert all(tuple(row) == COLUMNS for row in rows)
    assert "\x1b" not in run(two).output


def test_the_command_says_that_nothing_is_different(two: Path) -> None:
    result = run(two, two)
    assert (result.return_value, result.output) == (ExitCode.CLEAN, "nothing is different\n")


@pytest.mark.parametrize("arguments", [["--sessions", 1, 2], ["--sessions", 2, 1], ["--kind", "module"]])
def test_the_commands_options(two: Path, arguments: list[object]) -> None:
    result = run(two, *arguments, "--nl")
    assert result.exception is None
    assert '"rootkit"' in result.output


def test_bad_use_is_said(two: Path, tmp_path: Path) -> None:
    assert isinstance(run(two, two, "--sessions", 1, 2).exception, UsageError)
    once = tmp_path / "once.db"
    with Scan(once) as scan:
        scan.session()
    assert isinstance(run(once).exception, UsageError)


def test_open_holes_are_new_gone_and_changed_by_the_last_comparison(tmp_path: Path) -> None:
    def hole(name: str, state: str, time: int = 5) -> Hole:
        return Hole(session=1, time=time, hole=name, state=state, package="libssl3", versions=[], paths=[])

    def advisory(time: int = 5) -> Advisory:
        return Advisory(session=1, time=time, name="debian.json", kind="x", digest="")

    path = tmp_path / "two.db"
    with Scan(path) as scan:
        scan.session(
            advisory(4), hole("CVE-0", "affected", 4), advisory(), hole("CVE-1", "affected"), hole("CVE-2", "affected")
        )
        scan.session(
            advisory(), hole("CVE-1", "may be affected"), hole("CVE-2", "fixed"), hole("CVE-3", "affected"), begin=2
        )
    with Reader(path) as file:
        changes = compare(Side(file, [1]), Side(file, [2]), {"hole"})
    assert [(one.change, one.what, one.before, one.after) for one in changes] == [
        ("new", "CVE-3 in libssl3", None, "state: affected"),
        ("gone", "CVE-2 in libssl3", "state: affected", None),
        ("changed", "CVE-1 in libssl3", "state: affected", "state: may be affected"),
    ]
