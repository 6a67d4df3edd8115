# SPDX-License-Identifier: GPL-2.0-or-later
"""Text that a guest wrote, in a form that can be stored, matched, printed and turned back.

A guest's strings are bytes. drakmet keeps them as text in which every printable character stands for itself,
a backslash is written ``\\\\`` and every other byte ``\\xNN``. So the form is reversible, is always valid UTF-8,
and never moves a terminal's cursor, whatever the guest put in.

A text of which the guest had more than is read ends with `CUT`. No guest can write it: a backslash of its own is
doubled.
"""

from __future__ import annotations

import re

from drakmet.errors import UsageError

CUT = "\\…"
"""Ends a text that was cut."""

_ESCAPE = re.compile(rb"\\(\\|x[0-9a-f]{2})")
_GUEST_TEXT = re.compile(r"(?:[^\\]|\\\\|\\x[0-9a-f]{2})*", re.DOTALL)


class Cut(str):
    """A string decoded from a guest of which there was more than is read."""

    __slots__ = ()


def escape(text: str) -> str:
    """Return guest text for a string decoded from UTF-8 with ``surrogateescape``; it ends with `CUT` for a `Cut`."""
    if text.__class__ is Cut:
        return escape(str.__str__(text)) + CUT
    # Nearly every path and name takes this way out, all of it in C.
    if text.isprintable():
        return text.replace("\\", "\\\\")
    return "".join(map(_escape_character, text))


def escape_bytes(data: bytes) -> str:
    """Return guest text for the bytes of a string, without its terminating NUL."""
    return escape(data.decode("utf-8", "surrogateescape"))


def unescape(text: str) -> bytes:
    """Return the bytes that guest text stands for, of a cut one those that were read.

    Raises `UsageError` if it is not guest text.
    """
    text = text[: -len(CUT)] if is_cut(text) else text
    if not _GUEST_TEXT.fullmatch(text):
        raise UsageError(f"not guest text: {text!r}", hint=r"a backslash is written \\, any other byte \xNN")
    return _ESCAPE.sub(_unescape_match, text.encode("utf-8"))


def is_cut(text: str) -> bool:
    """Tell whether guest text was cut: it ends with `CUT`, whose backslash is not the second of a guest's own."""
    before = text[: -len(CUT)]
    return text.endswith(CUT) and (len(before) - len(before.rstrip("\\"))) % 2 == 0


def _escape_character(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))


def _unescape_match(match: re.Match[bytes]) -> bytes:
    body = match[1]
    return b"\\" if body == b"\\" else bytes((int(body[1:], 16),))
