# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON Schema (draft 2020-12) of rule files, for editors that complete and check TOML by one."""

from __future__ import annotations

from typing import Any

import msgspec

from drakmet.rules.format import DURATION, PARAMETER, TABLE, Rule

_DOCS = {
    "id": "the rule's name, the same as its file's",
    "title": "what it finds, in a few words",
    "level": "how bad it is",
    "status": "how well it was tried",
    "description": "what it means, and why somebody should look",
    "attack": "ATT&CK techniques and tactics, such as T1059.004 Unix Shell",
    "references": "where to read more",
    "false_positives": "what is harmless and found nevertheless",
    "tags": "words to choose rules by",
    "since": "the version of drakmet that it needs",
    "author": "who wrote it",
    "license": "its licence, if it is not that of drakmet",
    "date": "when it was written",
    "modified": "when it was changed last",
    "source": "where an imported rule came from",
    "notes": "what a reader must know of it, such as what of an imported rule could not be kept",
    "os": "the system of the guests that it is for; all if left out",
    "from": "the table, or tables, whose new rows are judged",
    "within": "how far back the query looks at other events, :within in SQL",
    "once": "makes one finding of a burst of results with the same values",
    "parameters": "values that a site may set otherwise, :NAME in SQL and {NAME} in the message",
    "message": "what happened, with {column} for the columns of the query's result",
    "sql": "one SELECT; each row of its result is a finding",
    "test": "rows, and what the rule must find in them",
}
_DOCS_OF_PARTS = {
    "Once": {"by": "columns of the query's result", "within": "how long a pause ends a burst"},
    "Test": {
        "title": "what the rows show",
        "findings": "the messages, or how many there are",
        "rows": "rows by table; at, repeat, every and {n} make many of one",
    },
    "Parameter": {"default": "the value, whose type is that of all; text like 5m is a duration", "doc": "what it is"},
}
_SILENT = {"enum": [0, []]}


def schema() -> dict[str, Any]:
    """Return the schema."""
    _, parts = msgspec.json.schema_components([Rule], ref_template="#/$defs/{name}")
    rule = parts.pop("Rule")
    properties = rule["properties"]
    for name, doc in _DOCS.items():
        properties[name]["description"] = doc
    for part, docs in _DOCS_OF_PARTS.items():
        for name, doc in docs.items():
            parts[part]["properties"][name]["description"] = doc
        parts[part].pop("description", None)
    duration = f"^(?:{DURATION.pattern})$"
    parts["Once"]["properties"]["within"]["pattern"] = duration
    properties["within"]["anyOf"] = [{"type": "string", "pattern": duration}]
    table = {"type": "string", "pattern": f"^(?:{TABLE.pattern})$"}
    properties["from"]["anyOf"] = [table, {"type": "array", "items": table, "minItems": 1, "uniqueItems": True}]
    properties["attack"]["items"]["pattern"] = r"^(?:TA\d{4}|T\d{4}(?:\.\d{3})?)(?:\s+\S.*)?$"
    properties["parameters"]["propertyNames"] = {"pattern": f"^(?:{PARAMETER.pattern})$", "not": {"const": "within"}}
    properties["test"]["minItems"] = 2
    properties["test"]["allOf"] = [
        {"contains": {"properties": {"findings": {"not": _SILENT}}, "required": ["findings"]}},
        {"contains": {"properties": {"findings": _SILENT}, "required": ["findings"]}},
    ]
    rule["required"] = [*rule["required"], "test"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "drakmet rule",
        **{name: value for name, value in rule.items() if name not in ("title", "description")},
        "$defs": parts,
    }
