# SPDX-License-Identifier: GPL-2.0-or-later
"""The format of a rule file, and where in the file things stand."""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - msgspec looks types up
import re
import string
import tomllib
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from drakmet.errors import RuleError
from drakmet.rules.attack import split as split_attack

if TYPE_CHECKING:
    from pathlib import Path

Value = str | int | float | bool
"""What a parameter, or a cell of a list, can be."""

LEVELS = ("informational", "low", "medium", "high", "critical")
DURATION = re.compile(r"(\d{1,6})(ms|s|m|h|d)")
_UNITS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}
_AT_LINE = re.compile(r" \(at line (\d+), column (\d+)\)$")
_AT_PATH = re.compile(r" - at `\$\.?(.*)`$")
_KEY = re.compile(r"\s*(?:\[\[?\s*)?([A-Za-z_][\w.]*)\s*(?:\]\]?|=)")
_TEST = re.compile(r"\s*\[\[\s*test\s*\]\]")
TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
PARAMETER = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MAX_FILE = 1 << 20


class Once(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Makes one finding of a burst: as long as less than ``within`` lies between two results with the same values in
    the columns ``by``, the later is silent.
    """

    by: list[str]
    within: str


class Parameter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value that a site may set otherwise, ``:NAME`` in the SQL. Text such as ``5m`` is a duration."""

    default: Value
    doc: str

    @property
    def bound(self) -> Value:
        """The value as the SQL gets it: a duration in nanoseconds, the rest as it is."""
        return duration(str(self.default)) if is_duration(self.default) else self.default


class Test(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows by table, and how many findings or which messages the rule must make of them."""

    __test__ = False

    title: str
    findings: int | list[str]
    rows: dict[str, list[dict[str, Any]]]


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"tables": "from", "tests": "test"}):
    """A rule as its file says it; ``tables`` is the key ``from``, ``tests`` the ``[[test]]`` blocks."""

    id: str
    title: str
    level: Literal["informational", "low", "medium", "high", "critical"]
    status: Literal["experimental", "test", "stable", "deprecated"]
    description: str
    tables: str | list[str]
    sql: str
    message: str
    attack: list[str] = []
    references: list[str] = []
    false_positives: list[str] = []
    tags: list[str] = []
    since: str | None = None
    author: str | None = None
    license: str | None = None
    date: dt.date | None = None
    modified: dt.date | None = None
    source: str | None = None
    notes: list[str] = []
    os: Literal["linux", "windows"] | None = None
    within: str | None = None
    once: Once | None = None
    parameters: dict[str, Parameter] = {}
    tests: list[Test] = []

    @property
    def triggers(self) -> tuple[str, ...]:
        """The tables whose new rows are judged."""
        return (self.tables,) if isinstance(self.tables, str) else tuple(self.tables)

    @property
    def id_columns(self) -> dict[str, str]:
        """The column of the query's result that numbers the row of each trigger table."""
        names = self.triggers
        return {names[0]: "id"} if len(names) == 1 else {name: f"{name}_id" for name in names}

    @property
    def quiet(self) -> int:
        """``once.within`` in nanoseconds, 0 without it."""
        return duration(self.once.within) if self.once else 0

    @property
    def reach(self) -> int | None:
        """``within`` in nanoseconds: how far a judged row looks back at others; ``None`` if it does not."""
        return duration(self.within) if self.within else None

    @property
    def techniques(self) -> list[str]:
        """The ids in ``attack``, without their names."""
        return [known[0] for entry in self.attack if (known := split_attack(entry))]

    @property
    def bindings(self) -> dict[str, Value]:
        """What the SQL's own parameters are bound to."""
        bound = {name: parameter.bound for name, parameter in self.parameters.items()}
        return bound if self.reach is None else bound | {"within": self.reach}

    @property
    def written(self) -> dict[str, Value]:
        """The parameters as a person writes them, for messages."""
        values = {name: parameter.default for name, parameter in self.parameters.items()}
        return values if self.within is None else values | {"within": self.within}


class RuleFile:
    """A rule file's text, with the rule in it and the lines of its keys."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.text = text
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            where = f"{path}:{toml_line(error, text)}"
            raise RuleError(f"not TOML: {_AT_LINE.sub('', str(error))}", where=where) from error
        except RecursionError as error:
            raise RuleError("not TOML that can be read: nested too deeply", where=str(path)) from error
        try:
            self.rule = msgspec.convert(data, Rule)
        except msgspec.ValidationError as error:
            raise self._explain(error) from error
        try:
            self.placeholders = placeholders(self.rule.message)
        except ValueError as error:
            raise RuleError(
                str(error), where=self.where("message"), hint="{column} names a column; {{ is a brace"
            ) from error
        times = {"once": self.rule.once and self.rule.once.within, "within": self.rule.within}
        for key, time in times.items():
            if time and not is_duration(time):
                raise RuleError(f"{time!r} is no duration", where=self.where(key), hint="such as 30s, 10m or 1h")
        if not self.rule.triggers or not all(map(TABLE.fullmatch, self.rule.triggers)):
            raise RuleError("from names no table", where=self.where("from"))
        if len(set(self.rule.triggers)) < len(self.rule.triggers):
            raise RuleError("from names a table twice", where=self.where("from"))
        for name, parameter in self.rule.parameters.items():
            if not fits_sqlite(parameter.default):
                raise RuleError(f"{name} has more than 64 bits", where=self.where("parameters"))
            if not PARAMETER.fullmatch(name) or name == "within" or name.startswith("drakmet_"):
                raise RuleError(
                    f"{name!r} cannot be a parameter's name",
                    where=self.where("parameters"),
                    hint="take small letters, digits and underscores; within and drakmet_... are taken",
                )

    def line(self, key: str, test: int | None = None) -> int:
        """Return the line of a key, of a key in the n-th test, or of what is nearest to it."""
        lines = self.text.splitlines()
        starts = [number for number, text in enumerate(lines) if _TEST.match(text)]
        if test is None:
            begin, end, fallback = 0, starts[0] if starts else len(lines), 0
        elif test < len(starts):
            begin, end = starts[test], ([*starts, len(lines)])[test + 1]
            fallback = begin
        else:
            return 1
        for number in range(begin, end):
            found = _KEY.match(lines[number])
            if found and (found[1] == key or found[1].startswith(key + ".")):
                return number + 1
        return fallback + 1

    def where(self, key: str, test: int | None = None) -> str:
        """Return ``file:line`` of a key."""
        return f"{self.path}:{self.line(key, test)}"

    def where_of(self, key: str, text: str) -> str:
        """Return ``file:line`` of the first place from a key on that has a text."""
        first = self.line(key)
        for number, line in enumerate(self.text.splitlines()[first - 1 :], start=first):
            if text in line:
                return f"{self.path}:{number}"
        return f"{self.path}:{first}"

    def where_in_sql(self, word: str | None) -> str:
        """Return ``file:line`` of the first place in the SQL that has the word."""
        first = self.line("sql")
        if word:
            pattern = re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)
            for number, text in enumerate(self.text.splitlines()[first - 1 :], start=first):
                if pattern.search(text.partition("--")[0]):
                    return f"{self.path}:{number}"
        return f"{self.path}:{first}"

    def _explain(self, error: msgspec.ValidationError) -> RuleError:
        text = str(error)
        at = _AT_PATH.search(text)
        path = at[1] if at else ""
        in_test = re.match(r"test\[(\d+)\]\.?(.*)", path)
        unknown = re.search(r"unknown field `(\w+)`", text)
        key = unknown[1] if unknown else (in_test[2] if in_test else path).partition(".")[0].partition("[")[0]
        place = self.where(key or "id", int(in_test[1]) if in_test else None)
        what = _AT_PATH.sub("", text).replace("Object contains unknown field", "unknown key")
        what = what.replace("Object missing required field", "missing key")
        return RuleError(f"{what} ({path})" if path else what, where=place, hint=_keys_hint(unknown))


def load(path: Path) -> RuleFile:
    """Read a rule file; raise `RuleError` with file and line if it is wrong."""
    return RuleFile(path, read_text(path, _MAX_FILE))


def read_text(path: Path, longest: int) -> str:
    """Return the text of a file that a person wrote; raise `RuleError` for what is none."""
    try:
        # A pipe or a device might never end.
        if not path.is_file():
            raise RuleError("it is not a file" if path.exists() else "there is no such file", where=str(path))
        if path.stat().st_size > longest:
            raise RuleError("too long", where=str(path), hint=f"at most {longest} bytes")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RuleError(error.strerror or str(error), where=str(path)) from error
    except UnicodeDecodeError as error:
        raise RuleError("not UTF-8", where=str(path)) from error


def toml_line(error: tomllib.TOMLDecodeError, text: str) -> int:
    """Return the line that an error of the TOML parser tells of: the last one where the text ends too soon."""
    at = _AT_LINE.search(str(error))
    return int(at[1]) if at else text.count("\n") + 1


def placeholders(template: str) -> list[str]:
    """Return the columns that a message template names; raise `ValueError` for what is no plain ``{column}``."""
    names = []
    for _, name, spec, conversion in string.Formatter().parse(template):
        if name is None:
            continue
        if spec or conversion or not name.isidentifier():
            raise ValueError(f"{{{name}}} in the message is more than the name of a column")
        names.append(name)
    return names


def fits_sqlite(value: object) -> bool:
    """Tell whether SQLite can take a value: its integers have 64 bits."""
    return not isinstance(value, int) or -(2**63) <= value < 2**63


def is_duration(value: object) -> bool:
    """Tell whether a value is ``30s``, ``10m``, ``1h``..."""
    return isinstance(value, str) and DURATION.fullmatch(value) is not None


def duration(text: str) -> int:
    """Return the nanoseconds of ``30s``, ``10m``, ``1h``..."""
    match = DURATION.fullmatch(text)
    if not match:
        raise RuleError(f"{text!r} is no duration", hint="such as 30s, 10m or 1h")
    return int(match[1]) * _UNITS[match[2]]


def _keys_hint(unknown: re.Match[str] | None) -> str | None:
    return f"keys are {', '.join(Rule.__struct_encode_fields__)}" if unknown else None
