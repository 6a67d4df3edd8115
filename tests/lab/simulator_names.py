# SPDX-License-Identifier: GPL-2.0-or-later
"""What answers are called where real and simulated sessions are compared."""

from __future__ import annotations

from drakmet.pyxen import AccessFlag, Flag

ACCESS_W = AccessFlag.W


def answer_name(flags: int) -> str:
    """Return what an answer has a vCPU do."""
    if flags & Flag.FAST_SINGLESTEP:
        return "fast step"
    if flags & Flag.TOGGLE_SINGLESTEP:
        return "toggle step"
    if flags & Flag.SET_REGISTERS:
        return "skip"
    return "go on"
