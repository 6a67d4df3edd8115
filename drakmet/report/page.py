# SPDX-License-Identifier: GPL-2.0-or-later
"""A report as one HTML page that needs nothing beside itself and asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from importlib import resources
from typing import TYPE_CHECKING, Any

from drakmet.report.limits import Limits
from drakmet.report.model import model
from drakmet.report.pack import packed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from drakmet.report.source import Row
    from drakmet.store import Reader

MOST_BYTES = 10_000_000
"""A page is smaller than this."""

SCRIPTS = (
    *("dom.js", "data.js", "format.js", "table.js", "overview.js", "findings.js", "guests.js", "applications.js"),
    *("processes.js", "timeline.js", "connections.js", "coverage.js", "main.js"),
)


def page(
    reader: Reader, session: int | None = None, *, rules: Sequence[Row] = (), note: Callable[[str], object] = str
) -> str:
    """Return the page of a file or of one session; ``rules`` is what became of rules, if it is known.

    ``note`` is told what is done next. Raises `UsageError` or `StoreError` if the file cannot be read.
    """
    limits = Limits()
    while True:
        text = render(model(reader, session, rules=rules, limits=limits, note=note))
        # It is ASCII but for the template, so that characters are as good as bytes.
        if len(text) < MOST_BYTES or limits.findings == 1:
            return text
        limits = limits.halved()


def render(told: dict[str, Any]) -> str:
    """Return the page that shows a model."""
    style, script = _file("style.css"), "".join(_file(name) for name in SCRIPTS)
    # Nothing but these two runs or is applied, whatever stands in the data; nothing is fetched, sent or framed.
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}';"
        " base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": html.escape(policy, quote=False),
        "title": html.escape(f"{told['file']} - drakmet"),
        "style": style,
        "data": packed(told),
        "script": script,
    }
    # In one pass: what stands in the data is no place to put anything.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _file("page.html"))


def _file(name: str) -> str:
    return resources.files("drakmet.report").joinpath("static", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
