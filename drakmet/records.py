# SPDX-License-Identifier: GPL-2.0-or-later
"""What drakmet writes down. A record class *is* a table: its fields are the columns, its docs the documentation.

A field is annotated with its type and one sentence::

    class FileRemoved(EventRecord):
        \"\"\"A name was removed from a directory.\"\"\"

        path: Annotated[str | None, "the name, from the root of the process's mount namespace"] = None

Types are ``int``, ``float``, ``bool``, ``str``, ``bytes``, `Address`, and ``list[str]`` and ``list[int]`` (kept as
JSON), each also ``| None``. Strings from a guest are guest text (`drakmet.text`). What could not be read is ``None``
and its name stands in the record's ``unreadable`` column: nothing is guessed.
"""

from __future__ import annotations

import enum
import functools
import re
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

import msgspec

from drakmet.errors import PluginError

ADDRESS = "address"
"""Marks an unsigned 64-bit address; SQLite keeps it as a signed integer (`to_signed`)."""

Address = Annotated[int, ADDRESS]

_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SQL_TYPES = {int: "INTEGER", bool: "INTEGER", float: "REAL", str: "TEXT", bytes: "BLOB"}


class _KeywordOnly(msgspec.StructMeta):
    """Makes every record class keyword-only, so that a required column may follow the optional ones it inherits."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> Any:
        """Make the class."""
        return super().__new__(mcs, name, bases, namespace, **{"kw_only": True, **options})


@typing.dataclass_transform(kw_only_default=True, field_specifiers=(msgspec.field,))
class Record(msgspec.Struct, metaclass=_KeywordOnly):
    """A row of the table that is named like the class: ``FileOpen`` goes to ``file_open``."""

    table: ClassVar[str]
    computed: ClassVar[dict[str, tuple[str, str]]] = {}
    """Columns that SQLite computes when they are asked for: by name an SQL expression and a sentence; of any type."""

    def __init_subclass__(cls) -> None:
        """Give every record class its table's name."""
        super().__init_subclass__()
        if "table" not in cls.__dict__:
            cls.table = _WORD_START.sub("_", cls.__name__).lower()


class EventRecord(Record):
    """Something that happened in a guest at a moment."""

    session: Annotated[int, "session.id of the run that saw it"] = 0
    time: Annotated[int, "when it was seen: nanoseconds since 1970-01-01 UTC by the monitoring host's clock"] = 0
    vcpu: Annotated[int | None, "number of the vCPU that ran it"] = None
    process: Annotated[int | None, "process.id of the process that did it; null if it could not be told"] = None
    unreadable: Annotated[str | None, "columns that could not be read, with commas; null if all were"] = None


class Host(Record):
    """A machine that was watched from: a Xen host, or where an image or log came from."""

    id: Annotated[int, "number of the host in this file"]
    name: Annotated[str, "host name of dom0, or as given"]
    xen: Annotated[str | None, "version of the hypervisor"] = None


class Guest(Record):
    """A guest that was watched or read."""

    id: Annotated[int, "number of the guest in this file"]
    host: Annotated[int, "host.id"]
    name: Annotated[str, "the domain's name, or as given"]
    uuid: Annotated[str | None, "the domain's UUID"] = None
    os: Annotated[str | None, "linux or windows"] = None
    kernel: Annotated[str | None, "the kernel's banner"] = None
    build_id: Annotated[str | None, "the kernel's GNU build-id, in hex"] = None


class Session(Record):
    """One run of drakmet over one guest."""

    id: Annotated[int, "number of the session in this file"]
    guest: Annotated[int, "guest.id"]
    source: Annotated[str, "the URI it came from, such as xen:web1 or replay:run.drec"]
    begin: Annotated[int, "nanoseconds since 1970-01-01 UTC"]
    end: Annotated[int | None, "nanoseconds since 1970-01-01 UTC; null while it runs, or if it was cut off"] = None
    outcome: Annotated[str | None, "how it ended: done, guest gone, or the error"] = None
    drakmet: Annotated[str | None, "drakmet's version"] = None
    content: Annotated[str | None, "of an imported log: digest and size, by which it is known again"] = None
    paused_attach: Annotated[int | None, "nanoseconds the guest was paused to attach"] = None
    paused_detach: Annotated[int | None, "nanoseconds the guest was paused to detach"] = None


