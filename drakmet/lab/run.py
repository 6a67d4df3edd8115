# SPDX-License-Identifier: GPL-2.0-or-later
"""Run a program of the distribution and turn its failure into an error that tells what it said."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

from drakmet.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_TOLD_LINES = 12


# Popen complains when it is thrown away while its process runs, and these are meant to run on.
_LEFT_RUNNING: list[subprocess.Popen[bytes]] = []


def start(argv: Sequence[str | Path], **options: Any) -> int:
    """Start a program that outlives this one, in a session of its own, and return its process id; raises OSError.

    ``options`` are those of `subprocess.Popen`.
    """
    process = subprocess.Popen([str(part) for part in argv], start_new_session=True, **options)
    _LEFT_RUNNING.append(process)
    return process.pid


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    hint: str | None = None,
) -> str:
    """Run a command and return its standard output; raise LabError with the last lines it wrote if it fails."""
    command = [str(part) for part in argv]
    # Tools are run in one language, since their output is parsed.
    full_env = {**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=full_env,
            input=stdin if stdin is not None else b"",
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise LabError(
            f"cannot run {command[0]}: {error.strerror}",
            hint=hint or "`drakmet lab doctor` says what to install.",
        ) from error
    if done.returncode != 0:
        said = (done.stderr + done.stdout).decode(errors="replace").strip().splitlines()[-_TOLD_LINES:]
        raise LabError(
            f"{command[0]} ended with {done.returncode}: " + "\n    ".join(said),
            where=" ".join(command[:4]),
            hint=hint,
        )
    return done.stdout.decode(errors="replace")
