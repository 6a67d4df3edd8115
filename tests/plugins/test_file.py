# SPDX-License-Identifier: GPL-2.0-or-later
"""What the plugin file makes of hits, branch by branch."""

from __future__ import annotations

import os
from typing import Any

import pytest

from drakmet.plugins import LoadedPlugin, bundled
from drakmet.testing import load, run_trap, trap

REGULAR, PIPE = 0o100644, 0o010600
NEW = 0x100000  # FMODE_CREATED
KEEP = 0xFFFFFFFF
ADDRESS = 0xFFFF888000001000


@pytest.fixture
def plugin() -> LoadedPlugin:
    # Which files were written to is kept per load.
    return load(bundled() / "file.py")


def opened(plugin: LoadedPlugin, **changes: Any) -> Any:
    values = {"requested": "a.txt", "flags": 0, "mode": 0, "opened": "/srv/a.txt", "fmode": 0, "result": 0, **changes}
    (record,) = run_trap(trap(plugin, "open"), **{key: one for key, one in values.items() if one != "lost"})
    return record


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


def write(plugin: LoadedPlugin, count: int | None = 10, *, via: str = "vfs_write", **changes: Any) -> list[Any]:
    values = {"file": ADDRESS, "inode": 77, "kind": REGULAR, "path": "/srv/a.txt", **changes}
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
    for number, via in enumerate(("vfs_write", "vfs_writev", "vfs_copy_file_range", "vfs_iter_write")):
        (record,) = write(plugin, via=via, file=ADDRESS + number)
        assert record.path == "/srv/a.txt"


@pytest.mark.parametrize("via", ["vfs_writev", "vfs_copy_file_range"])
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


def test_a_rename(plugin: LoadedPlugin) -> None:
    (record,) = run_trap(trap(plugin, "rename"), path="/a", new_path="/b", result=-13)
    assert (record.table, record.path, record.new_path, record.result) == ("file_rename", "/a", "/b", -13)


@pytest.mark.parametrize(("label", "directory"), [("unlink", False), ("rmdir", True)])
def test_a_name_is_removed(plugin: LoadedPlugin, label: str, *, directory: bool) -> None:
    (record,) = run_trap(trap(plugin, label), path="/a", result=0)
    assert (record.table, record.path, record.directory, record.result) == ("file_remove", "/a", directory, 0)
    (record,) = run_trap(trap(plugin, label), result=0)
    assert (record.path, record.unreadable) == (None, "path")


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
