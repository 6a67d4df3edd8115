# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab's commands, as benchmarks give them."""

from __future__ import annotations

import subprocess
import sys

from drakmet.errors import LabError


class Laboratory:
    """A lab host that is up, by its name."""

    host: str

    def _lab(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "drakmet", "lab", *words]

    def _run(self, *words: str, given: bytes | None = None) -> str:
        done = subprocess.run(self._lab(*words), input=given, capture_output=True, check=False)
        if done.returncode:
            raise LabError(f"lab {words[0]} failed", where=self.host, hint=done.stderr.decode(errors="replace").strip())
        return done.stdout.decode()
