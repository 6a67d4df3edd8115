# SPDX-License-Identifier: GPL-2.0-or-later
"""The store: one SQLite file a watch, written by one `Writer`, read by whoever likes."""

from drakmet.store.reader import ColumnInfo, Reader, TableInfo
from drakmet.store.writer import OpenSession, Writer

__all__ = ["ColumnInfo", "OpenSession", "Reader", "TableInfo", "Writer"]
