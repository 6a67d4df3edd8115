# SPDX-License-Identifier: GPL-2.0-or-later
"""The forms of DRAKVUF's lines: what of them is text that recurs, and what of an object is looked at."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from drakmet.drakvuf.lenient import Pairs, integer
from drakmet.drakvuf.processes import Told

HEAD = ("Plugin", "TimeStamp", "PID", "PPID", "TID", "UserId", "ProcessName", "Method", "EventUID")
_OLD_HEAD = ("Plugin", "TimeStamp", "PID", "PPID", "TID", "UserName", "UserId", "ProcessName", "Method", "EventUID")
PREFIX = re.compile(r'\{"Plugin": ?"([A-Za-z0-9_]{1,60})", ?')
METHOD = re.compile(r': ?"([^"\\\x00-\x1f]{1,200})", ?')
_NUMBER = r"(0|[1-9]\d{0,9})"
BEGINNING = re.compile(
    r'(\{"Plugin": ?"([A-Za-z0-9_]{1,60})", ?)"TimeStamp": ?"(\d{1,10}\.\d{6})",'
    rf'( ?"PID": ?{_NUMBER}, ?"PPID": ?{_NUMBER}, ?"TID": ?{_NUMBER}, ?(?:"UserName": ?"(SessionID)", ?)?'
    rf'"UserId": ?{_NUMBER}, ?"ProcessName": ?("(?:[^"\\\x00-\x1f]|\\["\\/bfnrt])*"), ?)'
    r'"Method"(: ?"([^"\\\x00-\x1f]{1,200})", ?)"EventUID": ?"0x[0-9a-f]{1,15}",',
    re.ASCII,
)
_STAMP = re.compile(r"(\d{1,10})\.(\d{6})", re.ASCII)
_EVENT = re.compile(r"0x[0-9a-f]{1,15}")
_BITS = 1 << 63


class _Whole(msgspec.Struct):
    """Any object: decoding into it only checks that the text is one."""


class Odd(msgspec.Struct):
    """What is looked at in a line without the common keys."""

    TimeStamp: Any = None
    PID: Any = None
    PPID: Any = None
    TID: Any = None
    Method: Any = None
    EventUID: Any = None
    RunningProcess: Any = None


_whole = msgspec.json.Decoder(_Whole)
read_odd = msgspec.json.Decoder(Odd).decode
read_fields = msgspec.json.Decoder(dict[str, Any]).decode


def head_of(pairs: Pairs) -> tuple[int, str, int, Told] | None:
    """Return time, function, EventUID and who, if the common keys are what they should be."""
    names = tuple(name for name, _ in pairs[: len(_OLD_HEAD)])
    if names[: len(HEAD)] == HEAD:
        user_name = None
        _, stamp, pid, ppid, tid, user, name, method, number = (value for _, value in pairs[: len(HEAD)])
    elif names == _OLD_HEAD:
        _, stamp, pid, ppid, tid, user_name, user, name, method, number = (
            value for _, value in pairs[: len(_OLD_HEAD)]
        )
        if user_name != "SessionID":
            return None
    else:
        return None
    time = time_of(stamp)
    pid, ppid, tid, user = integer(pid), integer(ppid), integer(tid), integer(user)
    if time is None or pid is None or ppid is None or tid is None or user is None:
        return None
    if type(name) is not str or type(method) is not str or type(number) is not str or not _EVENT.fullmatch(number):
        return None
    return time, method, int(number, 16), Told(pid, ppid, tid, user, name, user_name)


def all_whole(text: str, count: int) -> bool:
    """Tell whether each of so many lines is an object, and nothing else."""
    # Between "}" and "{" of two lines no object can be open: in it, a comma or colon would be missing.
    if text.count("}\n{") != count - 1 or not text.startswith("{") or not text.endswith(("}\n", "}")):
        return False
    try:
        return len(_whole.decode_lines(text)) == count
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return False


def is_whole(text: str) -> bool:
    """Tell whether a text is an object, and nothing else."""
    try:
        _whole.decode(text)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return False
    return True


def simple(value: Any) -> Any:
    """Return a leniently parsed value as the strict parser gives it, as far as it matters here."""
    return value if type(value) is str else integer(value)


def number_of(value: Any) -> int | None:
    """Return an integer that SQLite can hold; None for anything else."""
    return value if type(value) is int and -_BITS <= value < _BITS else None


def time_of(stamp: Any) -> int | None:
    """Return nanoseconds for DRAKVUF's ``"sec.usec"``."""
    match = _STAMP.fullmatch(stamp) if type(stamp) is str else None
    return int(match[1] + match[2]) * 1000 if match else None


def parts(line: str) -> tuple[str, str, str]:
    """Return a line's texts before the time, from there to the function, and from there to the EventUID."""
    before, _, rest = line.partition('"TimeStamp"')
    _, _, rest = rest.partition(",")
    who, _, rest = rest.partition('"Method"')
    return before, who, rest.partition('"EventUID"')[0]


def tells(key: str, told: Told) -> bool:
    """Tell whether this text, taken for itself, says who did it, and nothing else."""
    text = key.strip()
    if not text.endswith(","):
        return False
    try:
        who = msgspec.json.decode("{" + text[:-1] + "}")
    except msgspec.MsgspecError:
        return False
    names = ["PID", "PPID", "TID", "UserName", "UserId", "ProcessName"]
    if told.user_name is None:
        names.remove("UserName")
    return list(who) == names and (who["PID"], who["ProcessName"]) == (told.pid, told.name)
