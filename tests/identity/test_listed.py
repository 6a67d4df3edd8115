# SPDX-License-Identifier: GPL-2.0-or-later
"""Lists of hashes: what lines are taken, and how files become pages."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from identity.tiny import program

from drakmet.cli import cli
from drakmet.errors import UsageError
from drakmet.identity import listed
from drakmet.pages import page_hash

if TYPE_CHECKING:
    from pathlib import Path

PAGE = page_hash(b"evil".ljust(4096, b"\x90"))


def written(folder: Path, *lines: str) -> Path:
    path = folder / "bad.txt"
    path.write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")
    return path


def test_lines_of_each_kind(tmp_path: Path) -> None:
    md5, sha1, sha256 = (
        hashlib.new(kind, b"x", usedforsecurity=False).hexdigest() for kind in ("md5", "sha1", "sha256")
    )
    found = listed.load(
        [
            written(
                tmp_path,
                "# remark",
                "",
                f"page:{PAGE.hex()}  xmrig 6",
                f"page:{PAGE.hex().upper()}",
                f"{sha256} *sum.bin",
                f'"{sha1}","2026-01-01","elf"',
                f"md5:{md5}",
                "sha256,name",
                f"md5:{sha1}",
                f"page:{sha256}",
                "a" * 33,
            )
        ]
    )
    assert found.pages == {PAGE: ["xmrig 6", "bad.txt"]}
    assert found.sizes == {"xmrig 6": 1, "bad.txt": 1}
    assert found.files.keys() == {md5, sha1, sha256}
    assert found.files[sha256] == "sum.bin"
    assert found.refused == 4
    assert found.of_file(b"x") is not None
    assert found.of_file(b"y") is None


def test_a_list_without_hashes_and_one_that_is_not_there(tmp_path: Path) -> None:
    for path in (written(tmp_path, "nothing"), tmp_path / "none", tmp_path):
        with pytest.raises(UsageError):
            listed.load([path])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=st.text("0123456789abcdefpage:sh\"', *;#\n", max_size=200))
def test_any_text_is_taken_or_counted(text: str, tmp_path: Path) -> None:
    path = written(tmp_path, text, f"page:{PAGE.hex()}")
    assert PAGE in listed.load([path]).pages


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["identity", "hashes", *map(str, arguments)], standalone_mode=False)


def test_files_become_pages_if_they_are_listed(tmp_path: Path) -> None:
    samples = tmp_path / "samples"
    samples.mkdir()
    (samples / "bad").write_bytes(program(b"evil", b"\x90" * 4096))
    (samples / "good").write_bytes(program(b"good"))
    (samples / "text").write_text("no program")
    (samples / "broken").write_bytes(b"\x7fELF\x02\x01")
    result = run(samples)
    assert result.return_value == 3
    assert {line.rpartition(" ")[2] for line in result.stdout.splitlines()} == {"bad", "good"}
    feed = written(tmp_path, hashlib.sha256((samples / "bad").read_bytes()).hexdigest() + "  a miner")
    only = run(samples, "--listed", feed)
    assert only.return_value == 0
    assert only.stdout == f"page:{PAGE.hex()}  a miner\n"  # the page of one byte over and over is left out
    assert run(samples / "text").return_value == 2
