# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet identity``: databases made, added to and listed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner
from identity.tiny import package

from drakmet.cli.identity import identity
from drakmet.errors import StoreError

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
    assert run("build", database, tmp_path / "1.deb") == [{"added": 1, "failed": 0, "pages": 2}]
    assert run("add", database, tmp_path / "2.deb", tmp_path / "2.deb") == [{"added": 2, "failed": 0, "pages": 4}]
    one = {"package": "tool", "version": "1", "architecture": "amd64", "files": 1, "pages": 2}
    assert run("list", database) == [one, one | {"version": "2"}]


def test_only_build_makes_a_database(tmp_path: Path) -> None:
    result = CliRunner().invoke(identity, ["add", str(tmp_path / "none.db"), str(tmp_path)])
    assert isinstance(result.exception, StoreError)
    assert not (tmp_path / "none.db").exists()
