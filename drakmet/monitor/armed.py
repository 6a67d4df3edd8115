# SPDX-License-Identifier: GPL-2.0-or-later
"""Turns the traps that plugins ask for into places in this kernel with compiled fetchers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

from drakmet.errors import DrakmetError, GuestError, PluginError
from drakmet.guest.fetch import compile_field
from drakmet.guest.memory import Unreadable
from drakmet.records import CoverageKind
from drakmet.traps import Hit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from drakmet.executions import ExecuteTrap
    from drakmet.guest.fetch import Plan
    from drakmet.guest.linux import LinuxGuest
    from drakmet.monitor.coverage import Key
    from drakmet.monitor.loop import Read
    from drakmet.monitor.pageevents import ArmedExecute
    from drakmet.monitor.plugin import Plugin
    from drakmet.records import EventRecord
    from drakmet.traps import Trap

    Fetch = Callable[[Any], tuple[Any, ...]]

AT_HAND: Final = frozenset({"rax", "current"})
"""Sources that a function's return still has; all else is of its entry."""


class ArmedTrap:
    """A trap of a plugin, ready for this kernel, with its counters."""

    __slots__ = (
        "back", "back_needs_entry", "errors", "fetch", "handler", "hits", "key", "last_error", "limit", "lost",
        "names", "place", "record", "records", "tables", "trap", "unread",
    )  # fmt: skip

    event: ClassVar[type[Hit]] = Hit
    """What its handler gets."""
    last: ClassVar[bool] = False
    """Whether its handler reads the guest, and so comes after all that do not."""

    def __init__(self, plugin: str, trap: Trap, place: Place) -> None:
        self.trap = trap
        self.key: Key = (plugin, trap.label)
        self.place = place
        self.tables = trap.tables
        self.handler = trap.handler
        self.record: type[EventRecord] | None = trap.record
        self.limit = trap.limit
        self.names: tuple[str, ...] = tuple(trap.fetch)
        self.fetch: Fetch = _nothing
        self.back: Fetch | None = None
        self.back_needs_entry = False
        self.hits = self.records = self.errors = 0
        self.lost = self.unread = 0
        self.last_error: str | None = None

    def shortfalls(self, filtered: str | None) -> Iterator[tuple[CoverageKind, str, int | None]]:
        """Yield what it did not see though it was armed: kind, reason and how many hits were missed if that is known.

        ``filtered`` says which processes were watched, if not all.
        """
        if filtered:
            yield CoverageKind.FILTERED, filtered, None
        if self.lost:
            yield CoverageKind.LOST_RETURN, "calls were lost sight of before they returned", self.lost
        if self.errors:
            yield CoverageKind.PLUGIN_ERROR, self.last_error or "the plugin failed", self.errors
        if self.unread:
            yield (
                CoverageKind.UNREADABLE,
                f"{self.unread} records lack what could not be read",
                None,
            )


class Place:
    """An address with a breakpoint: a function's entry with its traps, or where calls of one return to (`site`)."""

    __slots__ = ("address", "filtered", "function", "go", "read", "registers", "site", "skip_to", "traps")

    def __init__(self, address: int, function: str, *, site: bool = False) -> None:
        self.address = address
        self.function = function
        self.site = site
        self.traps: list[ArmedTrap] = []
        self.filtered = 0
        # How the vCPU goes on: at `skip_to` with nothing executed, else as `go` answers. Set by who arms the place.
        self.skip_to = 0
        self.go: Callable[[int], None] | None = None
        # The registers that the traps' fetchers read, and how: None until the loop has chosen it.
        self.registers: set[str] = set()
        self.read: Read | None = None


@dataclass(frozen=True)
class Refused:
    """A trap that this kernel cannot have, and why."""

    plugin: str
    trap: Trap | ExecuteTrap
    reason: str

    @property
    def key(self) -> Key:
        """What it is called in the coverage."""
        return self.plugin, self.trap.label


