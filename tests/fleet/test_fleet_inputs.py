# SPDX-License-Identifier: GPL-2.0-or-later
"""What a fleet's scan is given: plugins and a database that go to the hosts, files that are no memory, damaged ones."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from fleet.fake import core, here, write_inventory
from identity.tiny import build

from drakmet.cli.fleet import fleet
from drakmet.errors import StoreError, UsageError
from drakmet.store.verifier import verify

if TYPE_CHECKING:
    from click.testing import Result

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="Ansible reaches other hosts by ssh")

PLUGIN = '''
"""How many processes a guest has."""

from pathlib import Path
from typing import Annotated

from drakmet import EventRecord, hookimpl


class Crowd(EventRecord):
    """Processes were counted."""

    processes: Annotated[int, "how many"]
    site: Annotated[str, "whose count it is"]


def count(scan):
    """Count them."""
    site = Path(__file__).with_name("site.txt").read_text().strip()
    yield Crowd(session=scan.session, time=scan.time, processes=len(list(scan.tasks())), site=site)


@hookimpl
def drakmet_records():
    """Name the table."""
    return [Crowd]


@hookimpl
def drakmet_collectors():
    """Give the counter."""
    return [count]
'''


def call(*arguments: object) -> Result:
    return CliRunner().invoke(fleet, [str(one) for one in arguments])


def rows(run: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(run / "fleet.db")) as connection:
        return connection.execute(sql).fetchall()


def test_plugins_and_a_database_of_pages_go_with_the_bundle(tmp_path: Path) -> None:
    plugins, run = tmp_path / "plugins", tmp_path / "run"
    plugins.mkdir(mode=0o700)
    (plugins / "crowd.py").write_text(PLUGIN)
    (plugins / "site.txt").write_text("ours\n")
    with build(tmp_path):
        pass
    hosts = {"a": here(tmp_path / "a", core(tmp_path, "6.1"), f"image:{tmp_path}/later.core")}
    inventory = write_inventory(tmp_path / "fleet.json", hosts)
    more = ("--plugins-dir", plugins, "--identity", tmp_path / "pages.db", "--no-rules")
    first = call("scan", "-i", inventory, "--run", run, *more)
    assert first.exit_code == 3, first.output
    wanted = "SELECT s.source, c.processes, c.site FROM crowd AS c JOIN session AS s ON s.id = c.session"
    ((source, processes, site),) = rows(run, wanted)
    assert (Path(source).name, site) == ("6.1.core", "ours")
    assert processes == rows(run, "SELECT count(*) FROM process")[0][0]
    # None of the sample's code is in its memory: what matters is that each piece was looked for.
    assert {verdict for (verdict,) in rows(run, "SELECT verdict FROM application")} == {"unverifiable"}
    (bundle,) = (tmp_path / "a").glob("bundle-*")
    assert {path.name for path in bundle.iterdir()} >= {"plugins", "identity.db"}
    Path(core(tmp_path, "5.10").removeprefix("image:")).rename(tmp_path / "later.core")
    assert call("scan", "--resume", run, "--no-rules").exit_code == 3  # all was read, but for what images lack
    assert [Path(source).name for source, _, _ in rows(run, wanted)] == ["6.1.core", "later.core"]
    assert not verify(run / "fleet.db").faults


def test_plugins_and_databases_that_no_host_could_use_are_refused_before(tmp_path: Path) -> None:
    inventory = write_inventory(tmp_path / "fleet.json", {"a": here(tmp_path / "a", "image:x")})
    (tmp_path / "no.db").write_text("no database of pages, and longer than a header of SQLite's is")
    for option, place, kind in (
        ("--plugins-dir", tmp_path / "none", UsageError),
        ("--identity", tmp_path / "none", StoreError),
        ("--identity", tmp_path / "no.db", StoreError),
    ):
        result = call("scan", "-i", inventory, "--run", tmp_path / "run", option, place)
        assert isinstance(result.exception, kind), result.output
        assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Return a run over a host whose files are damaged, or no memory, all but the last."""
    folder = tmp_path_factory.mktemp("bad")
    whole = Path(core(folder, "6.12").removeprefix("image:")).read_bytes()
    files = {
        "disk": b"QFI\xfb" + bytes(8000),
        "zipped": b"\x1f\x8b" + bytes(8000),
        "text": b"a letter",
        "zeros": bytes(4 << 20),
        "head": whole[:40],
        "half": whole[: len(whole) // 2],
        "tail": whole[:-5000],
    }
    for name, data in files.items():
        (folder / f"{name}.core").write_bytes(data)
    host = here(folder / "host", *(f"image:{folder}/{name}.core" for name in files), core(folder, "5.10"))
    inventory = write_inventory(folder / "fleet.json", {"host": host})
    return folder, call("scan", "-i", inventory, "--run", folder / "run", "--json", "--retries", 0)


SAID = {
    "disk": "the file is no memory image: it is a disk image",
    "zipped": "the file is no memory image: it is compressed",
    "text": "the file is no memory image: it is smaller than any guest",
    "zeros": "the memory is empty: no guest ran in it",
    "head": "the memory image is damaged: it is cut short",
}


def test_a_file_that_is_no_memory_is_named_and_those_after_it_are_read(bad: tuple[Path, Result]) -> None:
    folder, result = bad
    assert result.exit_code == 3, result.output
    (host,) = [row for row in map(json.loads, result.stdout.splitlines()) if row["table"] == "host"]
    assert (host["outcome"], host["guests"]) == ("partly", 8)
    ends = {Path(source).stem: end for source, end in rows(folder / "run", "SELECT source, outcome FROM session")}
    for name, words in SAID.items():
        assert words in ends[name], ends
    assert ends["5.10"] == ends["tail"] == "done"
    assert host["failed_guests"] == sum(end != "done" for end in ends.values())
    assert not verify(folder / "run/fleet.db").faults


def test_of_a_core_that_was_cut_off_what_is_there_is_read_and_the_rest_is_told(bad: tuple[Path, Result]) -> None:
    folder, _ = bad
    gaps = rows(folder / "run", "SELECT s.source, c.gap FROM coverage AS c JOIN session AS s ON s.id = c.session")
    cut = {Path(source).stem for source, gap in gaps if gap and "cut short" in gap}
    assert cut == {"head", "half", "tail"}, gaps
    read = "SELECT count(*) FROM process AS p JOIN session AS s ON s.id = p.session WHERE s.source LIKE '%tail.core'"
    assert rows(folder / "run", read)[0][0] > 10
