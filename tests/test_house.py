# SPDX-License-Identifier: GPL-2.0-or-later
"""The house's own rules: its top level, who imports whom, types, lint."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOP = {"drakmet", "plugins", "rules", "tests", "pyproject.toml", "README.md", "LICENSE"}
CODE = ("drakmet", "plugins", "tests")


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [Path(line) for line in listed.stdout.splitlines()]


def test_the_top_level_is_what_it_is_meant_to_be() -> None:
    assert {path.parts[0] for path in tracked() if not path.parts[0].startswith(".")} <= TOP


def test_every_source_file_names_its_licence() -> None:
    sources = [path for path in tracked() if path.suffix == ".py" and (ROOT / path).exists()]
    assert sources
    assert [str(path) for path in sources if "SPDX-License-Identifier" not in (ROOT / path).read_text()[:200]] == []


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["ruff", "check", "."], id="ruff check"),
        pytest.param(["ruff", "format", "--check", "."], id="ruff format"),
        pytest.param(["mypy"], id="mypy"),
    ],
)
def test_the_tools_are_content(command: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_rooms_import_only_whom_they_may() -> None:
    script = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
