# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of the bundled rules judge what happens, and which what is there."""

from __future__ import annotations

from drakmet.rules import load_rules
from drakmet.scan.records import SCAN_RECORDS

STANDING = {"process_running", *(record.table for record in SCAN_RECORDS)}
"""Tables of what is there when somebody looks; nothing that is done during a watch brings a row."""


UNUSUAL = {"executed_page", "identity_conflict"}
"""Tables of watches that no program of a guest fills by itself: every page that runs is told of only where that was
asked for, and a kernel's books are forged by who has the kernel."""


def of_events() -> set[str]:
    """Return the ids of the rules that what programs do can make fire in any watch."""
    return {rule.id for rule in load_rules().rules if not set(rule.triggers) <= STANDING | UNUSUAL}


def of_scans() -> set[str]:
    """Return the ids of the rules that a scan can make fire."""
    return {rule.id for rule in load_rules().rules if set(rule.triggers) <= STANDING}
