# SPDX-License-Identifier: GPL-2.0-or-later
"""From a log's bytes to its rows: every byte ends up in a row, or in the quarantine with a reason.

Nearly all lines begin with the same keys in the same order. Those are cut apart as text, and what recurs (the plugin,
who did it, the function) is looked up as it stands; only the rest of the line goes through a JSON parser, which tells
that the line is whole. Everything else, and the first of each kind, takes the slow way.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import msgspec

from drakmet.drakvuf.digits import HIGHS, LOWS, MICROSECONDS, MILLISECONDS, SECONDS, SHORTS
from drakmet.drakvuf.forms import (
    BEGINNING,
    HEAD,
    METHOD,
    PREFIX,
    Odd,
    all_whole,
    head_of,
    is_whole,
    number_of,
    parts,
    read_fields,
    read_odd,
    simple,
    tells,
    time_of,
)
from drakmet.drakvuf.lenient import Pairs, dump, guest_text, is_clean, plain
from drakmet.drakvuf.mending import Mender, Refused, Whole
from drakmet.drakvuf.processes import Processes, Told
from drakmet.drakvuf.rows import Event, Table, Tally
from drakmet.drakvuf.tables import BY_PLUGIN
from drakmet.text import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from drakmet.drakvuf.rows import Meaning
    from drakmet.drakvuf.tables import DrakvufRecord
    from drakmet.records import Record

RUNNING = "RunningProcess"
"""In the place of a function for lines that list what ran already."""

LONGEST = 16 << 20
"""Bytes of a line past which it comes in pieces, so that memory stays bounded."""
_REMEMBERED = 1 << 14
_PIECE = 256
"""Lines that are looked at together, if not all of a block are whole."""


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
        self.begin: int | None = None
        self.end: int | None = None
        self._time = 0
        self._timed = False  # a time of 0 may be one that a log tells
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
            dirty = "\\u" in text and ("\\ud" in text or "\\uD" in text)
        except UnicodeDecodeError:
            text, dirty = block.decode("utf-8", "surrogateescape"), True
        lines = text.split("\n")
        if not lines[-1]:
            lines.pop()
        self.tally.lines += len(lines)
        if not dirty:
            self._clean(lines, text)
            return
        for clean, run in itertools.groupby(lines, is_clean):
            if clean:
                self._quick(list(run), whole=False)
            else:
                for line in run:
                    self._line += 1
                    self._slow(line)

    def _clean(self, lines: list[str], text: str) -> None:
        """Take lines without a stray byte; ``text`` is all of them."""
        if all_whole(text, len(lines)):
            self._quick(lines, whole=True)
            return
        for at in range(0, len(lines), _PIECE):
            piece = lines[at : at + _PIECE]
            self._quick(piece, whole=len(piece) < len(lines) and all_whole("\n".join(piece), len(piece)))

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

    def take(self) -> list[tuple[type[DrakvufRecord], dict[str, Sequence[Any]]]]:
        """Return the rows since the last call, by table and column."""
        found = []
        for table in self._tables.values():
            if count := len(table.rows):
                self.tally.by_plugin[table.plugin] += count
                self.tally.records += count
                columns = table.columns(self._session)
                self._span(columns["time"])
                found.append((table.record, columns))
                table.clear()
        self._untimed.clear()
        return found

    def _span(self, times: Sequence[int]) -> None:
        begin, end = min(times), max(times)
        if begin:  # else none of them is known
            self.begin = begin if self.begin is None else min(begin, self.begin)
        if end:
            self.end = end if self.end is None else max(end, self.end)

    def _quick(self, lines: list[str], *, whole: bool, first: bool = True) -> None:
        """Take clean lines; ``whole`` says that each of them is an object, and nothing else.

        ``first`` says that they may be the first of their kind.
        """
        prefixes, actors, pending = self._prefixes, self.processes.actors, self._mender.pending
        last, now, number = self._last, self._time, self._line
        for line in lines:
            number += 1
            if line != last and not pending:
                try:
                    before, _, rest = line.partition('"TimeStamp"')
                    table = prefixes[before]
                    head, _, rest = rest.partition('"EventUID"')
                    stamp, _, head = head.partition(",")
                    who, _, named = head.partition('"Method"')
                    event, _, rest = rest.partition(",")
                    method, meaning = table.methods[named]
                    process, tid, prefix, pid = actors[who]
                    time = SECONDS[stamp[:-7]] + MILLISECONDS[stamp[-7:-4]] + MICROSECONDS[stamp[-4:]]
                    try:
                        uid = HIGHS[event[:-4]] + LOWS[event[-4:]]
                    except KeyError:
                        uid = SHORTS[event]
                    fields = prefix + rest.strip()
                except KeyError:
                    pass
                else:
                    if whole or is_whole(fields):
                        if time < now:
                            self.tally.backwards += 1
                        last, now = line, time
                        table.rows.append((time, process, number, tid, method, uid, fields))
                        if meaning is not None:
                            meaning(Event(table.plugin, method, time, process, pid, tid), read_fields(fields))
                        continue
            self._last, self._time, self._line = last, now, number
            if pending:
                self._slow(line)
            elif first and line != last and self._meet(line, whole):
                self._line -= 1
                self._quick([line], whole=True, first=False)
            elif not self._halfway(line):
                self._slow(line)
            last, now, pending = self._last, self._time, self._mender.pending
        self._last, self._time, self._line = last, now, number

    def _meet(self, line: str, whole: bool) -> bool:
        """Learn the parts of a whole line of the usual form that is the first of its kind."""
        match = BEGINNING.match(line)
        if match is None or match[2] not in BY_PLUGIN or not (whole or is_whole(line)):
            return False
        before, plugin, stamp, who, pid, ppid, tid, user_name, user, name, named, method = match.groups()
        time = time_of(stamp)
        assert time is not None  # noqa: S101 - the same form
        self._seen(time)
        self._learn(before, plugin, named, method)
        if who not in self.processes.actors:
            told = Told(int(pid), int(ppid), int(tid), int(user), msgspec.json.decode(name), user_name)
            self.processes.actor(who, told, time)
        return True

    def _halfway(self, line: str) -> bool:
        """Take a whole line of a known plugin that lacks the common keys; False if it is none."""
        match = PREFIX.match(line)
        if match is None or match[1] not in BY_PLUGIN:
            return False
        fields = "{" + line[match.end() :].rstrip()
        try:
            odd = read_odd(fields)
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
        head = head_of(pairs)
        if head is None:
            odd = Odd(*(simple(pairs.first(name)) for name in Odd.__struct_fields__))
            own = Pairs(pair for pair in pairs if pair != ("Plugin", plugin))
            self._odd(table, odd, dump(own, escaped=not clean))
        elif line == self._last:
            self._quarantine(Refused(line, "it is the line before once more"))
            return
        else:
            time, method, number, told = head
            self._last = line
            self._seen(time)
            own = Pairs(pairs[len(HEAD) + (told.user_name is not None) :])
            before, key, named = parts(line)
            if clean and plugin in BY_PLUGIN:
                self._learn(before, plugin, named, method)
            actor = self.processes.actors.get(key) if clean else None
            if actor is None:
                actor = self.processes.actor(key if clean and tells(key, told) else "", told, time)
            if told.user_name is not None:
                own.insert(0, ("UserName", told.user_name))
            event = Event(plugin, method, time, actor.process, told.pid, told.tid)
            self._append(table, event, number, guest_text(method), dump(own, escaped=not clean))
            if meaning := table.meanings.get(method):
                meaning(event, plain(own))
        if not clean:
            table.raw[len(table.rows) - 1] = line.encode("utf-8", "surrogateescape")
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
        table = self._table(plugin)
        for known in (self._prefixes, table.methods):
            if len(known) >= _REMEMBERED:
                known.clear()
        if (match := PREFIX.fullmatch(before)) and match[1] == plugin:
            self._prefixes[before] = table
        if (match := METHOD.fullmatch(named)) and match[1] == method:
            table.methods[named] = method, table.meanings.get(method)

    def _odd(self, table: Table, odd: Odd, fields: str) -> None:
        """A line without the common keys, such as those of rootkitmon and of the processes that run already."""
        stamp = time_of(odd.TimeStamp)
        if stamp is not None:
            self._seen(stamp)
        pid, ppid, name = number_of(odd.PID), number_of(odd.PPID), odd.RunningProcess
        process = None
        if pid is not None and ppid is not None and isinstance(name, str):
            process = self.processes.running(pid, ppid, name, self._time)
        elif pid is not None:
            process = self.processes.known(pid, self._time)
        if stamp is None:
            table.unreadable[len(table.rows)] = "time"
            if not self._timed:
                self._untimed.append((table, len(table.rows)))
        method = odd.Method if isinstance(odd.Method, str) else None
        meant = method or (RUNNING if isinstance(name, str) else "")
        event = Event(table.plugin, meant, self._time, process, pid, number_of(odd.TID))
        self._append(table, event, None, None if method is None else guest_text(method), fields)
        if meaning := table.meanings.get(meant):
            meaning(event, read_fields(fields))

    def _append(self, table: Table, event: Event, number: int | None, method: str | None, fields: str) -> None:
        table.rows.append((event.time, event.process, self._line, event.tid, method, number, fields))

    def _seen(self, time: int) -> None:
        """A time is known; lines before it that had none get it."""
        self.tally.backwards += time < self._time
        self._time, self._timed = time, True
        for table, place in self._untimed:
            table.rows[place] = (time, *table.rows[place][1:])
        self._untimed.clear()
