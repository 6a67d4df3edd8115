# SPDX-License-Identifier: GPL-2.0-or-later
"""A file of a real watch, made once for all tests of reports."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from drakmet.cli import cli
from report.files import DEMO


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("watched") / "demo.db"
    result = CliRunner().invoke(cli, ["replay", str(DEMO), "--db", str(path)], standalone_mode=False)
    assert result.exception is None
    return path
