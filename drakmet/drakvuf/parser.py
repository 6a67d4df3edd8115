# SPDX-License-Identifier: GPL-2.0-or-later
"""From a log's bytes to its rows: every byte ends up in a row, or in the quarantine with a reason.

Nearly all lines begin with the same keys in the same order. Those are cut apart as text, and what recurs (the plugin,
who did it, the function) is looked up as it stands; only the rest of the line goes through a JSON parser, which tells
that the line is whole. Everything else, and the first of each kind, takes the slow way.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from drakmet.drakvuf.lenient import Pairs, dump, guest_text, integer, is_clean, plain
from drakmet.drakvuf.mending import Mender, Refused, Whole
from drakmet.drakvuf.processes import Processes, Told
from drakmet.drakvuf.rows import Event, Table, Tally
from drakmet.drakvuf.tables import BY_PLUGIN
from drakmet.text import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from drakmet.drakvuf.rows import Meaning
    from drakmet.drakvuf.tables import DrakvufRecord
    from drakmet.records import Record

RUNNING = "RunningProcess"
"""In the place of a function for lines that list what ran already."""

_HEAD = ("Plugin", "TimeStamp", "PID", "PPID", "TID", "UserId", "ProcessName", "Method", "EventUID")
_OLD_HEAD = ("Plugin", "TimeStamp", "PID", "PPID", "TID", "UserName", "UserId", "ProcessName", "Method", "EventUID")
_PREFIX = re.compile(r'\{"Plugin": ?"([A-Za-z0-9_]{1,60})", ?')
_METHOD = re.compile(r': ?"([^"\\\x00-\x1f]{1,200})", ?')
_STAMP = re.compile(r"(\d{1,10})\.(\d{6})", re.ASCII)
_EVENT = re.compile(r"0x[0-9a-f]{1,15}")
LONGEST = 16 << 20
"""Bytes of a line past which it comes in pieces, so that memory stays bounded."""
_REMEMBERED = 1 << 14
_BITS = 1 << 63


class _Whole(msgspec.Struct):
    """Any object: decoding into it only checks that the text is one."""


class _Odd(msgspec.Struct):
    """What is looked at in a line without the common keys."""

    TimeStamp: Any = None
    PID: Any = None
    PPID: Any = None
    TID: Any = None
    Method: Any = None
    EventUID: Any = None
    RunningProcess: Any = None


_check = msgspec.json.Decoder(_Whole).decode
_odd = msgspec.json.Decoder(_Odd).decode
_fields = msgspec.json.Decoder(dict[str, Any]).decode


class Parser:
    """Takes a log in blocks of whole lines, gives rows.

    ``put`` gets process rows, ``refuse`` what goes to the quarantine: guest text and a reason.
    """

    def __init__(
        self,
        session: int,
        first_process: int,
        put: Callable[[Record], object],
        refuse: Callable[[str, str], object],
    ) -> None:
        self.processes = Processes(session, first_process, put)
        self.tally = Tally()
        self._session = session
        self._refuse = refuse
        self._meanings: Mapping[str, Mapping[str, Meaning]] = {}
        self._mender = Mender()
        self._tables: dict[str, Table] = {}
        self._prefixes: dict[str, Table] = {}
        self._methods: dict[str, str] = {}
        self.begin: int | None = None
        self.end: int | None = None
        self._time = 0
        self._untimed: list[tuple[Table, int]] = []
        self._last = ""
        self._line = 0
        self._open = False

    def understand(self, meanings: Mapping[str, Mapping[str, Meaning]]) -> None:
        """Say by plugin and function what to do with a line beyond keeping it; to be called before any line."""
        self._meanings = meanings

    def feed(self, block: bytes) -> None:
        """Take whole lines; the very last one may lack its newline."""
        self.tally.bytes += len(block)
        if self._open or (len(block) >= LONGEST and b"\n" not in block):
            block = self._piece(block)
            if not block:
                return
        if not self.tally.lines:
            block = block.removeprefix(b"\xef\xbb\xbf")
        try:
            text = block.decode()
            dirty = "\\ud" in text or "\\uD" in text
        except UnicodeDecodeError:
            text, dirty = block.decode("utf-8", "surrogateescape"), True
        lines = text.split("\n")
        if not lines[-1]:
            lines.pop()
        self.tally.lines += len(lines)
        if not dirty:
            self._quick(lines)
            return
        for line in lines:
            if is_clean(line):
                self._quick([line])
            else:
                self._line += 1
                self._slow(line)

    def _piece(self, block: bytes) -> bytes:
        """Put a piece of a line that is too long to be held apart; return what follows on the line's end."""
        piece, ending, rest = block.partition(b"\n")
        if self._open:
            self.tally.parted += 1
        else:
            self._settle(self._mender.give_up("the line is cut short"))
            self.tally.lines += 1
            self._line += 1
        self._open = not ending
        self._quarantine(Refused(piece.decode("utf-8", "surrogateescape"), "a piece of a line that is too long"))
        return rest

    def finish(self) -> None:
        """Nothing follows: what waits for the rest of a line will not get it."""
        self._settle(self._mender.give_up("the log ends within it"))

    def take(self) -> list[tuple[type[DrakvufRecord], dict[str, list[Any]]]]:
        """Return the rows since the last call, by table and column."""
        found = []
        for table in self._tables.values():
            if count := len(table.time):
                self.tally.by_plugin[table.plugin] += count
                self.tally.records += count
                self._span(table.time)
                found.append((table.record, table.columns(self._session)))
                table.clear()
        self._untimed.clear()
        return found

    def _span(self, times: list[int]) -> None:
        begin, end = min(times), max(times)
        if begin:  # else none of them is known
            self.begin = begin if self.begin is None else min(begin, self.begin)
        if end:
            self.end = end if self.end is None else max(end, self.end)

    def _quick(self, lines: list[str]) -> None:
        prefixes, methods, actors = self._prefixes, self._methods, self.processes.actors
        pending, check, slow = self._mender.pending, _check, self._slow
        last, now = self._last, self._time
        base = self._line
        for number, line in enumerate(lines, base + 1):
            before, _, rest = line.partition('"TimeStamp"')
            table = prefixes.get(before)
            if table is not None and not pending and line != last:
                stamp, _, rest = rest.partition(",")
                who, _, rest = rest.partition('"Method"')
                named, _, rest = rest.partition('"EventUID"')
                event, _, rest = rest.partition(",")
                method, actor = methods.get(named), actors.get(who)
                digits = stamp[-18:-8] + stamp[-7:-1]
                if (
                    method is not None
                    and actor is not None
                    and rest
                    and stamp[-8:-7] == "."
                    and stamp[:-18] in (':"', ': "')
                    and stamp[-1:] == '"'
                    and digits.isascii()
                    and digits.isdecimal()
                    and event.startswith((': "0x', ':"0x'))
                    and event[-1:] == '"'
                    and len(event) <= 21
                    and "_" not in event
                ):
                    try:
                        uid = int(event[event.index("x") + 1 : -1], 16)
                        fields = actor.prefix + rest.strip()
                        check(fields)
                    except (ValueError, msgspec.MsgspecError):
                        pass
                    else:
                        last, time = line, int(digits) * 1000
                        if time < now:
                            self.tally.backwards += 1
                        now = time
                        table.time.append(time)
                        table.line.append(number)
                        table.process.append(actor.process)
                        table.tid.append(actor.tid)
                        table.method.append(method)
                        table.event.append(uid)
                        table.fields.append(fields)
                        meaning = table.meanings.get(method)
                        if meaning is not None:
                            known = Event(table.plugin, method, time, actor.process, actor.pid, actor.tid)
                            meaning(known, _fields(fields))
                        continue
            self._last, self._time, self._line = last, now, number
            if pending or not self._halfway(line):
                slow(line)
            last, now, pending = self._last, self._time, self._mender.pending
        self._last, self._time = last, now
        self._line = base + len(lines)

    def _halfway(self, line: str) -> bool:
        """Take a whole line of a known plugin that lacks the common keys; False if it is none."""
        match = _PREFIX.match(line)
        if match is None or match[1] not in BY_PLUGIN:
            return False
        fields = "{" + line[match.end() :].rstrip()
        try:
            odd = _odd(fields)
        except (ValueError, RecursionError):
            return False
        if odd.EventUID is not None:
            return False
        self._odd(self._table(match[1]), odd, fields)
        return True

    def _slow(self, line: str) -> None:
        """A line that is not as most are: broken, of another form, or the first of its kind."""
        if not self._mender.pending and not line.strip(" \t\r"):
            self.tally.blank += 1
            return
        self._settle(self._mender.offer(line))

    def _settle(self, outcomes: Iterable[Whole | Refused]) -> None:
        for one in outcomes:
            if isinstance(one, Whole):
                self.tally.joined += one.lines - 1
                self.tally.parted += one.parted
                self._row(one.text, one.pairs)
            else:
                # What was on the line is quarantined; what follows on it is not another line.
                self.tally.parted += one.reason.endswith("another follows on it")
                self._quarantine(one)

    def _quarantine(self, refused: Refused) -> None:
        self.tally.joined += refused.lines - 1
        self.tally.quarantined += 1
        self.tally.reasons[refused.reason.partition(":")[0]] += 1
        self._refuse(escape(refused.text), f"line {self._line}: {refused.reason}")

    def _row(self, line: str, pairs: Pairs) -> None:
        plugin = pairs.first("Plugin")
        if type(plugin) is not str:
            self._quarantine(Refused(line, "it names no plugin"))
            return
        clean = is_clean(line)
        table = self._table(plugin)
        head = _head(pairs)
        if head is None:
            odd = _Odd(*(_simple(pairs.first(name)) for name in _Odd.__struct_fields__))
            own = Pairs(pair for pair in pairs if pair != ("Plugin", plugin))
            self._odd(table, odd, dump(own, escaped=not clean))
        elif line == self._last:
            self._quarantine(Refused(line, "it is the line before once more"))
            return
        else:
            time, method, number, told = head
            self._last = line
            self._seen(time)
            own = Pairs(pairs[len(_HEAD) + (told.user_name is not None) :])
            before, key, named = _parts(line)
            if clean and plugin in BY_PLUGIN:
                self._learn(before, plugin, named, method)
            actor = self.processes.actors.get(key) if clean else None
            if actor is None:
                actor = self.processes.actor(key if clean and _tells(key, told) else "", told, time)
            if told.user_name is not None:
                own.insert(0, ("UserName", told.user_name))
            event = Event(plugin, method, time, actor.process, told.pid, told.tid)
            self._append(table, event, number, guest_text(method), dump(own, escaped=not clean))
            if meaning := table.meanings.get(method):
                meaning(event, plain(own))
        if not clean:
            table.raw[len(table.time) - 1] = line.encode("utf-8", "surrogateescape")
        if table.plugin == "":
            table.other.append(guest_text(plugin))

    def _table(self, plugin: str) -> Table:
        name = plugin if plugin in BY_PLUGIN else ""
        table = self._tables.get(name)
        if table is None:
            table = self._tables[name] = Table(name, self._meanings.get(name, {}))
        return table

    def _learn(self, before: str, plugin: str, named: str, method: str) -> None:
        """Remember how a line's parts look, if each is what it seems, for the next line that has them."""
        for known in (self._prefixes, self._methods):
            if len(known) >= _REMEMBERED:
                known.clear()
        if (match := _PREFIX.fullmatch(before)) and match[1] == plugin:
            self._prefixes[before] = self._table(plugin)
        if (match := _METHOD.fullmatch(named)) and match[1] == method:
            self._methods[named] = method

    def _odd(self, table: Table, odd: _Odd, fields: str) -> None:
        """A line without the common keys, such as those of rootkitmon and of the processes that run already."""
        stamp = _time(odd.TimeStamp)
        if stamp is not None:
            self._seen(stamp)
        pid, ppid, name = _number(odd.PID), _number(odd.PPID), odd.RunningProcess
        process = None
        if pid is not None and ppid is not None and isinstance(name, str):
            process = self.processes.running(pid, ppid, name, self._time)
        elif pid is not None:
            process = self.processes.known(pid, self._time)
        if stamp is None:
            table.unreadable[len(table.time)] = "time"
            if not self._time:
                self._untimed.append((table, len(table.time)))
        method = odd.Method if isinstance(odd.Method, str) else None
        meant = method or (RUNNING if isinstance(name, str) else "")
        event = Event(table.plugin, meant, self._time, process, pid, _number(odd.TID))
        self._append(table, event, None, None if method is None else guest_text(method), fields)
        if meaning := table.meanings.get(meant):
            meaning(event, _fields(fields))

    def _append(self, table: Table, event: Event, number: int | None, method: str | None, fields: str) -> None:
        table.time.append(event.time)
        table.line.append(self._line)
        table.process.append(event.process)
        table.tid.append(event.tid)
        table.method.append(method)
        table.event.append(number)
        table.fields.append(fields)

    def _seen(self, time: int) -> None:
        """A time is known; lines before it that had none get it."""
        self.tally.backwards += time < self._time
        self._time = time
        for table, place in self._untimed:
            table.time[place] = time
        self._untimed.clear()


