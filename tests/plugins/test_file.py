# SPDX-License-Identifier: GPL-2.0-or-later
"""What the plugin file makes of hits, branch by branch."""

from __future__ import annotations

import os
from typing import Any

import pytest

from drakmet.plugins import LoadedPlugin, bundled
from drakmet.testing import load, run_trap, trap

REGULAR, PIPE = 0o100644, 0o010600
READ, WRITE = 0x1, 0x2  # FMODE_*
CACHED = 0x200000  # LOOKUP_CACHED
AGAIN = -11
TASK, OTHER_TASK = 0xFFFF888000002000, 0xFFFF888000003000
NEW = 0x100000  # FMODE_CREATED
KEEP = 0xFFFFFFFF
ADDRESS = 0xFFFF888000001000


@pytest.fixture
def plugin() -> LoadedPlugin:
    # Which files were written to is kept per load.
    return load(bundled() / "file.py")


def opened(plugin: LoadedPlugin, **changes: Any) -> Any:
    (record,) = opening(plugin, **changes)
    return record


def opening(plugin: LoadedPlugin, **changes: Any) -> list[Any]:
    values = {
        "requested": "a.txt", "flags": 0, "mode": 0, "lookup": 0, "opened": "/srv/a.txt", "fmode": 0, "result": 0,
        **changes,
    }  # fmt: skip
    return run_trap(trap(plugin, "open"), **{key: one for key, one in values.items() if one != "lost"})


@pytest.mark.parametrize(
    ("flags", "access"),
    [(os.O_RDONLY, "r"), (os.O_WRONLY, "w"), (os.O_RDWR, "rw"), (os.O_PATH, "path"), (os.O_PATH | os.O_RDWR, "path")],
)
def test_a_file_is_opened(plugin: LoadedPlugin, flags: int, access: str) -> None:
    record = opened(plugin, flags=flags)
    assert (record.path, record.requested, record.access, record.flags) == ("/srv/a.txt", "a.txt", access, flags)
    assert (record.create, record.created, record.execute, record.mode) == (False, False, False, None)
    assert (record.result, record.unreadable) == (0, None)


def test_a_file_is_made(plugin: LoadedPlugin) -> None:
    record = opened(plugin, flags=os.O_CREAT | os.O_WRONLY, mode=REGULAR, fmode=NEW)
    assert (record.create, record.created, record.mode) == (True, True, 0o644)


def test_a_file_that_was_there_is_not_made(plugin: LoadedPlugin) -> None:
    record = opened(plugin, flags=os.O_CREAT | os.O_WRONLY, mode=REGULAR)
    assert (record.create, record.created) == (True, False)


def test_the_kernel_opens_a_program(plugin: LoadedPlugin) -> None:
    record = opened(plugin, flags=0o100000 | 0x20)
    assert (record.execute, record.flags, record.access) == (True, 0o100000, "r")


def test_an_open_that_fails(plugin: LoadedPlugin) -> None:
    record = opened(plugin, result=-2, opened="lost", fmode="lost")
    assert (record.path, record.requested, record.result, record.created) == (None, "a.txt", -2, None)
    assert record.unreadable is None, "there is nothing to read"


def test_an_open_without_a_readable_path_is_marked(plugin: LoadedPlugin) -> None:
    record = opened(plugin, opened="lost")
    assert (record.path, record.created, record.unreadable) == (None, False, "path")


def test_an_open_of_which_the_end_was_not_seen(plugin: LoadedPlugin) -> None:
    record = opened(plugin, result="lost", opened="lost", fmode="lost")
    assert set(record.unreadable.split(",")) == {"result", "path", "created"}


def test_an_open_with_unknown_flags(plugin: LoadedPlugin) -> None:
    record = opened(plugin, flags="lost", fmode="lost")
    assert (record.access, record.create, record.execute) == (None, None, None)
    assert set(record.unreadable.split(",")) == {"access", "flags", "create", "execute", "created", "mode"}


@pytest.mark.parametrize(
    ("result", "lookup", "count"),
    [(AGAIN, CACHED, 0), (AGAIN, 0, 1), (AGAIN, "lost", 1), (0, CACHED, 1), (-2, CACHED, 1)],
)
def test_a_try_that_was_not_allowed_to_wait_is_no_open_of_its_own(
    plugin: LoadedPlugin, result: int, lookup: int | str, count: int
) -> None:
    assert len(opening(plugin, result=result, lookup=lookup)) == count


def write(plugin: LoadedPlugin, count: int | None = 10, *, via: str = "vfs_write", **changes: Any) -> list[Any]:
    values = {"file": ADDRESS, "inode": 77, "kind": REGULAR, "fmode": WRITE, "path": "/srv/a.txt", **changes}
    if "count" in trap(plugin, via).fetch and count is not None:
        values["count"] = count
    return run_trap(trap(plugin, via), **{key: one for key, one in values.items() if one != "lost"})


