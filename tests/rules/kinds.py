# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of the bundled rules judge what happens, and which what is there."""

from __future__ import annotations

from drakmet.rules import load_rules
from drakmet.scan.records import SCAN_RECORDS

STANDING = {"process_running", *(record.table for record in SCAN_RECORDS)}
"""Tables of what is there when somebody looks; nothing that is done during a watch brings a row."""


def of_events() -> set[str]:
    """Return the ids of the rules that a watch can make fire."""
    return {rule.id for rule in load_rules().rules if not set(rule.triggers) <= STANDING}


def of_scans() -> set[str]:
    """Return the ids of the rules that a scan can make fire."""
    return {rule.id for rule in load_rules().rules if set(rule.triggers) <= STANDING}
