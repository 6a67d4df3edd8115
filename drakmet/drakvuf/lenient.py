# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads what DRAKVUF prints for JSON: raw control characters and bytes that are not UTF-8 in strings, a key twice.

Slow; only for lines that a strict parser refuses, and those of an unusual form.
"""

from __future__ import annotations

import json
from typing import Any

from drakmet.text import escape

_BITS = 1 << 63


class Pairs(list[tuple[str, Any]]):
    """An object's keys and values in their order, with keys that come twice."""

    def first(self, key: str) -> Any:
        """Return the value that the key has first; None if it is not there."""
        return next((value for name, value in self if name == key), None)


class _Number(str):
    """A number as it was printed."""

    __slots__ = ()


def parse(line: str) -> Pairs:
    """Return the object in a line that was decoded with ``surrogateescape``; raise ValueError if there is none."""
    try:
        found = _decoder.decode(line)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, Pairs):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - a value from outside, not a caller's mistake
    return found


def parse_from(line: str, start: int) -> tuple[Pairs, int]:
    """Return the object that begins at ``start``, and where it ends; raise ValueError if none begins there."""
    try:
        found, end = _decoder.raw_decode(line, start)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, Pairs):
        raise ValueError("no JSON object begins there")  # noqa: TRY004 - a value from outside
    return found, end


def dump(pairs: Pairs, *, escaped: bool = False) -> str:
    """Return an object as JSON in one line; if ``escaped``, every string is guest text."""
    return _dump(pairs, escaped)


def guest_text(text: str) -> str:
    """Return guest text for a string out of JSON, in which ``\\ud800`` may stand for half a character."""
    try:
        return escape(text)
    except UnicodeEncodeError:
        return escape(text.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape"))


def integer(value: Any) -> int | None:
    """Return the integer that a parsed value is, if SQLite can hold it."""
    if type(value) is not _Number or len(value) > 20 or not value.removeprefix("-").isdecimal():
        return None
    number = int(value)
    return number if -_BITS <= number < _BITS else None


def is_clean(line: str) -> bool:
    """Tell whether all characters of a decoded line can be kept as UTF-8, those that it escapes as well."""
    if "\\ud" in line or "\\uD" in line:
        return False
    return line.isascii() or not any("\ud800" <= character <= "\udfff" for character in line)


def plain(value: Any) -> Any:
    """Return a value with dicts for objects; of a key that comes twice, the first value."""
    if isinstance(value, Pairs):
        return {name: plain(one) for name, one in reversed(value)}
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, _Number):
        number = float(value)
        return int(number) if number.is_integer() and "." not in value else number
    return value


def _dump(value: Any, escaped: bool) -> str:
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{_dump(name, escaped)}:{_dump(one, escaped)}" for name, one in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_dump(one, escaped) for one in value) + "]"
    if isinstance(value, _Number):
        return str(value)
    if isinstance(value, str):
        return json.dumps(guest_text(value) if escaped else value, ensure_ascii=False)
    return json.dumps(value)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


_decoder = json.JSONDecoder(
    strict=False, object_pairs_hook=Pairs, parse_float=_Number, parse_int=_Number, parse_constant=_refuse
)
