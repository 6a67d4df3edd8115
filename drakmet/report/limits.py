# SPDX-License-Identifier: GPL-2.0-or-later
"""How much of a file a report shows, so that a page of a million records opens as one of a hundred does."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a report has of each; what is left out is counted and told."""

    processes: int = 10_000
    findings: int = 2_000
    cells: int = 120_000
    """Numbers of events by lane, process and time."""
    events: int = 2_500
    """Events of each table that are listed one by one."""
    connections: int = 3_000
    rows: int = 2_000
    """Rows of each inventory: modules, mounts, listeners, applications."""
    intervals: int = 4_000
    sessions: int = 5_000

    def halved(self) -> Limits:
        """Return limits of half the size."""
        return Limits(**{field.name: max(1, getattr(self, field.name) // 2) for field in fields(self)})


LONGEST = 240
"""Characters of a text that are shown."""


def short(value: object) -> str | None:
    """Return a value as text with nothing in it that steers a terminal or turns a line around, and not too long."""
    if value is None:
        return None
    text = value if isinstance(value, str) else str(value)
    if len(text) > LONGEST:
        text = text[:LONGEST] + "…"
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
