# SPDX-License-Identifier: GPL-2.0-or-later
"""Names for the code that runs in guests: rows that say which application it is, of pages scanned or executed."""

from drakmet.naming.records import Application
from drakmet.naming.watching import Namer

__all__ = ["Application", "Namer"]
