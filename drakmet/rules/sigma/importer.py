# SPDX-License-Identifier: GPL-2.0-or-later
"""A directory of Sigma rules made a directory of ours."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sigma.collection import SigmaCollection
from sigma.correlations import SigmaCorrelationRule
from sigma.exceptions import SigmaError, SigmaRegularExpressionError
from sigma.filters import SigmaFilter
from sigma.policy import SigmaPolicy
from sigma.policy.regex_engine import RE2RegexEngine, RegexPattern

from drakmet.errors import DrakmetError
from drakmet.rules.sigma.convert import converted, slug
from drakmet.rules.sigma.read import FaultyFile, documents
from drakmet.rules.sigma.refusal import Refused
from drakmet.store.functions import regular_expression

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from drakmet.rules.lists import List
    from drakmet.rules.trial import Laboratory

_SUFFIXES = (".yml", ".yaml")
_MOST_WITH_ACTIONS = 50
# What pySigma raises for what it does not expect: it was written for people's own rules.
_UNEXPECTED = (TypeError, ValueError, AttributeError, KeyError, IndexError, RecursionError, ArithmeticError)
IMPORTED, PART, REFUSED = "imported", "part of another", "refused"


@dataclass(slots=True)
class Entry:
    """A Sigma rule and what became of it. ``kind`` is one of `refusal.KINDS`, ``text`` our rule file's."""

    where: str
    title: str = ""
    state: str = REFUSED
    kind: str | None = None
    reason: str | None = None
    rule: str | None = None
    text: str | None = None
    notes: list[str] = field(default_factory=list)
    category: str = ""
    sigma: Any = None

    def refuse(self, refused: Refused) -> None:
        """Keep why it is refused."""
        self.state, self.kind, self.reason = REFUSED, refused.kind, refused.text


def sigma_files(path: Path) -> list[Path]:
    """Return the files of a directory and those below it, or the file."""
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix in _SUFFIXES and file.is_file())


def read_rules(files: Iterable[Path], seen: Callable[[], object] = lambda: None) -> list[Entry]:
    """Read files; an entry that has its ``sigma`` is a rule that can be tried, filters are applied and left out."""
    entries: list[Entry] = []
    for file in files:
        entries += _of_file(file)
        seen()
    filters = [entry for entry in entries if isinstance(entry.sigma, SigmaFilter)]
    sound = [entry for entry in entries if entry.sigma is not None and entry not in filters]
    for entry in sound:
        for one in filters:
            _try(entry, partial(one.sigma.apply_on_rule, entry.sigma))
    return [entry for entry in entries if entry not in filters]


def convert_rules(
    entries: Iterable[Entry], lists: Mapping[str, List], laboratory: Laboratory, *, outdated: bool = False
) -> Iterator[Entry]:
    """Make rule files of what was read; with ``outdated`` of deprecated and unsupported rules as well."""
    from drakmet.rules.sigma.correlate import correlated, resolve

    entries = list(entries)
    names = _Names()
    parts = resolve([entry.sigma for entry in entries])
    for entry in entries:
        if id(entry.sigma) in parts:
            entry.state = PART
        if entry.sigma is None or entry.state == PART:
            yield entry
            continue
        entry.rule = names.give(entry)

        def make(entry: Entry = entry) -> None:
            status = entry.sigma.status.name.lower() if entry.sigma.status else ""
            if status in ("deprecated", "unsupported") and not outdated:
                raise Refused("status", f"it is {status}; --outdated imports it all the same")
            make_one = correlated if isinstance(entry.sigma, SigmaCorrelationRule) else converted
            entry.text = make_one(entry.sigma, entry.rule or "", entry.where, lists, laboratory)
            entry.state = IMPORTED

        _try(entry, make)
        yield entry


def _of_file(file: Path) -> Iterator[Entry]:
    try:
        found = documents(file)
    except FaultyFile as fault:
        entry = Entry(fault.where)
        entry.refuse(fault.refused)
        yield entry
        return
    wanted = [(line, one) for line, one in found if one is not None]
    actions = any(isinstance(one, dict) and "action" in one for _, one in wanted)
    if not wanted or (actions and len(wanted) > _MOST_WITH_ACTIONS):
        entry = Entry(str(file))
        entry.refuse(Refused("rule", f"it has more than {_MOST_WITH_ACTIONS} documents" if wanted else "it is empty"))
        yield entry
        return
    for place, (line, one) in enumerate(wanted):
        if isinstance(one, dict) and one.get("action") in ("global", "reset"):
            continue
        entry = Entry(f"{file}:{line}")
        before = [other for _, other in wanted[:place]] if actions else []
        _try(entry, partial(_parse, entry, one, before))
        yield entry


def _parse(entry: Entry, one: Any, before: list[Any]) -> None:
    if not isinstance(one, dict):
        raise Refused("rule", "the document is no table of keys")
    entry.title = str(one.get("title") or "")[:200]
    log = one.get("logsource")
    if isinstance(log, dict):
        entry.category = "/".join(str(log[key]) for key in ("product", "category", "service") if log.get(key))
    elif "correlation" in one:
        entry.category = "correlation"
    read = SigmaCollection.from_dicts(
        copy.deepcopy([*before, one]),
        collect_errors=True,
        collect_filters=True,
        resolve_references=False,
        policy=SigmaPolicy(regex_engine=_Quiet()),
    )
    every = [*read.rules, *read.filters]
    if not every:
        raise read.errors[-1] if read.errors else Refused("rule", "there is no rule in it")
    made = read.filters[-1] if "filter" in one else read.rules[-1]
    if made.errors:
        raise made.errors[0]
    entry.sigma = made


def _try(entry: Entry, what: Callable[[], object]) -> None:
    """Do something with a rule, and keep why it cannot be done."""
    refused: Refused | None = None
    try:
        what()
    except Refused as error:
        refused = error
    except SigmaRegularExpressionError as error:
        refused = Refused("regular expression", str(error)[:300])
    except SigmaError as error:
        refused = Refused(_kind(error), str(error)[:300] or type(error).__name__)
    except DrakmetError as error:
        refused = Refused("test", error.what)
    except _UNEXPECTED as error:
        refused = Refused("rule", f"pySigma cannot read it: {type(error).__name__}: {error}"[:300])
    if refused:
        entry.refuse(refused)
        entry.sigma = None


def _kind(error: SigmaError) -> str:
    name = type(error).__name__
    if "Modifier" in name:
        return "modifier"
    return "condition" if "Condition" in name else "log source" if "Logsource" in name else "rule"


class _Quiet(RE2RegexEngine):
    """RE2, which by itself writes of each expression that it does not take to standard error."""

    def __deepcopy__(self, _memo: object) -> _Quiet:
        """Return itself: filters are copied for each rule, with the engine in them."""
        return self

    def compile(self, pattern: str, flags: int = 0) -> RegexPattern:
        """Return a compiled expression; raise re2.error."""
        marks = "".join(
            mark for mark, bit in (("i", re.IGNORECASE), ("m", re.MULTILINE), ("s", re.DOTALL)) if flags & bit
        )
        made = regular_expression((f"(?{marks})" if marks else "") + pattern)
        if made is None:
            raise self.error(
                "RE2 has no lookaround, back references or bytes, and takes no more than 10,000 characters"
            )
        return cast("RegexPattern", made)


class _Names:
    """Gives each rule an id of its own."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def give(self, entry: Entry) -> str:
        stem = slug(Path(entry.where.rpartition(":")[0]).stem)
        name, number = stem, 2
        while name in self._given:
            name, number = f"{stem}-{number}", number + 1
        self._given.add(name)
        return name
