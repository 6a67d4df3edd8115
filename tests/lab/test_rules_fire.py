# SPDX-License-Identifier: GPL-2.0-or-later
"""Every bundled rule fires on the real behaviour it is for, while the guest is watched."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest
from rules.kinds import of_events

from drakmet.cli.demo import INTRUSION, REMOTE_DB, watched_intrusion
from drakmet.lab.client import Upload
from drakmet.lab.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

    from drakmet.lab.client import Agent
    from drakmet.lab.hosts import Host

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def database(lab_host: Host, lab_guest: Agent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a watch during which the guest was broken into."""
    target = tmp_path_factory.mktemp("intrusion") / "watch.db"
    lab_guest.push([Upload("/root/intrusion.sh", INTRUSION.read_bytes(), 0o755)])
    lab_host.agent.run(["rm", "-f", REMOTE_DB, f"{REMOTE_DB}-wal", f"{REMOTE_DB}-shm"], check=True)
    code = watched_intrusion(lab_host.agent, lab_guest, lab_host.guest_names()[0], Progress(quiet=True))
    assert code == 1, "a watch with findings ends with 1"
    lab_host.agent.pull(REMOTE_DB, target)
    return target


def test_each_rule_fires(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        fired = {rule for (rule,) in connection.execute("SELECT DISTINCT rule FROM finding")}
    connection.close()
    assert of_events() - fired == set()


def test_findings_come_within_a_second_of_their_record(database: Path) -> None:
    connection = sqlite3.connect(database)
    late = connection.execute(
        "SELECT rule, (found - time) / 1e9 FROM finding WHERE found - time > 2e9 ORDER BY 2 DESC"
    ).fetchall()
    connection.close()
    # A record waits up to 0.2 s for its commit; from there on it is one second, of an emulated CPU that all share.
    assert late == []


def test_nothing_was_unreadable_or_lost(database: Path) -> None:
    connection = sqlite3.connect(database)
    rows = connection.execute("SELECT (SELECT count(*) FROM plugin_fault), (SELECT count(*) FROM drakmet_quarantine)")
    assert rows.fetchone() == (0, 0)
    gaps = connection.execute(
        "SELECT plugin, trap, gap FROM coverage WHERE gap IS NOT NULL AND kind <> 'guest paused'"
    ).fetchall()
    connection.close()
    assert gaps == []
