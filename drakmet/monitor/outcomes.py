# SPDX-License-Identifier: GPL-2.0-or-later
"""How a watch ends; kept with its session."""

from __future__ import annotations

from typing import Final

DONE: Final = "done"
GUEST_GONE: Final = "guest gone"
NO_GUARDIAN: Final = "the guardian is gone"
FREED: Final = "the guardian freed the guest: it had waited too long for this process"
CUT_SHORT: Final = frozenset((NO_GUARDIAN, FREED))
"""Ends that nobody asked for, with a guest that runs on unwatched."""
