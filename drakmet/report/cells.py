# SPDX-License-Identifier: GPL-2.0-or-later
"""Our plugin for Datasette: cells as they are meant, and our SQL functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

from drakmet.store import functions, schema

if TYPE_CHECKING:
    import sqlite3

    from drakmet.store import Reader

_hookimpl = pluggy.HookimplMarker("datasette")


class Cells:
    """Shows addresses in hex and truths as words, by what a file says of its columns."""

    def __init__(self, file: Reader) -> None:
        self.__name__ = "drakmet.report"  # Datasette takes each plugin for a module
        self._kinds: dict[tuple[str | None, str], str | None] = {}
        by_name: dict[str, set[str | None]] = {}
        for table in file.tables():
            for column in table.columns:
                self._kinds[table.name, column.name] = column.kind
                by_name.setdefault(column.name, set()).add(column.kind)
        # In a query's answer no table is named: a column that means the same wherever it is keeps its meaning.
        self._kinds |= {(None, name): kinds.pop() for name, kinds in by_name.items() if len(kinds) == 1}

    @_hookimpl
    def render_cell(self, value: Any, column: str, table: str | None) -> str | None:
        """Return what stands in a cell; None leaves it to Datasette."""
        kind = self._kinds.get((table, column))
        if isinstance(value, int):
            if kind == "address":
                return functions.hex_address(value)
            if kind == "bool":
                return "yes" if value else "no"
        if isinstance(value, str) and "://" in value[:20]:
            # Datasette would make a link of it: a guest's text is nothing to click at.
            import markupsafe

            return markupsafe.escape(value)
        return None

    @_hookimpl
    def prepare_connection(self, conn: sqlite3.Connection) -> None:
        """Give each connection what queries of ours use, and a file of others' none of it in its own views."""
        if not schema.computes_only_ours(conn):
            conn.execute("PRAGMA trusted_schema = OFF")
        functions.register(conn)
