# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a Sigma rule is not imported."""

from __future__ import annotations

KINDS = {
    "condition": "the condition is none, or cannot be true",
    "field": "the rule rests on fields that our records do not have",
    "file": "the file is no YAML that can be read, or too large",
    "log source": "it is about events that drakmet does not collect",
    "modifier": "it uses something of Sigma that our rules cannot say",
    "placeholder": "it needs values of the site",
    "regular expression": "the regular expression cannot be searched for in bounded time (RE2 does not take it)",
    "rule": "it is no Sigma rule",
    "status": "its authors call it deprecated or unsupported",
    "test": "no event could be made that it finds",
}
"""Every kind of reason."""


class Refused(Exception):  # noqa: N818 - a verdict, not a fault of ours
    """A rule cannot be imported, for a kind of reason and in words."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