def close(plugin: LoadedPlugin, **changes: Any) -> list[Any]:
    return run_trap(trap(plugin, "close"), **{"file": ADDRESS, "inode": 77, **changes})


def test_the_first_write_is_told_and_the_bytes_at_the_close(plugin: LoadedPlugin) -> None:
    (first,) = write(plugin, 10)
    assert (first.table, first.path, first.file, first.unreadable) == ("file_write", "/srv/a.txt", ADDRESS, None)
    assert write(plugin, 5) == []
    (end,) = close(plugin)
    assert (end.table, end.path, end.file, end.bytes_written) == ("file_close", "/srv/a.txt", ADDRESS, 15)
    assert close(plugin) == []
    assert len(write(plugin)) == 1, "the next file at that address"


def test_each_way_to_write_counts(plugin: LoadedPlugin) -> None:
    for number, via in enumerate(("vfs_write", "vfs_writev", "vfs_copy_file_range", "iter_file_splice_write")):
        (record,) = write(plugin, via=via, file=ADDRESS + number)
        assert record.path == "/srv/a.txt"


@pytest.mark.parametrize("via", ["vfs_writev", "vfs_copy_file_range", "iter_file_splice_write"])
def test_bytes_that_are_not_known_are_not_guessed(plugin: LoadedPlugin, via: str) -> None:
    # writev has the number of its pieces at hand, not of bytes; cp asks copy_file_range for all a file could hold.
    assert "count" not in trap(plugin, via).fetch
    write(plugin, 10)
    write(plugin, via=via)
    write(plugin, 10)
    (end,) = close(plugin)
    assert end.bytes_written is None


def test_a_count_that_cannot_be_read_makes_the_sum_unknown(plugin: LoadedPlugin) -> None:
    write(plugin, 10)
    write(plugin, None)
    (end,) = close(plugin)
    assert (end.bytes_written, end.unreadable) == (None, "bytes_written")


def test_only_regular_files_count(plugin: LoadedPlugin) -> None:
    assert write(plugin, kind=PIPE) == []
    assert close(plugin) == []


def test_a_write_to_what_was_opened_to_be_read_is_none(plugin: LoadedPlugin) -> None:
    assert write(plugin, fmode=READ) == []
    assert len(write(plugin, fmode="lost")) == 1
    assert write(plugin, fmode=READ | WRITE) == []


def test_a_file_of_unknown_kind_counts(plugin: LoadedPlugin) -> None:
    (record,) = write(plugin, kind="lost")
    assert record.file == ADDRESS


def test_a_path_that_cannot_be_read_is_marked_at_both_ends(plugin: LoadedPlugin) -> None:
    (first,) = write(plugin, path="lost")
    (end,) = close(plugin)
    assert (first.path, first.unreadable, end.path, end.unreadable) == (None, "path", None, "path")


def test_a_close_that_was_missed_mixes_no_files(plugin: LoadedPlugin) -> None:
    write(plugin, 10)
    (second,) = write(plugin, 3, inode=78, path="/srv/b.txt")
    assert second.path == "/srv/b.txt"
    assert close(plugin, inode=79) == [], "another file by now, never written to"
    write(plugin, 10)
    (end,) = close(plugin)
    assert (end.path, end.bytes_written) == ("/srv/a.txt", 10)


def test_what_is_kept_is_bounded_and_the_longest_untouched_goes_first(
    plugin: LoadedPlugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin.module, "_MOST_OPEN", 3)
    for address in (1, 2, 3):
        write(plugin, file=address)
    assert write(plugin, file=1) == []
    write(plugin, file=4)  # 2 goes
    assert [bool(close(plugin, file=address)) for address in (1, 2, 3, 4)] == [True, False, True, True]


CHANGES = [("unlink", "file_remove"), ("rmdir", "file_remove"), ("rename", "file_rename")]


def begin(plugin: LoadedPlugin, what: str, **changes: Any) -> None:
    values = {"task": TASK, "path": "/a", **({"new_path": "/b"} if what == "rename" else {}), **changes}
    values = {key: one for key, one in values.items() if one != "lost"}
    assert run_trap(trap(plugin, f"security_path_{what}"), **values) == [], "it is not known yet how it ends"


def test_a_rename(plugin: LoadedPlugin) -> None:
    begin(plugin, "rename")
    (record,) = run_trap(trap(plugin, "rename"), task=TASK, result=-13)
    assert (record.table, record.path, record.new_path, record.result) == ("file_rename", "/a", "/b", -13)