def _head(pairs: Pairs) -> tuple[int, str, int, Told] | None:
    """Return time, function, EventUID and who, if the common keys are what they should be."""
    names = tuple(name for name, _ in pairs[: len(_OLD_HEAD)])
    if names[: len(_HEAD)] == _HEAD:
        user_name = None
        _, stamp, pid, ppid, tid, user, name, method, number = (value for _, value in pairs[: len(_HEAD)])
    elif names == _OLD_HEAD:
        _, stamp, pid, ppid, tid, user_name, user, name, method, number = (
            value for _, value in pairs[: len(_OLD_HEAD)]
        )
        if user_name != "SessionID":
            return None
    else:
        return None
    time = _time(stamp)
    pid, ppid, tid, user = integer(pid), integer(ppid), integer(tid), integer(user)
    if time is None or pid is None or ppid is None or tid is None or user is None:
        return None
    if type(name) is not str or type(method) is not str or type(number) is not str or not _EVENT.fullmatch(number):
        return None
    return time, method, int(number, 16), Told(pid, ppid, tid, user, name, user_name)


def _simple(value: Any) -> Any:
    """Return a leniently parsed value as the strict parser gives it, as far as it matters here."""
    return value if type(value) is str else integer(value)


def _number(value: Any) -> int | None:
    return value if type(value) is int and -_BITS <= value < _BITS else None


def _time(stamp: Any) -> int | None:
    """Return nanoseconds for DRAKVUF's ``"sec.usec"``."""
    match = _STAMP.fullmatch(stamp) if type(stamp) is str else None
    return int(match[1] + match[2]) * 1000 if match else None


def _parts(line: str) -> tuple[str, str, str]:
    """Return a line's texts before the time, from there to the function, and from there to the EventUID."""
    before, _, rest = line.partition('"TimeStamp"')
    _, _, rest = rest.partition(",")
    who, _, rest = rest.partition('"Method"')
    return before, who, rest.partition('"EventUID"')[0]


def _tells(key: str, told: Told) -> bool:
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
