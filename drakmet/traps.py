# SPDX-License-Identifier: GPL-2.0-or-later
"""What a plugin says it wants, in the guest kernel's own words, and what it is handed back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from drakmet.records import EventRecord, Process, Record

if TYPE_CHECKING:
    from drakmet.guest.linux import LinuxGuest

R = TypeVar("R", bound=EventRecord)


@dataclass(frozen=True, kw_only=True)
class Trap:
    """A kernel function to stop at, and what to fetch there.

    ``function`` is its name, or several names of which the first that the guest's kernel has is taken.
    ``fetch`` maps a value's name to an expression over the function's arguments as the kernel's BTF names them
    (``"pathname->name"``, ``"file|path"``), read when the function is entered. With ``returns`` the trap reports when
    the function returns: its expressions may use ``$return``, are read then, and join the entry's values.

    Without a ``handler`` the values become a ``record``'s columns of the same names. A handler gets the `Hit` and
    returns a record, several, or ``None``; it runs after the guest was let go.

    ``also`` names the classes of further records that its handler makes, so that the coverage tells of their tables.
    ``limit`` is the number of hits a second past which the trap is taken out for a while; the gap is recorded.
    """

    function: str | tuple[str, ...]
    fetch: Mapping[str, str] = field(default_factory=dict)
    returns: Mapping[str, str] | None = None
    record: type[EventRecord] | None = None
    handler: Handler | None = None
    also: tuple[type[EventRecord], ...] = ()
    name: str = ""
    limit: int = 20_000

    @property
    def functions(self) -> tuple[str, ...]:
        """The names to look for, in order."""
        return (self.function,) if isinstance(self.function, str) else self.function

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables it fills."""
        return tuple(record.table for record in (self.record, *self.also) if record is not None)

    @property
    def label(self) -> str:
        """The name under which the trap's health and coverage are told."""
        return self.name or self.functions[0]


class Hit:
    """A trap that was met: when, where, by whom, and the values that were asked for, as attributes.

    A value that could not be read is ``None``, and its name is in ``unreadable``. ``process`` is the process record of
    whoever ran into the trap, ``None`` if it could not be told.
    """

    __slots__ = ("process", "session", "time", "unreadable", "values", "vcpu")

    def __init__(
        self,
        session: int,
        time: int,
        vcpu: int,
        process: Process | None,
        values: dict[str, Any],
        unreadable: tuple[str, ...] = (),
    ) -> None:
        self.session = session
        self.time = time
        self.vcpu = vcpu
        self.process = process
        self.values = values
        self.unreadable = unreadable

    def __getattr__(self, name: str) -> Any:
        """Return a fetched value by its name."""
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(f"the trap fetches no {name!r}; it fetches {', '.join(sorted(self.values))}") from None

    def make(self, record: type[R], lost: Iterable[str] = (), /, **columns: Any) -> R:
        """Return a record of this moment and process with the given columns.

        Its ``unreadable`` names the values that the trap could not read and that are columns of the record, unless the
        column was given a value all the same; and what is in ``lost``: columns that rest on values of other names.
        """
        missing = list(lost)
        for name in self.unreadable:
            if name in record.__struct_fields__ and columns.get(name) is None and name not in missing:
                missing.append(name)
        return record(
            session=self.session,
            time=self.time,
            vcpu=self.vcpu,
            process=self.process.id if self.process else None,
            unreadable=",".join(missing) or None,
            **columns,
        )


class Attached(Protocol):
    """What a collector gets: the guest as it is at the moment of attaching."""

    session: int
    time: int
    guest: LinuxGuest

    def process(self, task: int) -> Process | None:
        """Return the process record of the ``task_struct`` at this address, making and storing it if it is new."""

    def argv(self, task: int) -> list[str] | None:
        """Return the arguments of the process at this address as they lie in its memory; ``None`` if unreadable."""


class Sink(Protocol):
    """Whoever takes records: the store's writer, a live table, a plugin's exporter."""

    def put(self, record: Record) -> None:
        """Take one record. It runs for every record: do little, and nothing that can wait on a disk or a network."""

    def flush(self) -> None:
        """Pass on what was taken. Called several times a second while the guest runs, and at the end."""


Records = Iterable[Record] | Record | None
Handler = Callable[[Hit], Records]
Collector = Callable[[Attached], Iterable[Record]]