class Process(Record):
    """A process as it was from one moment on: a new row whenever what it executes, its name or its user changes."""

    indexes = (("pid",),)

    id: Annotated[int, "number of this row; what event records call process"]
    session: Annotated[int, "session.id"]
    time: Annotated[int, "when it was first seen like this: nanoseconds since 1970-01-01 UTC"]
    pid: Annotated[int | None, "process id (the kernel's tgid) in the first pid namespace"] = None
    tid: Annotated[int | None, "id of the thread that was seen (the kernel's pid)"] = None
    ppid: Annotated[int | None, "process id of its real parent"] = None
    start_time: Annotated[
        int | None, "nanoseconds from the guest's boot to its start; with pid it names the process"
    ] = None
    comm: Annotated[str | None, "the kernel's 15-byte name of it"] = None
    exe: Annotated[str | None, "path of the file it executes; null for a kernel thread"] = None
    uid: Annotated[int | None, "real user id"] = None
    euid: Annotated[int | None, "effective user id"] = None
    gid: Annotated[int | None, "real group id"] = None
    kernel_thread: Annotated[bool | None, "whether it is a kernel thread"] = None
    container: Annotated[str | None, "container id from its cgroup's path; null if it is in none"] = None
    pid_ns: Annotated[int | None, "inode number of its pid namespace"] = None
    mnt_ns: Annotated[int | None, "inode number of its mount namespace"] = None
    net_ns: Annotated[int | None, "inode number of its network namespace"] = None
    windows_session: Annotated[int | None, "Windows: the terminal session it belongs to"] = None
    life: Annotated[
        int | None, "where start_time is unknown: process.id of the process's first row, its life's name"
    ] = None
    parent: Annotated[int | None, "where start_time is unknown: life of its parent"] = None
    unreadable: Annotated[str | None, "columns that could not be read, with commas; null if all were"] = None


class CoverageKind(enum.StrEnum):
    """What an interval of the coverage is: armed, or the kind of a gap."""

    ARMED = "armed"
    NOT_ARMED = "not armed"
    """The function or a field is not in this kernel, or it could not be trapped."""
    THROTTLED = "throttled"
    """It fired too often and was taken out for some seconds."""
    FILTERED = "filtered"
    """It was armed, but only some processes were watched."""
    LOST_RETURN = "lost return"
    """It was armed, but calls whose results it tells of were lost sight of."""
    PLUGIN_ERROR = "plugin error"
    """It was armed, but the plugin failed on hits, or its collector failed."""
    UNREADABLE = "unreadable"
    """It was armed, but something of what it tells could not be read in the guest's memory."""
    CHANGED = "changed meanwhile"
    """What was read changed while it was read, or what was trapped changed or moved without an event."""
    RING_FULL = "ring full"
    """It was armed, but vCPUs had to wait until there was room for their events; none of these is lost."""
    PAUSED = "guest paused"
    """The guest was stopped by the watch, to change what it runs in; nothing can have happened in it meanwhile."""
    CLOCK_SET = "clock set"
    """It was armed, but the host's clock was set: times before and after cannot be compared. No hit is lost by it."""
    UNVERIFIABLE = "unverifiable"
    """It was armed, but pages were written and executed in turn so often that they were let run unseen."""
    MONITOR_AWAY = "monitor away"
    """The monitor or its guardian ended before the watch was meant to end."""
    TIME_OUT = "time out"
    """Reading took longer than it might."""
    DAMAGED = "damaged"
    """Parts of a log or recording could not be understood."""


class Coverage(Record):
    """An interval in which a trap was armed, or was not and why. Several may overlap."""

    session: Annotated[int, "session.id"]
    plugin: Annotated[str, "whose trap it is"]
    trap: Annotated[str, "the trap's name"]
    tables: Annotated[list[str], "tables that the trap fills"]
    begin: Annotated[int, "nanoseconds since 1970-01-01 UTC"]
    end: Annotated[int | None, "nanoseconds since 1970-01-01 UTC; null while it lasts"] = None
    kind: Annotated[str, "armed, or what kind of gap: " + ", ".join(list(CoverageKind)[1:])] = CoverageKind.ARMED.value
    gap: Annotated[str | None, "null: it was armed; else why it saw nothing, or not all"] = None
    missed: Annotated[int | None, "hits known to be lost in it"] = None


