# SPDX-License-Identifier: GPL-2.0-or-later
"""The SQL functions that rules and queries have beside SQLite's own.

All are deterministic, take a time that is linear in their arguments, give NULL for NULL and for what makes no sense,
and never raise: what they look at was written by a guest.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import importlib.util
import ipaddress
import json
import re
from typing import TYPE_CHECKING, Any

from drakmet.errors import UsageError
from drakmet.records import to_unsigned
from drakmet.text import unescape

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_LONGEST = 16 << 20
_MOST_TRIMMED = 1_000
_LONGEST_ADDRESS = 64
_LONGEST_PATTERN = 10_000
_MOST_MEMORY_OF_PATTERN = 8 << 20
_MOST_SECONDS = 2**63 // 10**9
_DURATION = re.compile(r"(\d{1,6})(ms|s|m|h|d)")
_UNITS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}

_INSIDE = tuple(
    map(
        ipaddress.ip_network,
        # The blocks of RFC 6890 that no packet for the Internet goes to; Python's is_global differs between versions.
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
            *("192.0.0.0/24", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
            *("224.0.0.0/4", "240.0.0.0/4", "::/128", "::1/128", "2001:db8::/32", "fc00::/7", "fe80::/10", "ff00::/8"),
        ),
    )
)


def hex_address(address: object) -> str | None:
    """Return an address column's value as the kernel would print it: ``0xffffffff81000000``."""
    return f"0x{to_unsigned(address):016x}" if isinstance(address, int) else None


def guest_bytes(text: object) -> bytes | None:
    """Return the bytes that guest text stands for."""
    try:
        return unescape(text) if isinstance(text, str) else None
    except UsageError:
        return None


def basename(path: object) -> str | None:
    """Return what follows the last slash of a path; the last backslash of a Windows path, which has no slash before."""
    return path.rpartition(_separator(path))[2] if isinstance(path, str) else None


def dirname(path: object) -> str | None:
    """Return what precedes the last slash of a path: ``/`` for a file in the root, empty if there is no slash."""
    if not isinstance(path, str):
        return None
    head, separator, _ = path.rpartition(_separator(path))
    return head or separator


def argv_text(argv: object) -> str | None:
    """Return a list column's words with a blank between them."""
    try:
        words = json.loads(argv) if isinstance(argv, str) else None
    except (ValueError, RecursionError):
        return None
    return " ".join(map(str, words)) if isinstance(words, list) else None


def ip_in(address: object, network: object) -> int | None:
    """Tell whether an IP address is, or belongs to, a network such as ``10.0.0.0/8`` or ``2001:db8::/32``."""
    ip, block = _address(address), _network(network)
    return None if ip is None or block is None else int(ip.version == block.version and ip in block)


def ip_public(address: object) -> int | None:
    """Tell whether an IP address is one of the Internet's: not private, local, multicast, documentation or reserved."""
    ip = _address(address)
    return None if ip is None else int(not any(ip.version == block.version and ip in block for block in _INSIDE))


def in_domain(name: object, domain: object) -> int | None:
    """Tell whether a DNS name is the domain or lies below it; case and a last dot do not matter."""
    if not isinstance(name, str) or not isinstance(domain, str):
        return None
    name, domain = name.rstrip(".").lower(), domain.strip(".").lower()
    return int(name == domain or name.endswith("." + domain))


def casefold(text: object) -> str | None:
    """Return a text in the form in which capital letters do not matter, those of all alphabets."""
    return text.casefold() if isinstance(text, str) else None


def matches(text: object, pattern: object) -> int | None:
    """Tell whether a regular expression (RE2's) is found in what guest text stands for; NULL if it is none."""
    if not isinstance(text, str) or not isinstance(pattern, str):
        return None
    expression = regular_expression(pattern)
    if expression is None:
        return None
    if "\\" in text:
        with contextlib.suppress(UsageError):
            text = unescape(text).decode("utf-8", "replace")
    return int(expression.search(text) is not None)


@functools.lru_cache(maxsize=4096)
def regular_expression(pattern: str) -> Any:
    """Return a compiled regular expression that searches in linear time and bounded memory, None for what is none.

    Raises `ImportError` without google-re2.
    """
    import re2

    options = re2.Options()
    options.max_mem = _MOST_MEMORY_OF_PATTERN
    options.log_errors = False
    try:
        return re2.compile(pattern, options) if len(pattern) <= _LONGEST_PATTERN else None
    except re2.error:
        return None


