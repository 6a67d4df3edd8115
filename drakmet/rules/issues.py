# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said of a rule's faults: to people in a terminal, and to programs in SARIF."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from drakmet import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable

CODES = {
    "attack": "ATT&CK ids and names are those of the bundled table",
    "denied": "a rule is one SELECT over records and lists",
    "doubled": "each column of the result has a name of its own",
    "exception": "an exception names a rule that is there, and has not run out",
    "format": "a rule file is TOML with the keys of a rule",
    "from": "from names tables of events, which the query reads under their own names",
    "history": "a table in from stands for its new rows; main.TABLE is the whole",
    "id": "a rule's file is named like the rule",
    "id-column": "the query selects the number of the row that is judged",
    "message": "the message names columns of the query's result, or parameters",
    "once": "once names columns of the query's result",
    "parameters": "the query uses the parameters that the rule declares, and no others",
    "quotes": "text stands in single quotes, a column's name in double ones",
    "since": "since is a version of drakmet that is there",
    "slow": "the query does not read a whole table for each row that it judges",
    "syntax": "the query is SQL that SQLite understands",
    "tests": "a rule has a test that finds something, and one that finds nothing",
    "unknown-column": "columns are those of the records' tables",
    "unknown-function": "functions are SQLite's and drakmet's",
    "unknown-table": "tables are those of records, lists and views",
    "within": "a query that looks back says how far",
}
"""Every kind of fault, with what is right instead."""


@dataclass(frozen=True, slots=True)
class Issue:
    """Something wrong ("error") or doubtful ("warning") in a rule file, where, and what to do."""

    level: str
    code: str
    where: str
    text: str
    hint: str | None = None


def sarif(issues: Iterable[Issue]) -> dict[str, Any]:
    """Return issues as a SARIF 2.1.0 log (OASIS, 2020), with paths as they were given."""
    return {
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "drakmet rules check",
                        "version": __version__,
                        "rules": [{"id": code, "shortDescription": {"text": text}} for code, text in CODES.items()],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "results": [_result(issue) for issue in issues],
            }
        ],
    }


def _result(issue: Issue) -> dict[str, Any]:
    path, _, line = issue.where.rpartition(":")
    if not line.isdecimal():
        path, line = issue.where, "1"
    return {
        "ruleId": issue.code,
        "ruleIndex": list(CODES).index(issue.code),
        "level": issue.level,
        "message": {"text": f"{issue.text}: {issue.hint}" if issue.hint else issue.text},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": _uri(path)},
                    "region": {"startLine": max(1, int(line))},
                }
            }
        ],
    }


def _uri(path: str) -> str:
    from urllib.parse import quote

    return ("file://" if path.startswith("/") else "") + quote(path)