class PluginFault(Record):
    """An error in a plugin's handler; the watch went on without that hit."""

    session: Annotated[int, "session.id"]
    time: Annotated[int, "nanoseconds since 1970-01-01 UTC"]
    plugin: Annotated[str, "its name"]
    trap: Annotated[str | None, "the trap whose hit it handled"]
    error: Annotated[str, "type and text of the error, and the place in the plugin's file"]


class IdentityConflict(EventRecord):
    """The process that the guest named was not the one that its CPU ran, or is missing in a book of the kernel's.

    ``process`` is the one that was named. Told once for each task and contradiction.
    """

    task: Annotated[Address | None, "address of the task that the CPU named as the one it ran"] = None
    root: Annotated[Address | None, "guest-physical address of the page tables with which the CPU ran (CR3)"] = None
    expected: Annotated[Address | None, "that of the page tables of the task, by the kernel's books"] = None
    own_tables: Annotated[bool | None, "whether it ran with page tables that are the task's to run with"] = None
    owner: Annotated[int | None, "process id whose page tables they are, if they are another's in the list"] = None
    missing_in: Annotated[list[str] | None, "the kernel's books that should have the task and do not"] = None


class Finding(Record):
    """A rule that fired."""

    session: Annotated[int | None, "session.id"]
    time: Annotated[int, "time of the row it rests on: nanoseconds since 1970-01-01 UTC"]
    found: Annotated[int, "when the rule was evaluated: nanoseconds since 1970-01-01 UTC"]
    rule: Annotated[str, "the rule's id"]
    level: Annotated[str, "informational, low, medium, high or critical"]
    title: Annotated[str, "the rule's title"]
    message: Annotated[str, "what happened, in a sentence"]
    process: Annotated[int | None, "process.id it is about"] = None
    rests_on: Annotated[str, "JSON: the rows it rests on, as [table, id] pairs"] = "[]"
    coverage: Annotated[
        str | None, "whether the traps behind the tables that the rule reads saw everything: complete, or the gaps"
    ] = None


CORE_RECORDS: tuple[type[Record], ...] = (
    Host, Guest, Session, Process, Coverage, PluginFault, IdentityConflict, Finding,
)  # fmt: skip
"""The tables of every file, whatever plugins are loaded."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the table, the linter and the generated documentation see it."""

    name: str
    sql_type: str
    nullable: bool
    doc: str
    is_address: bool = False
    is_json: bool = False
    is_bool: bool = False
    expression: str | None = None
    """What SQLite computes it from; None for a column that is stored."""


@functools.cache
def columns(record: type[Record]) -> tuple[Column, ...]:
    """Return the columns of a record class in their order; raise `PluginError` for a type that no column can hold."""
    hints = typing.get_type_hints(record, include_extras=True)
    return tuple(_column(record, name, hints[name]) for name in record.__struct_fields__)


def computed_columns(record: type[Record]) -> tuple[Column, ...]:
    """Return the columns of a record class that SQLite computes."""
    return tuple(Column(name, "ANY", True, doc, expression=sql) for name, (sql, doc) in record.computed.items())


def to_signed(address: int) -> int:
    """Return the signed 64-bit integer under which SQLite keeps an unsigned 64-bit address."""
    return address - (1 << 64) if address >> 63 else address


def to_unsigned(value: int) -> int:
    """Return the unsigned 64-bit address that `to_signed` made ``value`` from."""
    return value & ((1 << 64) - 1)


def _column(record: type[Record], name: str, hint: Any) -> Column:
    notes: list[str] = []
    nullable = False
    while True:
        if get_origin(hint) is Annotated:
            notes.extend(note for note in hint.__metadata__ if isinstance(note, str))
            hint = hint.__origin__
        elif get_origin(hint) in (Union, types.UnionType):
            kept = [member for member in get_args(hint) if member is not type(None)]
            if len(kept) != 1:
                break
            nullable, hint = True, kept[0]
        else:
            break
    doc = next((note for note in notes if note != ADDRESS), "")
    is_json = get_origin(hint) is list and get_args(hint)[0] in (str, int)
    sql_type = "TEXT" if is_json else _SQL_TYPES.get(hint)
    if sql_type is None:
        raise PluginError(
            f"{record.__name__}.{name} has type {hint!r}, which no column can hold",
            hint="use int, float, bool, str, bytes, Address, list[str] or list[int], or one of them | None",
        )
    return Column(name, sql_type, nullable, doc, is_address=ADDRESS in notes, is_json=is_json, is_bool=hint is bool)
