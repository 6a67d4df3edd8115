# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of Sigma rules: YAML that anybody may have written, read within limits and with the lines of its documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from drakmet.errors import RuleError
from drakmet.rules.format import read_text
from drakmet.rules.sigma.refusal import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MOST_BYTES = 1 << 20
_MOST_NODES = 50_000
_MOST_DOCUMENTS = 500
_DEEPEST = 40
_TOO_MUCH = f"more than {_MOST_NODES} values, {_MOST_DOCUMENTS} documents or {_DEEPEST} levels"
_LIBRARYS_LIMIT = "nesting depth"
"""Out of the words with which newer libyamls (PyYAML 6.0.4) stop before they give an event that could be counted."""
# libyaml's, where there is one: ten times as fast. Both make plain values only.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class FaultyFile(Exception):  # noqa: N818 - carries a verdict and its place
    """A file that cannot be read, and where."""

    def __init__(self, where: str, text: str) -> None:
        super().__init__(text)
        self.where, self.refused = where, Refused("file", text)


def documents(path: Path) -> list[tuple[int, Any]]:
    """Return the YAML documents of a file with the lines where they begin; raise `FaultyFile`."""
    try:
        text = read_text(path, _MOST_BYTES)
    except RuleError as error:
        raise FaultyFile(error.where or str(path), error.what + (f" ({error.hint})" if error.hint else "")) from error
    try:
        lines = list(_looked_through(path, text))
        return list(zip(lines, yaml.load_all(text, _Loader), strict=True))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = error.problem or error.context or ""
        text = f"{_TOO_MUCH}: {problem}" if _LIBRARYS_LIMIT in problem else f"not YAML: {problem}"
        raise FaultyFile(where, text) from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise FaultyFile(str(path), f"not YAML: {str(error).splitlines()[0][:200]}") from error


def _looked_through(path: Path, text: str) -> Iterator[int]:
    """Yield the lines of documents, having looked at all of them without making anything of them.

    An alias can make a small file large, merge keys ever more so, and depth can end the process; of a key that comes
    twice YAML would drop the first value without a word.
    """
    nodes = documents = 0
    open_ones: list[tuple[bool, set[str], list[bool]]] = []
    for event in yaml.parse(text, _Loader):
        line = event.start_mark.line + 1 if event.start_mark else 1

        def fault(what: str, line: int = line) -> FaultyFile:
            return FaultyFile(f"{path}:{line}", what)

        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            yield line
        if isinstance(event, yaml.NodeEvent):
            nodes += 1
            if isinstance(event, yaml.AliasEvent):
                raise fault("it has an alias (*): Sigma has none, and they can make a small file fill the memory")
            _key(event, open_ones, fault)
        if isinstance(event, yaml.CollectionStartEvent):
            open_ones.append((isinstance(event, yaml.MappingStartEvent), set(), [True]))
        elif isinstance(event, yaml.CollectionEndEvent):
            open_ones.pop()
        if nodes > _MOST_NODES or documents > _MOST_DOCUMENTS or len(open_ones) > _DEEPEST:
            raise fault(_TOO_MUCH)


def _key(event: Any, open_ones: list[tuple[bool, set[str], list[bool]]], fault: Any) -> None:
    if not open_ones or not open_ones[-1][0]:
        return
    _, keys, is_key = open_ones[-1]
    if is_key[0]:
        if not isinstance(event, yaml.ScalarEvent):
            raise fault("a key that is no text")
        if event.value == "<<":
            raise fault("a merge key (<<), which Sigma does not have")
        if event.value in keys:
            raise fault(f"the key {event.value!r} comes twice")
        keys.add(event.value)
    is_key[0] = not is_key[0]
