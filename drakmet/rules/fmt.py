# SPDX-License-Identifier: GPL-2.0-or-later
"""One form for rule files: the order of keys, the names of ATT&CK techniques, blanks; comments stay where they are."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from drakmet.errors import RuleError
from drakmet.rules import attack

if TYPE_CHECKING:
    from drakmet.rules.format import RuleFile

_ORDER = (
    *("id", "title", "level", "status", "description", "attack", "tags", "references", "false_positives", "since"),
    *("author", "license", "date", "modified", "source", "notes", "os", "from", "within", "once", "parameters"),
    *("message", "sql"),
)
_ORDER_IN_TEST = ("title", "rows", "findings")
_HEADER = re.compile(r"\s*\[")
_ASSIGNMENT = re.compile(r"\s*([A-Za-z0-9_\-.\"']+)\s*=\s*", re.DOTALL)
_PROSE = ("sql", "description")
_WIDTH = 120


@dataclass(slots=True)
class _Statement:
    comments: list[str]
    text: str

    @property
    def key(self) -> str:
        match = _ASSIGNMENT.match(self.text)
        return match[1].partition(".")[0].strip("\"'") if match else ""

    def lines(self) -> list[str]:
        return [*self.comments, self.text]


def formatted(file: RuleFile) -> str:
    """Return a rule file's text in the one form; raise `RuleError` if it cannot be brought into it without a change."""
    blocks = _blocks(file)
    texts = []
    for header, statements, rest in blocks:
        order = _ORDER if not header else _ORDER_IN_TEST if re.match(r"\[\[\s*test\s*\]\]", header[-1]) else ()
        places = {name: place for place, name in enumerate(order)}
        statements.sort(key=lambda statement: places.get(statement.key, len(places)))
        lines = [line for statement in statements for line in statement.lines()]
        texts.append("\n".join([*header, *lines, *rest]).strip("\n"))
    text = "\n\n".join(part for part in texts if part) + "\n"
    if _meaning(tomllib.loads(text)) != _meaning(tomllib.loads(file.text)):
        raise RuleError("it cannot be formatted without a change of its meaning", where=str(file.path))
    return text


def _blocks(file: RuleFile) -> list[tuple[list[str], list[_Statement], list[str]]]:
    blocks: list[tuple[list[str], list[_Statement], list[str]]] = [([], [], [])]
    lines = file.text.replace("\r\n", "\n").lstrip("\n").split("\n")
    comments: list[str] = []
    place = 0
    if head := _head(lines):
        # What stands above all, a licence or so, stays there.
        blocks = [(lines[:head], [], []), ([], [], [])]
        place = head
    while place < len(lines):
        line = lines[place]
        place += 1
        if not line.strip():
            continue
        if line.lstrip().startswith("#"):
            comments.append(line.strip())
        elif _HEADER.match(line):
            blocks.append(([*comments, line.strip()], [], []))
            comments = []
        else:
            end = _end(lines, place - 1)
            blocks[-1][1].append(_Statement(comments, _tidy("\n".join(lines[place - 1 : end]))))
            comments, place = [], end
    blocks[-1][2].extend(comments)
    return blocks


def _head(lines: list[str]) -> int:
    """Return how many lines a comment at the top has that an empty line follows."""
    for place, line in enumerate(lines):
        if not line.strip():
            return place
        if not line.startswith("#"):
            return 0
    return 0


def _end(lines: list[str], begin: int) -> int:
    """Return the line after the statement that begins at one: the first that makes it whole."""
    for end in range(begin + 1, len(lines) + 1):
        try:
            tomllib.loads("\n".join(lines[begin:end]))
        except tomllib.TOMLDecodeError:
            continue
        return end
    return len(lines)


def _tidy(text: str) -> str:
    trimmed = "\n".join(line.rstrip() for line in text.split("\n"))
    match = _ASSIGNMENT.match(text)
    if not match:
        return text
    # Blanks at the ends of lines mean nothing in SQL and in prose, but may in a row of a test.
    if match[1] in _PROSE or tomllib.loads(trimmed) == tomllib.loads(text):
        text = trimmed
    key, value = match[1], text[match.end() :]
    if key == "attack" and "#" not in value:
        value = _attack(tomllib.loads(f"x = {value}")["x"], len(key) + 3)
    return f"{key} = {value}"


def _attack(entries: Any, column: int) -> str:
    known = attack.techniques()
    named = []
    for entry in entries if isinstance(entries, list) else []:
        parts = attack.split(entry) if isinstance(entry, str) else None
        # A name that is there is the writer's; if it is wrong, that is for the linter to say.
        bare = parts and not parts[1] and parts[0] in known
        named.append(json.dumps(known[parts[0]].entry if parts and bare else entry, ensure_ascii=False))
    line = f"[{', '.join(named)}]"
    if column + len(line) <= _WIDTH:
        return line
    return "[\n" + "".join(f"    {entry},\n" for entry in named) + "]"


def _meaning(data: dict[str, Any]) -> dict[str, Any]:
    entries = data.get("attack")
    if isinstance(entries, list):
        data = data | {"attack": [(attack.split(str(entry)) or [entry])[0] for entry in entries]}
    return {key: _trimmed(value) if key in _PROSE and isinstance(value, str) else value for key, value in data.items()}


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.split("\n"))
