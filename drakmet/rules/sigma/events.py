# SPDX-License-Identifier: GPL-2.0-or-later
"""Events made out of a condition: some that fit it, and near ones that do not. `match` decides which are which."""

from __future__ import annotations

import ipaddress
import itertools
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from drakmet.rules.sigma.fields import Kind
from drakmet.rules.sigma.match import Event, fits
from drakmet.rules.sigma.sample import sample
from drakmet.rules.sigma.tree import (
    And,
    Atom,
    Cidr,
    Node,
    Not,
    Null,
    Number,
    Present,
    Regex,
    Same,
    Test,
    Text,
    Wild,
    atoms,
    fields,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from drakmet.rules.sigma.fields import Field

_MOST_TRIED = 400
Wish = tuple[Atom, bool]


@dataclass(frozen=True, slots=True)
class _Style:
    """What stands where a condition leaves the text open."""

    windows: str = "C:\\Example"
    linux: str = "/example"
    before: str = ""
    between: str = ""
    after: str = ""


_PLAIN = _Style()
_WIDE = _Style(before="x ", between="x", after=" x")
_ELSEWHERE = _Style(windows="D:\\Other", linux="/srv/other")
_BARE = _Style(windows="", linux="", before="y")


class Maker:
    """Makes events for conditions over the fields of a log source."""

    def __init__(self, known: Mapping[str, Field], *, windows: bool) -> None:
        self._known, self._windows = known, windows
        self._style = _PLAIN

    def fitting(self, node: Node, most: int) -> list[Event]:
        """Return different events that fit a condition, as many as are found at once."""
        found: list[Event] = []
        for wishes in itertools.islice(_ways(node, True), _MOST_TRIED):
            event = next((one for one in self._events(node, wishes) if fits(node, one)), None)
            if event is not None and event not in found:
                found.append(event)
                if len(found) >= most:
                    break
        return found

    def near(self, node: Node, fitting: Iterable[Event], most: int) -> list[Event]:
        """Return events that do not fit: ones that are excepted, ones that lack a single thing, and a plain one."""
        candidates: list[Event] = []
        parts = node.of if isinstance(node, And) else (node,)
        for part in parts:
            others = tuple(one for one in parts if one is not part)
            wishes = next(_ways(And((*others, Not(part))), True), ())
            candidates.append(self._event(node, wishes))
        for event in fitting:
            candidates += [{**event, name: self._filler(name)} for name in event]
            candidates += [{**event, name: None} for name in event]
        candidates.append({name: self._filler(name) for name in dict.fromkeys(fields(node))})
        found: list[Event] = []
        for event in candidates:
            if event not in found and not fits(node, event):
                found.append(event)
        return found[:most]

    def _events(self, node: Node, wishes: Sequence[Wish]) -> Iterator[Event]:
        """Yield events that should fulfil wishes, with different text where any will do."""
        for style in (_PLAIN, _WIDE, _ELSEWHERE, _BARE):
            yield self._event(node, wishes, style)

    def _event(self, node: Node, wishes: Iterable[Wish], style: _Style | None = None) -> Event:
        self._style = style or _PLAIN
        event = {name: self._filler(name) for name in dict.fromkeys(fields(node))}
        wanted: dict[str, list[Test]] = {}
        for atom, holds in wishes:
            name = str(atom.field)
            if holds:
                wanted.setdefault(name, []).append(atom.test)
            elif isinstance(atom.test, Present):
                wanted.setdefault(name, []).append(Null())
        for name, tests in wanted.items():
            event[name] = self._value(name, tests)
        for name, tests in wanted.items():
            for same in (test for test in tests if isinstance(test, Same)):
                other = event.get(same.field)
                event[name] = f"{other}{event[name] if same.starts else ''}" if not same.ends else f"x{other}"
        return event

    def _value(self, name: str, tests: list[Test]) -> Any:
        if any(isinstance(test, Null) for test in tests):
            return None
        number = [test for test in tests if isinstance(test, Number)]
        if number:
            return number[0].number + {"<": -1, ">": 1}.get(number[0].op, 0)
        if cidr := next((test for test in tests if isinstance(test, Cidr)), None):
            network = ipaddress.ip_network(cidr.network, strict=False)
            return str(network[1] if network.num_addresses > 1 else network[0])
        pieces = [sample(test.pattern, test.flags) or "" for test in tests if isinstance(test, Regex)]
        texts = [test for test in tests if isinstance(test, Text)]
        value = self._text(name, texts, pieces)
        if self._known[name].kind is Kind.NUMBER:
            return int(value) if value.isdecimal() else self._filler(name)
        return value

    def _text(self, name: str, texts: list[Text], pieces: list[str]) -> str:
        start = end = None
        middle = []
        for text in texts:
            runs = _runs(text)
            if len(runs) == 1:
                return runs[0]
            start = max(start or "", runs[0], key=len)
            end = max(end or "", runs[-1], key=len)
            middle.append(self._style.between.join(runs[1:-1]))
        # What is contained in a longer one is there already.
        whole = [*middle, start or "", end or ""]
        middle = [run for run in middle if run and not any(run != one and run in one for one in whole)]
        between = " " if self._known[name].kind is Kind.WORDS else "x"
        if pieces and not texts:
            return pieces[0] if len(pieces) == 1 else between.join(pieces)
        if not start:
            start = self._beginning(name, bool(end or middle))
        return start + between.join([*dict.fromkeys(middle), *pieces]) + (end or self._style.after)

    def _beginning(self, name: str, goes_on: bool) -> str:
        if self._known[name].kind is not Kind.PATH or not goes_on:
            return self._style.before if goes_on else "x"
        return self._directory

    @property
    def _directory(self) -> str:
        return self._style.windows if self._windows else self._style.linux

    def _filler(self, name: str) -> Any:
        kind = self._known[name].kind
        if kind is Kind.NUMBER:
            return 4711
        if names := self._known[name].names:
            return list(names.values())[-1]
        if kind is Kind.PATH and self._directory:
            return self._directory + ("\\harmless.txt" if self._windows else "/harmless.txt")
        return "192.0.2.1" if name.endswith("Ip") else "harmless"


def _runs(text: Text) -> list[str]:
    """Return what stands between the places where a pattern allows any text; one character for each other gap."""
    runs = [""]
    for part in text.parts:
        if part is Wild.ANY:
            runs.append("")
        else:
            runs[-1] += "y" if isinstance(part, Wild) else part
    return runs


def _ways(node: Node, holds: bool) -> Iterator[tuple[Wish, ...]]:
    """Yield ways in which a condition holds, or does not: tests with whether each of them does."""
    if isinstance(node, bool):
        if node is holds:
            yield ()
    elif isinstance(node, Atom):
        yield ((node, holds),)
    elif isinstance(node, Not):
        yield from _ways(node.of, not holds)
    elif isinstance(node, And) is holds:
        yield from _together(node.of, holds)
    else:
        # First each alternative in one way, so that all of them come up.
        ways = [_ways(one, holds) for one in node.of]
        while ways:
            going = []
            for way in ways:
                if (one := next(way, None)) is not None:
                    yield one
                    going.append(way)
            ways = going


def _together(nodes: Sequence[Node], holds: bool) -> Iterator[tuple[Wish, ...]]:
    single = tuple((one, holds) for one in nodes if isinstance(one, Atom))
    several = [one for one in nodes if not isinstance(one, Atom)]
    for ways in _product([partial(_ways, one, holds) for one in several]):
        yield (*single, *ways)


def _product(makers: list[Callable[[], Iterator[tuple[Wish, ...]]]]) -> Iterator[tuple[Wish, ...]]:
    """Yield what all give together; the last changes first, and nothing is kept."""
    if not makers:
        yield ()
        return
    for one in makers[0]():
        for others in _product(makers[1:]):
            yield (*one, *others)


def regular_expressions(node: Node) -> list[Regex]:
    """Return the regular expressions in a condition."""
    return [atom.test for atom in atoms(node) if isinstance(atom.test, Regex)]