@pytest.mark.parametrize(("what", "directory"), [("unlink", False), ("rmdir", True)])
def test_a_name_is_removed(plugin: LoadedPlugin, what: str, *, directory: bool) -> None:
    begin(plugin, what)
    (record,) = run_trap(trap(plugin, what), task=TASK, result=0)
    assert (record.table, record.path, record.directory, record.result) == ("file_remove", "/a", directory, 0)
    assert record.unreadable is None


@pytest.mark.parametrize(("what", "table"), CHANGES)
def test_a_name_that_cannot_be_read_is_marked(plugin: LoadedPlugin, what: str, table: str) -> None:
    begin(plugin, what, path="lost")
    (record,) = run_trap(trap(plugin, what), task=TASK, result=0)
    assert (record.table, record.path, record.unreadable) == (table, None, "path")
    begin(plugin, what)
    (record,) = run_trap(trap(plugin, what), task=TASK)
    assert (record.path, record.result, record.unreadable) == ("/a", None, "result")


@pytest.mark.parametrize(("what", "table"), CHANGES)
def test_a_name_that_is_not_there_is_no_change(plugin: LoadedPlugin, what: str, table: str) -> None:
    assert run_trap(trap(plugin, what), task=TASK, result=-2) == [], table
    begin(plugin, what)
    run_trap(trap(plugin, what), task=TASK, result=0)
    assert run_trap(trap(plugin, what), task=TASK, result=-2) == [], "that was the one before"


def test_threads_are_not_mixed(plugin: LoadedPlugin) -> None:
    begin(plugin, "unlink", path="/one")
    begin(plugin, "unlink", path="/two", task=OTHER_TASK)
    (first,) = run_trap(trap(plugin, "unlink"), task=TASK, result=0)
    (second,) = run_trap(trap(plugin, "unlink"), task=OTHER_TASK, result=0)
    assert (first.path, second.path) == ("/one", "/two")


def test_a_change_tried_again_is_told_once(plugin: LoadedPlugin) -> None:
    begin(plugin, "unlink", path="/before")
    begin(plugin, "unlink")  # the kernel starts over, for instance when a network file system's handle went stale
    (record,) = run_trap(trap(plugin, "unlink"), task=TASK, result=0)
    assert record.path == "/a"


def test_changes_begun_are_bounded(plugin: LoadedPlugin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin.module, "_MOST_OPEN", 2)
    for task in (1, 2, 3):
        begin(plugin, "unlink", task=task)
    assert [len(run_trap(trap(plugin, "unlink"), task=task, result=0)) for task in (1, 2, 3)] == [0, 1, 1]


def test_a_mode_is_changed(plugin: LoadedPlugin) -> None:
    (record,) = run_trap(trap(plugin, "chmod"), path="/a", mode=0o4755, result=0)
    assert (record.table, record.path, record.mode, record.result) == ("file_chmod", "/a", 0o4755, 0)


@pytest.mark.parametrize(("user", "group", "uid", "gid"), [(0, 0, 0, 0), (KEEP, 5, None, 5), (1000, KEEP, 1000, None)])
def test_an_owner_is_changed(plugin: LoadedPlugin, user: int, group: int, uid: int | None, gid: int | None) -> None:
    (record,) = run_trap(trap(plugin, "chown"), path="/a", uid=user, gid=group, result=0)
    assert (record.uid, record.gid, record.unreadable) == (uid, gid, None)


def test_an_owner_that_cannot_be_read_does_not_stay(plugin: LoadedPlugin) -> None:
    (record,) = run_trap(trap(plugin, "chown"), path="/a", gid=KEEP, result=0)
    assert (record.uid, record.gid, record.unreadable) == (None, None, "uid")


def test_only_what_is_to_be_executed_counts_as_mapped(plugin: LoadedPlugin) -> None:
    mapping = trap(plugin, "map")
    assert run_trap(mapping, file=ADDRESS, prot=1, path="/lib/a.so") == []
    assert run_trap(mapping, file=0, prot=5) == [], "no file"
    (record,) = run_trap(mapping, file=ADDRESS, prot=5, path="/lib/a.so")
    assert (record.table, record.path, record.unreadable) == ("file_map", "/lib/a.so", None)
    (record,) = run_trap(mapping, file=ADDRESS, prot=4)
    assert (record.path, record.unreadable) == (None, "path")


def test_the_end_of_one_thing_is_not_taken_for_that_of_another(plugin: LoadedPlugin) -> None:
    # The return of the unlink was missed; the rename that follows fails before its names are found.
    run_trap(trap(plugin, "security_path_unlink"), task=7, path="/srv/a")
    assert run_trap(trap(plugin, "rename"), task=7, result=-2) == []
    assert run_trap(trap(plugin, "rmdir"), task=7, result=-2) == []
