# SPDX-License-Identifier: GPL-2.0-or-later
"""Scans: what is in a guest's memory at one moment, read without traps."""

from drakmet.scan.records import SCAN_RECORDS
from drakmet.scan.session import Scanned, scan

__all__ = ["SCAN_RECORDS", "Scanned", "scan"]
