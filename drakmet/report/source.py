# SPDX-License-Identifier: GPL-2.0-or-later
"""What the parts of a report ask a file for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from drakmet.report.limits import Limits
from drakmet.report.tree import Forest, walk
from drakmet.store.schema import quote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.report.tree import Node
    from drakmet.store import Reader, TableInfo

LONG = 600.0
Row = dict[str, Any]


class Source:
    """A file, or one session of it, with its processes; ``told`` collects what a report leaves out."""

    def __init__(self, reader: Reader, session: int | None = None, limits: Limits | None = None) -> None:
        self.reader = reader
        self.session = session
        self.limits = limits or Limits()
        self.told: list[str] = []
        self.tables: dict[str, TableInfo] = {table.name: table for table in reader.tables()}
        forest = Forest(reader, session)
        self.nodes: list[Node] = [node for _, node in walk(forest.roots())]
        self.node = forest.node
        self.guests: dict[int, int] = {
            row["id"]: row["guest"] for row in self.select("SELECT id, guest FROM session", within=False)
        }

    def has(self, table: str, *columns: str) -> bool:
        """Tell whether the file has a table with rows, and the table these columns."""
        info = self.tables.get(table)
        return info is not None and info.rows > 0 and set(columns) <= {column.name for column in info.columns}

    def select(self, sql: str, *, within: bool = True, **parameters: Any) -> Iterator[Row]:
        """Run a SELECT; ``:within`` in it stands for a condition on the column session."""
        if within:
            where = "1" if self.session is None else f"session = {int(self.session)}"
            sql = sql.replace(":within", where)
        yield from self.reader.select(sql, parameters or None, seconds=LONG)[1]

    def some(self, table: str, order: str = "id", limit: int | None = None) -> list[Row]:
        """Return the first rows of a table, [] if it is not there; what is left out is told."""
        if not self.has(table):
            return []
        most = self.limits.rows if limit is None else limit
        sql = f"SELECT * FROM {quote(table)} WHERE :within ORDER BY {order} LIMIT {most + 1}"  # noqa: S608 - ours
        rows = list(self.select(sql))
        if len(rows) > most:
            rows.pop()
            self.told.append(f"{table}: the first {most:,} of {self.tables[table].rows:,} rows are shown")
        return rows

    def process(self, row: int | None) -> int | None:
        """Return the process, by its id in the report, that a row of the table process belongs to."""
        node = self.node(row)
        return None if node is None else node.id