@dataclass
class Prepared:
    """What is to be armed, by address, and what cannot be; ``registers`` are all that any fetcher reads."""

    places: dict[int, Place] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)
    registers: set[str] = field(default_factory=set)
    executes: list[ArmedExecute] = field(default_factory=list)
    """The execute traps."""

    @property
    def traps(self) -> list[ArmedTrap]:
        """All traps on functions."""
        return [trap for place in self.places.values() for trap in place.traps]


def prepare(guest: LinuxGuest, plugins: Iterable[Plugin], known: Mapping[str, int] | None = None) -> Prepared:
    """Find and compile every trap; what fails is in ``refused`` with its reason, the others work on.

    ``known`` are the places of a recording by function, the only ones it can tell of.
    """
    prepared = Prepared()
    for plugin in plugins:
        for trap in plugin.traps:
            try:
                _prepare_one(prepared, guest, plugin.name, trap, known)
            except DrakmetError as error:
                where = f"{error.where}: " if error.where else ""
                hint = f"; {error.hint}" if error.hint else ""
                prepared.refused.append(Refused(plugin.name, trap, f"{where}{error.what}{hint}"))
    return prepared


def _prepare_one(
    prepared: Prepared, guest: LinuxGuest, plugin: str, trap: Trap, known: Mapping[str, int] | None
) -> None:
    function, address = _entry(guest, trap, known)
    place = prepared.places.get(address) or Place(address, function)
    armed = ArmedTrap(plugin, trap, place)
    plans = [compile_field(text, function, guest.types) for text in trap.fetch.values()]
    for text, plan in zip(trap.fetch.values(), plans, strict=True):
        if plan.when == "return":
            raise PluginError(f"{text!r} is only there when the function returns", hint="move it to returns=")
    armed.fetch = bundle([plan.bind(guest) for plan in plans])
    if trap.returns is not None:
        back = [compile_field(text, function, guest.types) for text in trap.returns.values()]
        armed.back = bundle([plan.bind(guest) for plan in back])
        armed.names += tuple(trap.returns)
        sources = {source for plan in back for source in sources_of(plan)}
        armed.back_needs_entry = not sources <= AT_HAND
        plans += back
        place.registers.add("rax")  # the result takes its place
    if trap.record is not None and trap.handler is None:
        unknown = [name for name in armed.names if name not in trap.record.__struct_fields__]
        if unknown:
            raise PluginError(f"{trap.record.__name__} has no column {', '.join(unknown)}")
    elif trap.handler is None:
        raise PluginError("the trap has neither a record nor a handler")
    for plan in plans:
        place.registers |= sources_of(plan)
    prepared.registers |= place.registers
    prepared.places[address] = place
    place.traps.append(armed)


def _entry(guest: LinuxGuest, trap: Trap, known: Mapping[str, int] | None) -> tuple[str, int]:
    """Return the first of the trap's functions that the kernel has, and where its breakpoint goes."""
    if known is not None:
        for name in trap.functions:
            if name in known:
                return name, known[name]
        raise GuestError(f"the recording has no trap on {' or '.join(trap.functions)}")
    hint = None
    for name in trap.functions:
        try:
            found = guest.function_entry(name)
        except Unreadable as error:
            raise GuestError(f"the code of {name} cannot be read: {error.what}") from error
        except GuestError as error:
            hint = hint or error.hint
        else:
            return found.name, found.address
    raise GuestError(f"the kernel has no function {' or '.join(trap.functions)}", hint=hint)


def sources_of(plan: Plan) -> set[str]:
    """Return the registers (or ``current``) that an expression starts from, its argument's included."""
    found = {"rsp" if plan.source.startswith("stack") else plan.source}
    if plan.argument is not None:
        found |= sources_of(plan.argument)
    return found


def _nothing(_registers: Any) -> tuple[Any, ...]:
    return ()


def bundle(fetchers: list[Callable[[Any], Any]]) -> Fetch:
    """Return one function that calls all fetchers; the short cases without a loop."""
    if not fetchers:
        return _nothing
    if len(fetchers) == 1:
        (only,) = fetchers
        return lambda registers: (only(registers),)
    if len(fetchers) == 2:
        first, second = fetchers
        return lambda registers: (first(registers), second(registers))
    every = tuple(fetchers)
    return lambda registers: tuple([fetch(registers) for fetch in every])
