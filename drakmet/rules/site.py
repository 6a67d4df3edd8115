# SPDX-License-Identifier: GPL-2.0-or-later
"""What a site says about rules without touching them: other parameters, and exceptions. It stands in ``site.toml``."""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - msgspec looks types up
import re
import tomllib
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import msgspec

from drakmet.errors import RuleError
from drakmet.rules.format import Rule, Value, fits_sqlite, is_duration, read_text, toml_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

FILE = "site.toml"
"""The name that is no rule's in a directory of rules."""

_MAX_FILE = 16 << 20
_AT_EXCEPTION = re.compile(r"exception\[(\d+)\]")
_TABLE = re.compile(r"\s*\[\[\s*exception\s*\]\]")


class Exemption(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a site has looked at and does not want to be told again: an ``[[exception]]``.

    It takes the findings of the rules that fit all of what is given. ``rule``, ``guest``, ``host``, ``process`` (the
    program's path) and ``path`` (a path in the rows that the finding rests on) are patterns with ``*``, ``?`` and
    ``[...]``, or lists of these. After ``until`` it takes nothing any more.
    """

    rule: str | list[str]
    reason: str
    guest: str | list[str] | None = None
    host: str | list[str] | None = None
    process: str | list[str] | None = None
    path: str | list[str] | None = None
    until: dt.date | None = None
    where: str = ""

    def concerns(self, rule: str) -> bool:
        """Tell whether it is about a rule."""
        return _fits(self.rule, [rule])

    def fits(self, *, rule: str, day: dt.date, found: Mapping[str, Sequence[str]]) -> bool:
        """Tell whether a finding falls under it; ``found`` has the finding's guest, host, process and paths."""
        if not self.concerns(rule) or (self.until and day > self.until):
            return False
        wanted = {"guest": self.guest, "host": self.host, "process": self.process, "path": self.path}
        return all(_fits(pattern, found.get(name, ())) for name, pattern in wanted.items() if pattern is not None)


class Site(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"exceptions": "exception"}):
    """A site's file, or several of them."""

    parameters: dict[str, dict[str, Value]] = {}
    exceptions: list[Exemption] = []

    def over(self, before: Site) -> Site:
        """Return both, this one's parameters over the other's."""
        names = {*before.parameters, *self.parameters}
        merged = {name: {**before.parameters.get(name, {}), **self.parameters.get(name, {})} for name in names}
        return Site(merged, [*before.exceptions, *self.exceptions])

    def apply(self, rule: Rule) -> Rule:
        """Return a rule with the site's parameters; raise `RuleError` for what the rule lacks or is of another type."""
        mine = self.parameters.get(rule.id)
        if not mine:
            return rule
        parameters, within = dict(rule.parameters), rule.within
        for name, value in mine.items():
            here = f"parameters.{rule.id}.{name} of {FILE}"
            if name == "within" and within:
                within = _same_kind(within, value, here)
            elif name in parameters:
                known = parameters[name]
                parameters[name] = msgspec.structs.replace(known, default=_same_kind(known.default, value, here))
            else:
                names = [*parameters, *(["within"] if within else [])]
                hint = f"it has {', '.join(names)}" if names else "it has none"
                raise RuleError(f"the rule {rule.id} has no parameter {name}", where=here, hint=hint)
        return msgspec.structs.replace(rule, parameters=parameters, within=within)


def load_site(directories: Iterable[Path]) -> Site:
    """Read the ``site.toml`` of directories of rules, later ones over earlier; raise `RuleError` if one is wrong."""
    site = Site()
    for directory in directories:
        path = directory / FILE
        if path.is_file():
            site = _load(path).over(site)
    return site


def _load(path: Path) -> Site:
    text = read_text(path, _MAX_FILE)
    lines = [number for number, line in enumerate(text.split("\n"), start=1) if _TABLE.match(line)]
    try:
        site = msgspec.convert(tomllib.loads(text), Site)
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        where = _line(error, text, lines)
        raise RuleError(
            f"no site file: {error}",
            where=f"{path}:{where}" if where else str(path),
            hint="it has [parameters.RULE] tables, and [[exception]] tables with rule, reason, and what to except",
        ) from error
    exceptions = []
    for exemption, line in zip(site.exceptions, lines, strict=False):
        if not exemption.reason.strip():
            raise RuleError(
                "an exception without a reason", where=f"{path}:{line}", hint='reason = "why, and who says so"'
            )
        exceptions.append(msgspec.structs.replace(exemption, where=f"{path}:{line}"))
    return Site(site.parameters, exceptions)


def _line(error: Exception, text: str, exceptions: list[int]) -> int | None:
    if isinstance(error, tomllib.TOMLDecodeError):
        return toml_line(error, text)
    found = _AT_EXCEPTION.search(str(error))
    return exceptions[int(found[1])] if found and int(found[1]) < len(exceptions) else None


def _fits(pattern: str | list[str], values: Iterable[str]) -> bool:
    patterns = [pattern] if isinstance(pattern, str) else pattern
    return any(fnmatchcase(value, one) for value in values for one in patterns)


def _same_kind(known: Any, value: Any, where: str) -> Any:
    if is_duration(known):
        if not is_duration(value):
            raise RuleError(f"{value!r} is no duration", where=where, hint=f"such as {known}")
        return value
    if isinstance(known, float) and type(value) is int and fits_sqlite(value):
        return float(value)
    if not fits_sqlite(value):
        raise RuleError(f"{value!r} has more than 64 bits", where=where)
    if type(value) is not type(known):
        raise RuleError(f"{value!r} is not of the kind of the default {known!r}", where=where)
    return value
