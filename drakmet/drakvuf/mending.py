# SPDX-License-Identifier: GPL-2.0-or-later
"""Lines that are no whole line: a file name with a newline in it parted one, a full disk or a SIGKILL cut one short."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from drakmet.drakvuf.lenient import Pairs, parse, parse_from

if TYPE_CHECKING:
    from collections.abc import Iterator

_BEGIN = '{"Plugin"'
_BLANK = re.compile(r"[ \t\r]*")
_MOST_LINES = 1000
_MOST_TEXT = 1 << 20


class Whole(NamedTuple):
    """An object, and the text it was read from: ``lines`` lines, or a part of one; ``parted`` if another follows."""

    text: str
    pairs: Pairs
    lines: int = 1
    parted: bool = False


class Refused(NamedTuple):
    """Text that no object can be made of, and why."""

    text: str
    reason: str
    lines: int = 1


class Mender:
    """Puts lines together as far as that is certain.

    DRAKVUF writes a backslash before each quote in a string, so that ``{"Plugin"`` can only be where a line begins.
    """

    def __init__(self) -> None:
        self.pending: list[str] = []
        self._size = 0

    def offer(self, line: str) -> Iterator[Whole | Refused]:
        """Take a line; give what can be said now, in the order of the log."""
        if self.pending:
            if not line.startswith(_BEGIN):
                yield from self._continue(line)
                return
            yield from self.give_up("the line is cut short")
        try:
            yield Whole(line, parse(line))
        except ValueError as error:
            yield from self._broken(line, str(error))

    def give_up(self, reason: str) -> Iterator[Refused]:
        """The rest of what waits will not come."""
        if self.pending:
            lines, self.pending = self.pending, []
            yield Refused("\n".join(lines), reason, len(lines))

    def _continue(self, line: str) -> Iterator[Whole | Refused]:
        self.pending.append(line)
        self._size += len(line)
        if line.rstrip("\r").endswith("}"):
            text = "\n".join(self.pending)
            try:
                pairs = parse(text)
            except ValueError:
                pass  # the name may go on
            else:
                lines, self.pending = len(self.pending), []
                yield Whole(text, pairs, lines)
                return
        if len(self.pending) >= _MOST_LINES or self._size >= _MOST_TEXT:
            yield from self.give_up("the line is cut short")

    def _broken(self, line: str, reason: str) -> Iterator[Whole | Refused]:
        start = 0
        while line.startswith(_BEGIN, start):
            try:
                pairs, end = parse_from(line, start)
            except ValueError:
                break
            following = _BLANK.match(line, end).end()  # type: ignore[union-attr]  # it matches nothing, too
            if following < len(line) and not line.startswith(_BEGIN, following):
                break
            yield Whole(line[start:end], pairs, parted=following < len(line))
            start = following
        line = line[start:]
        if not line:
            return
        at = line.rfind(_BEGIN)
        if at > 0:
            try:
                pairs = parse(line[at:])
            except ValueError:
                pass
            else:
                yield Refused(line[:at], "the line is cut short, and another follows on it")
                yield Whole(line[at:], pairs)
                return
        if line.startswith(_BEGIN):
            self.pending, self._size = [line], len(line)
        else:
            yield Refused(line, f"it is no line of DRAKVUF's JSON: {reason}")
