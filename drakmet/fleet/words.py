# SPDX-License-Identifier: GPL-2.0-or-later
"""What Ansible's words for a failure mean."""

from __future__ import annotations

import re

# Most telling first.
_SAID = (
    ("host key", r"host key verification failed|identification has changed"),
    (
        "no access",
        r"permission denied|incorrect sudo|missing sudo|incorrect become|sudo: a password|authentication fail",
    ),
    ("full", r"no space left|disk quota"),
    ("broken bundle", r"match the expected checksum"),
    ("slow", r"timed out|timeout"),
    ("broken result", r"file too large"),
)


def meaning(reason: str, *, down: bool) -> str:
    """Return a word for what was wrong with a host; ``down`` if it could not be reached."""
    for kind, pattern in _SAID:
        if re.search(pattern, reason, re.IGNORECASE) and not (kind == "slow" and down):
            return kind
    return "down" if down else "failed"
