# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of ATT&CK tactics and techniques, from a small table that comes with drakmet (``attack.tsv``)."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path

VERSION = "18.1"
"""The version of ATT&CK for Enterprise that the table was taken from."""

_ENTRY = re.compile(r"(TA\d{4}|T\d{4}(?:\.\d{3})?)(?:\s+(\S.*))?")


@dataclass(frozen=True, slots=True)
class Technique:
    """A technique, or a tactic (it has no ``tactics`` of its own)."""

    id: str
    name: str
    tactics: tuple[str, ...]

    @property
    def entry(self) -> str:
        """How a rule names it: ``T1059.004 Unix Shell``."""
        return f"{self.id} {self.name}"


def split(entry: str) -> tuple[str, str | None] | None:
    """Return id and name of what a rule says in ``attack``, with or without the name; ``None`` if it is no id."""
    match = _ENTRY.fullmatch(entry.strip())
    return (match[1], match[2]) if match else None


@functools.cache
def techniques() -> dict[str, Technique]:
    """Return all by id."""
    known = {}
    for line in Path(__file__).with_name("attack.tsv").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            number, name, *tactics = line.split("\t")
            known[number] = Technique(number, name, tuple(tactics[0].split()) if tactics else ())
    return known