def utc(nanoseconds: object) -> str | None:
    """Return a time as ``2026-11-23T10:15:00.123456Z``."""
    if not isinstance(nanoseconds, int):
        return None
    try:
        moment = dt.datetime.fromtimestamp(nanoseconds // 10**9, dt.UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds % 10**9 // 1000:06d}Z"


def seconds(count: object) -> int | None:
    """Return that many seconds, or a duration such as ``10m``, in the nanoseconds of ``time`` columns."""
    if isinstance(count, str):
        match = _DURATION.fullmatch(count)
        return int(match[1]) * _UNITS[match[2]] if match else None
    return round(count * 10**9) if isinstance(count, int | float) and abs(count) < _MOST_SECONDS else None


def instr(text: object, part: object) -> int | None:
    """Return where a part begins in a text, or bytes in bytes, counted from 1; 0 if it is not there."""
    if text is None or part is None:
        return None
    if isinstance(text, bytes) and isinstance(part, bytes):
        return text.find(part) + 1
    return _text(text).find(_text(part)) + 1


def replace(text: object, part: object, by: object) -> object:
    """Return a text with a part replaced wherever it is, an empty part nowhere; NULL for what gets too long."""
    if text is None or part is None or by is None:
        return None
    whole, old, new = _text(text), _text(part), _text(by)
    if not old:
        return text
    fits = len(whole) + whole.count(old) * (len(new) - len(old)) <= _LONGEST
    return whole.replace(old, new) if fits else None


def trim(text: object, characters: object = " ") -> str | None:
    """Return a text without some characters at both ends."""
    kind = _few(characters)
    return None if text is None or kind is None else _text(text).strip(kind)


def ltrim(text: object, characters: object = " ") -> str | None:
    """Return a text without some characters at its begin."""
    kind = _few(characters)
    return None if text is None or kind is None else _text(text).lstrip(kind)


def rtrim(text: object, characters: object = " ") -> str | None:
    """Return a text without some characters at its end."""
    kind = _few(characters)
    return None if text is None or kind is None else _text(text).rstrip(kind)


FUNCTIONS: dict[str, tuple[Callable[..., Any], int]] = {
    "argv_text": (argv_text, 1),
    "basename": (basename, 1),
    "casefold": (casefold, 1),
    "dirname": (dirname, 1),
    "guest_bytes": (guest_bytes, 1),
    "hex_address": (hex_address, 1),
    "in_domain": (in_domain, 2),
    "ip_in": (ip_in, 2),
    "ip_public": (ip_public, 1),
    "matches": (matches, 2),
    "seconds": (seconds, 1),
    "utc": (utc, 1),
}

_NEEDING_RE2 = frozenset(("matches",))

# SQLite's own take a time that grows with the product of the lengths, and nothing can stop them meanwhile.
_INSTEAD: tuple[tuple[str, Callable[..., Any], int], ...] = (
    ("instr", instr, 2),
    ("replace", replace, 3),
    *((function.__name__, function, arguments) for function in (trim, ltrim, rtrim) for arguments in (1, 2)),
)


def register(connection: sqlite3.Connection) -> None:
    """Give a connection the functions, and some of SQLite's in a form that no text can slow down."""
    for name, (function, arguments) in FUNCTIONS.items():
        if name in _NEEDING_RE2 and not importlib.util.find_spec("re2"):
            continue  # a rule that calls it is then told of, instead of finding nothing
        connection.create_function(name, arguments, function, deterministic=True)
    for name, function, arguments in _INSTEAD:
        connection.create_function(name, arguments, function, deterministic=True)


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _few(characters: object) -> str | None:
    """Return the characters to trim; ``None`` for more than anybody trims."""
    return None if characters is None or len(_text(characters)) > _MOST_TRIMMED else _text(characters)


def _separator(path: str) -> str:
    # Guest text writes a backslash twice. A Linux file may be named with one, but its path begins with a slash.
    return "\\\\" if not path.startswith("/") and "\\\\" in path else "/"


def _address(text: object) -> _Address | None:
    # What is longer is no address, and would fill the cache with a guest's texts.
    return _parsed_address(text) if isinstance(text, str) and len(text) <= _LONGEST_ADDRESS else None


def _network(text: object) -> _Network | None:
    return _parsed_network(text) if isinstance(text, str) and len(text) <= _LONGEST_ADDRESS else None


@functools.lru_cache(maxsize=4096)
def _parsed_address(text: str) -> _Address | None:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, ipaddress.IPv6Address) else ip


@functools.lru_cache(maxsize=1024)
def _parsed_network(text: str) -> _Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
