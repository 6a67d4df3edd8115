# SPDX-License-Identifier: GPL-2.0-or-later
"""`drakmet rules import sigma` as a person uses it: what is written, what is told, what it ends with."""

import json
from pathlib import Path

from click.testing import CliRunner, Result

from drakmet.cli.rules import rules

RULE = """
title: A shell is asked for
logsource: {product: linux, category: process_creation}
detection:
  selection:
    Image|endswith: /bash
    CommandLine|contains: ' -i'
  condition: selection
level: high
"""


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(rules, [*map(str, arguments)])


def test_what_is_imported_passes_check_test_and_fmt(tmp_path: Path) -> None:
    (tmp_path / "shell.yml").write_text(RULE)
    to = tmp_path / "rules"
    told = run("import", "sigma", tmp_path, "--output", to, "--json")
    assert told.exit_code == 0, told.output
    (row,) = json.loads(told.stdout)
    assert (row["rule"], row["state"], row["reason"]) == ("sigma-shell", "imported", None)
    assert run("check", to).exit_code == 0
    assert run("test", to).exit_code == 0
    assert run("fmt", "--check", to).exit_code == 0
