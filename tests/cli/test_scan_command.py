# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet scan`` over files of guests' memory."""

from __future__ import annotations

import json
import lzma
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from click.testing import CliRunner
from guest.images import image
from rules.kinds import of_scans
from sources.image_files import elf_core, lime, raw

from drakmet.cli.scan import scan
from drakmet.errors import UsageError, XenError
from drakmet.records import Finding
from drakmet.rules import State
from drakmet.scan import SCAN_RECORDS
from drakmet.scan import scan as scan_of
from drakmet.sources import open_source

if TYPE_CHECKING:
    from click.testing import Result

DATA = Path(__file__).parent.parent / "data"
TABLES = sorted({record.table for record in SCAN_RECORDS})


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("core") / "guest.core"
    path.write_bytes(elf_core(image("6.1").memory.pages))
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(scan, [str(one) for one in arguments])


def rows(database: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(sql).fetchall()


def test_an_image_from_file_to_findings(core: Path, tmp_path: Path) -> None:
    database = tmp_path / "a.db"
    result = run(f"image:{core}", "--db", database)
    assert result.exit_code == 1, result.output
    fired = {rule for (rule,) in rows(database, "SELECT rule FROM finding")}
    wanted = {"running-program-from-memory", "running-false-kernel-thread", "running-program-deleted"}
    assert wanted <= fired <= of_scans()
    assert all(rule in result.stdout for rule in fired)
    assert image("6.1").kernel.profile.release in result.stdout
    assert database.stat().st_mode & 0o077 == 0
    ((outcome, kernel),) = rows(database, "SELECT outcome, kernel FROM session JOIN guest ON guest.id = session.guest")
    assert (outcome, kernel) == ("done", image("6.1").kernel.banner)
    assert len(rows(database, "SELECT 1 FROM process")) == len(list(image("6.1").guest.tasks()))


def test_json_is_one_object_a_line(core: Path, tmp_path: Path) -> None:
    result = run(f"image:{core}", "--db", tmp_path / "a.db", "--json")
    told = [json.loads(line) for line in result.stdout.splitlines()]
    (guest,) = [row for row in told if row["table"] == "guest"]
    summary = told[-1]
    findings = [row for row in told if row["table"] == "finding"]
    assert guest["rows"]["process"] > 40
    # Of the page cache's types this image has kept none: what rests on them says so.
    cut = ["code_views: struct address_space has no member i_pages"]
    assert (guest["failed"], guest["gaps"], guest["paused"]) == (False, cut, None)
    assert set(Finding.__struct_fields__) < set(findings[0])
    assert (summary["findings"], summary["exit_code"], summary["failed"]) == (len(findings), 1, 0)


def test_a_file_that_was_scanned_before_is_judged_anew_only_for_what_is_new(core: Path, tmp_path: Path) -> None:
    database = tmp_path / "a.db"
    run(f"image:{core}", "--db", database)
    first = len(rows(database, "SELECT 1 FROM finding"))
    run(f"image:{core}", "--db", database)
    assert len(rows(database, "SELECT 1 FROM finding WHERE session = 2")) == first
    assert rows(database, "SELECT count(*) FROM guest") == [(1,)]


def test_one_that_cannot_be_read_is_a_row_with_its_reason(core: Path, tmp_path: Path) -> None:
    database = tmp_path / "a.db"
    broken = tmp_path / "windows.dmp"
    broken.write_bytes(b"PAGEDU64" + bytes(1 << 20))
    result = run(f"image:{broken}", f"image:{core}", f"image:{tmp_path / 'none'}", "--db", database)
    assert result.exit_code == 3
    outcomes = [outcome for (outcome,) in rows(database, "SELECT outcome FROM session ORDER BY id")]
    assert outcomes == ["the file is no memory image: it is a crash dump of Windows", "done",
                        "cannot open the memory image: No such file or directory"]  # fmt: skip
    assert all(outcome in result.stdout for outcome in outcomes)
    assert len(rows(database, "SELECT 1 FROM coverage WHERE gap LIKE '%Windows%'")) == 1


def test_rules_over_a_guest_that_was_not_read_are_not_evaluated(tmp_path: Path) -> None:
    from drakmet.rules import bundled, judge, load_rules

    database = tmp_path / "a.db"
    empty = tmp_path / "empty"
    empty.write_bytes(bytes(2 << 20))
    result = run(f"image:{empty}", "--db", database)
    assert result.exit_code == 4
    assert "the memory is empty" in result.stdout
    rules = load_rules([bundled()])
    chosen = [rule for rule in rules.rules if rule.id in of_scans()]
    assert {end.state for end in judge(database, chosen, rules.lists)[1]} == {State.NOT_EVALUATED}


def test_an_image_that_is_cut_short_gives_what_it_has_and_says_so(tmp_path: Path) -> None:
    whole = lime(image("6.1").memory.pages)
    path = tmp_path / "cut.lime"
    path.write_bytes(whole[: len(whole) - 9000])
    result = run(f"image:{path}", "--db", tmp_path / "a.db", "--no-rules")
    assert result.exit_code in (3, 4)
    assert "cut short" in result.stdout


def test_a_kernel_without_types_is_read_with_an_isf_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, core: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # no profile is known yet
    guest = image("6.1").kernel
    start, stop = (guest.gpa(guest.address(f"__{end}_BTF")) for end in ("start", "stop"))
    pages = image("6.1").memory.pages
    without = {gfn: page for gfn, page in pages.items() if not start <= gfn << 12 <= stop - 4096}
    without.setdefault(guest.base >> 12, bytes(4096))  # the fixture lacks the first page of the kernel's code
    bare = tmp_path / "bare.core"
    bare.write_bytes(elf_core(without))
    result = run(f"image:{bare}", "--db", tmp_path / "a.db", "--no-rules")
    assert result.exit_code == 4
    assert "--isf FILE" in result.output

    with closing(open_source(f"image:{core}")) as source:  # what a scan asks of the profile, as a file
        kernel = source.kernel()
        scan_of(source, [], [], kernel=kernel)
    isf = tmp_path / "kernel.json.xz"
    isf.write_bytes(lzma.compress(msgspec.json.encode(kernel.profile.subset())))
    shutil.rmtree(tmp_path / "cache")
    other = DATA / "profile-5.10.0-32-amd64.json.gz"
    result = run(f"image:{bare}", "--db", tmp_path / "d.db", "--no-rules", "--isf", other)
    assert result.exit_code == 4  # it is another kernel's
    result = run(f"image:{bare}", "--db", tmp_path / "b.db", "--no-rules", "--isf", isf)
    # Partly done, as with the image's own types: they are cut, and none of the page cache's is left.
    assert (result.exit_code, result.output.count("not all: code_views")) == (3, 1), result.output
    run(f"image:{core}", "--db", tmp_path / "c.db", "--no-rules")
    told = [[rows(tmp_path / f"{which}.db", f"SELECT count(*) FROM {table}") for table in TABLES] for which in "bc"]  # noqa: S608
    assert told[0] == told[1]
    assert sum(count for ((count,),) in told[0]) > 100
    assert isinstance(run(f"image:{bare}", "--db", tmp_path / "e.db", "--isf", bare).exception, UsageError)


def test_bad_arguments(tmp_path: Path) -> None:
    assert run().exit_code == 2
    assert run("--all", "xen:web1").exit_code == 2
    assert isinstance(run("ftp://x", "--db", tmp_path / "a.db").exception, UsageError)
    assert not (tmp_path / "a.db").exists()
    # No Xen on the machine of the tests.
    assert isinstance(run("--all", "--db", tmp_path / "a.db").exception, XenError)


def through_libvmi(path: Path) -> list[tuple[int, str]]:
    """Walk the list of tasks by hand, in memory that LibVMI reads; of drakmet only offsets and addresses are used."""
    import libvmi

    kernel = image("6.1").kernel
    types, init_task = kernel.profile.types, kernel.address("init_task")
    links, pid, comm = (types.offset("task_struct", name) for name in ("tasks", "tgid", "comm"))
    with libvmi.Libvmi(str(path), mode=libvmi.VMIMode.FILE, partial=True) as vmi:
        found, task = [], init_task
        while True:
            gpa = task - kernel.page_offset if task != init_task else kernel.base + task - kernel.address("_text")
            if task != init_task:
                name = vmi.read_pa(gpa + comm, 16)[0].partition(b"\0")[0]
                found.append((vmi.read_32_pa(gpa + pid), name.decode()))
            task = vmi.read_64_pa(gpa + links) - links
            if task == init_task:
                return found


def test_libvmi_sees_the_same(tmp_path: Path) -> None:
    pytest.importorskip("libvmi", reason="the extra vmi is not installed")
    path = tmp_path / "guest.raw"
    path.write_bytes(raw(image("6.1").memory.pages))
    found = []
    for kind in ("vmi", "image"):
        result = run(f"{kind}:{path}", "--db", tmp_path / f"{kind}.db", "--no-rules")
        assert result.exit_code == 3, result.output  # partly done, for what is cut out of the image
        found.append(rows(tmp_path / f"{kind}.db", "SELECT pid, comm, exe, start_time FROM process ORDER BY pid"))
    assert found[0] == found[1]
    assert sorted(through_libvmi(path)) == [row[:2] for row in found[0]]


def test_ram_above_4_gib_that_follows_in_the_file_is_put_there(tmp_path: Path) -> None:
    from drakmet.guest.memory import Unreadable
    from drakmet.sources.images import ImageSource

    kernel, memory = image("6.1").kernel, image("6.1").memory
    moved = 8 << 20
    pages = raw(memory.pages).ljust(memory.size, b"\0")
    at = kernel.gpa(kernel.address("max_pfn"))
    path = tmp_path / "guest.ram"
    path.write_bytes(pages[:at] + ((1 << 32) + moved >> 12).to_bytes(8, "little") + pages[at + 8 :])
    source = ImageSource(str(path))
    source.kernel()
    below = memory.size - moved
    assert source.memory.size == (1 << 32) + moved
    assert source.memory.read(1 << 32, 4096) == pages[below : below + 4096]
    with pytest.raises(Unreadable):
        source.memory.read(below, 1)
    source.close()


def test_an_image_is_searched_for_listed_code_without_a_database(core: Path, tmp_path: Path) -> None:
    listed = tmp_path / "bad.txt"
    listed.write_text("page:" + "ab" * 16 + "  miner\n", encoding="ascii")
    database = tmp_path / "a.db"
    result = run(f"image:{core}", "--db", database, "--hashes", listed)
    assert result.exit_code == 1, result.output
    assert rows(database, "SELECT 1 FROM listed_code") == []
    booked = rows(database, "SELECT tables, gap FROM coverage WHERE trap = 'applications'")
    assert booked == [('["listed_code"]', None)]
    listed.write_text("no hash", encoding="ascii")
    assert isinstance(run(f"image:{core}", "--db", tmp_path / "b.db", "--hashes", listed).exception, UsageError)
    assert not (tmp_path / "b.db").exists()
