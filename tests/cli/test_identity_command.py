# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet identity``: databases made, added to and listed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner
from identity.tiny import package, program

from drakmet.cli.identity import identity
from drakmet.errors import StoreError
from drakmet.identity import page_hash

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: Any, code: int = 0) -> Any:
    result = CliRunner().invoke(identity, [*map(str, arguments), "--json"], standalone_mode=False)
    assert result.exception is None, result.exception
    assert int(result.return_value or 0) == code
    return json.loads(result.stdout)


def test_versions_are_added_and_listed(tmp_path: Path) -> None:
    database = tmp_path / "pages.db"
    for version in ("1", "2"):
        (tmp_path / f"{version}.deb").write_bytes(package(version, b"same", version.encode()))
    nothing = dict.fromkeys(("added", "failed", "broken", "changed", "dropped", "unchanged", "pages"), 0)
    assert run("build", database, tmp_path / "1.deb") == [nothing | {"added": 1, "pages": 2}]
    twice = run("add", database, tmp_path / "2.deb", tmp_path / "2.deb")
    assert twice == [nothing | {"added": 1, "unchanged": 1, "pages": 2}]
    one = {"package": "tool", "version": "1", "architecture": "amd64", "files": 1, "pages": 2}
    assert run("list", database) == [one, one | {"version": "2"}]
    (tmp_path / "2.deb").unlink()
    assert run("update", database) == [nothing | {"unchanged": 1, "dropped": 1}]
    assert run("list", database) == [one]


def test_a_hash_and_a_file_are_named_with_what_that_rests_on(tmp_path: Path) -> None:
    database, tool = tmp_path / "pages.db", tmp_path / "tool"
    (tmp_path / "1.deb").write_bytes(package("1", b"same", b"1"))
    run("build", database, tmp_path / "1.deb")
    place = {"package": "tool", "version": "1", "architecture": "amd64", "path": "/bin/tool", "build_id": None}
    place |= {"source": "tool", "source_version": "1"}
    assert run("lookup", database, page_hash(b"1".ljust(4096, b"\x90")).hex()) == [place | {"number": 2}]
    assert run("lookup", database, "0" * 32) == []
    tool.write_bytes(program(b"same", b"?", b"1"))
    told = run("lookup", database, tool)[0]
    assert (told["verdict"], told["known"], told["pages"]) == ("unknown", 1, 3)
    tool.write_bytes(program(b"same", b"1"))
    told = run("lookup", database, tool)[0]
    assert (told["verdict"], told["version"], told["known"], told["pages"]) == ("verified", "1", 2, 2)


def test_sources_that_cannot_be_read_are_told_and_counted(tmp_path: Path) -> None:
    (tmp_path / "1.deb").write_bytes(package("1", b"x"))
    (tmp_path / "cut.deb").write_bytes(package("2", b"x")[:-40])
    told = run("build", tmp_path / "pages.db", tmp_path / "1.deb", tmp_path / "cut.deb", tmp_path / "none", code=3)
    assert (told[0]["added"], told[0]["failed"]) == (1, 2)
    run("build", tmp_path / "other.db", tmp_path / "cut.deb", code=2)


def test_only_build_makes_a_database(tmp_path: Path) -> None:
    result = CliRunner().invoke(identity, ["add", str(tmp_path / "none.db"), str(tmp_path)])
    assert isinstance(result.exception, StoreError)
    assert not (tmp_path / "none.db").exists()
