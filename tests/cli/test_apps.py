# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet apps`` over stored files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from click.testing import CliRunner
from identity.tiny import build
from naming.test_watching import executed as page

from drakmet.cli.apps import apps
from drakmet.errors import StoreError, UsageError
from drakmet.naming import Application
from drakmet.scan import SCAN_RECORDS
from drakmet.store import Writer

if TYPE_CHECKING:
    from pathlib import Path


def stored(path: Path, *rows: Application) -> str:
    with Writer(path, list(SCAN_RECORDS)) as writer:
        session = writer.begin_session(source="image:a", host="xen1", guest="web1").session
        for row in rows:
            writer.put(row)
        writer.end_session(session, "done")
    return str(path)


def test_what_was_named_the_same_is_one_line_and_what_is_wrong_comes_first(tmp_path: Path) -> None:
    ssl = {"path": "/usr/lib/libssl.so.3", "package": "libssl3", "verdict": "verified", "version": "3.0", "session": 1}
    file = stored(
        tmp_path / "a.db",
        Application(process=1, time=10**9, pages=5, known=5, candidates=["libssl3 3.0 amd64 /x"], **ssl),
        Application(process=2, time=3 * 10**9, pages=9, known=9, candidates=["libssl3 3.0 amd64 /x"], **ssl),
        Application(session=1, process=2, path="/bin/\\x1bx", verdict="unknown", pages=2, known=0),
    )
    result = CliRunner().invoke(apps, [file, "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    strange, named = json.loads(result.output)
    assert (strange["application"], strange["verdict"]) == ("/bin/\\x1bx", "unknown")
    assert (named["guest"], named["package"], named["version"], named["pages"]) == ("web1", "libssl3", "3.0", 9)
    assert (named["processes"], named["candidates"]) == (2, ["libssl3 3.0 amd64 /x"])
    assert (named["first"], named["last"]) == ("1970-01-01 00:00:01", "1970-01-01 00:00:03")


def test_what_cannot_be_shown_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    for arguments, kind in (([str(tmp_path / "none.db")], StoreError), (["image:a"], UsageError)):
        result = CliRunner().invoke(apps, arguments)
        assert isinstance(result.exception, kind)
    file = stored(tmp_path / "a.db")
    nothing = CliRunner().invoke(apps, [file])
    assert isinstance(nothing.exception, StoreError)
    assert "--identity" in (nothing.exception.hint or "")
    assert isinstance(CliRunner().invoke(apps, [file, "--identity", str(tmp_path / "no.db")]).exception, StoreError)
    build(tmp_path).__exit__()
    unseen = CliRunner().invoke(apps, [file, "--identity", str(tmp_path / "pages.db")])
    assert isinstance(unseen.exception, StoreError)
    assert "execution-pages" in (unseen.exception.hint or "")


def test_a_watch_is_shown_by_what_it_knew_at_last(tmp_path: Path) -> None:
    tool = {"session": 1, "path": "/bin/tool", "verdict": "verified", "package": "tool", "subject": 1, "first": 10**9}
    file = stored(
        tmp_path / "a.db",
        Application(process=1, time=10**9, pages=1, known=1, candidates=["tool 1 amd64 /t", "tool 2 amd64 /t"], **tool),
        Application(process=2, time=5 * 10**9, pages=3, known=3, candidates=["tool 2 amd64 /t"], version="2", **tool),
    )
    (row,) = json.loads(CliRunner().invoke(apps, [file, "--json"], catch_exceptions=False).output)
    assert (row["version"], row["pages"], row["candidates"]) == ("2", 3, ["tool 2 amd64 /t"])
    assert row["processes"] is None
    assert (row["first"], row["last"]) == ("1970-01-01 00:00:01", "1970-01-01 00:00:05")


def test_a_stored_watch_is_named_by_what_a_database_knows_now(tmp_path: Path) -> None:
    build(tmp_path).__exit__()
    executed = type(page(1, b"same"))
    with Writer(tmp_path / "a.db", [executed]) as writer:
        session = writer.begin_session(source="xen:web1", host="xen1", guest="web1").session
        for row in (page(1, b"same", 10**9), page(2, b"2", 3 * 10**9), page(1, b"?", path="/opt/x")):
            writer.put(row)
        writer.end_session(session, "done")
    result = CliRunner().invoke(
        apps, [str(tmp_path / "a.db"), "--identity", str(tmp_path / "pages.db"), "--json"], catch_exceptions=False
    )
    strange, named = json.loads(result.output)
    assert (strange["application"], strange["verdict"]) == ("/opt/x", "unknown")
    assert (named["guest"], named["package"], named["version"], named["pages"]) == ("web1", "tool", "2", 2)
    assert (named["first"], named["last"]) == ("1970-01-01 00:00:01", "1970-01-01 00:00:03")
    assert CliRunner().invoke(apps, [str(tmp_path / "a.db")]).exception is not None
