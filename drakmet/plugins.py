# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding and loading plugins. One that fails is kept with its reason; the others go on.

A plugin is a Python file in a plugins directory, a module that a distribution names under the entry point group
``drakmet``, or a TOML file that describes probes (`drakmet.probes`). Its hooks are asked once, here; no hook is called
for an event.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
import os
import re
import stat
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

import drakmet
from drakmet import hookspecs
from drakmet.errors import DrakmetError, PluginError, UsageError
from drakmet.executions import ExecuteTrap
from drakmet.records import CORE_RECORDS, EventRecord, Record, columns
from drakmet.traps import Hit, Trap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from drakmet.traps import Collector, Sink

ENTRY_POINTS = "drakmet"
_TABLE = re.compile(r"(?!sqlite_|drakmet_)[a-z][a-z0-9_]{0,62}")


@dataclass
class LoadedPlugin:
    """A plugin and what its hooks returned; with an ``error`` it takes no part."""

    name: str
    origin: str
    module: Any = None
    records: list[type[Record]] = field(default_factory=list)
    traps: list[Trap] = field(default_factory=list)
    execute_traps: list[ExecuteTrap] = field(default_factory=list)
    collectors: list[Collector] = field(default_factory=list)
    sinks: list[Sink] = field(default_factory=list)
    error: str | None = None

    path: Path | None = None

    @property
    def doc(self) -> str:
        """The first line of the plugin's docstring."""
        return (getattr(self.module, "__doc__", None) or "").strip().partition("\n")[0]


@dataclass
class PluginSet:
    """Every plugin that was found; ``plugins`` are those that can be used."""

    found: list[LoadedPlugin]

    @property
    def plugins(self) -> list[LoadedPlugin]:
        """The plugins that loaded."""
        return [plugin for plugin in self.found if plugin.error is None]

    @property
    def failed(self) -> list[LoadedPlugin]:
        """The plugins that did not, each with its ``error``."""
        return [plugin for plugin in self.found if plugin.error is not None]

    def without_execute_traps(self) -> PluginSet:
        """Return the others than those with execute traps, which are only wanted where they are asked for."""
        return PluginSet([plugin for plugin in self.found if not plugin.execute_traps])

    @property
    def records(self) -> list[type[Record]]:
        """The record classes of all plugins."""
        return [record for plugin in self.plugins for record in plugin.records]


def bundled() -> Path:
    """Return the directory of the plugins that come with drakmet."""
    package = Path(drakmet.__file__).parent
    shipped = package / "_bundled" / "plugins"
    return shipped if shipped.is_dir() else package.parent / "plugins"


def load_plugins(
    directories: Iterable[Path | str] = (), *, only: Iterable[str] = (), disabled: Iterable[str] = ()
) -> PluginSet:
    """Load the bundled plugins, those of installed distributions, and those in ``directories``.

    ``only`` leaves all others out, ``disabled`` leaves these out; `UsageError` for a name that no plugin has and for a
    directory that is not there or that others may write to. A plugin's own faults are in its ``error``.
    """
    wanted, unwanted = list(only), set(disabled)
    sources = [*_in(bundled()), *_installed()]
    for directory in directories:
        sources += _in(_trusted(Path(directory)))
    names = [source.name for source in sources]
    for name in [*wanted, *unwanted]:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            raise UsageError(
                f"there is no plugin {name!r}",
                hint=f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names)}",
            )
    chosen = [source for source in sources if source.name not in unwanted and (not wanted or source.name in wanted)]
    taken = _Taken()
    return PluginSet([_load(source, taken) for source in chosen])


def load_file(path: Path) -> LoadedPlugin:
    """Load one plugin from its file, whatever the others are called and wherever it lies; faults are in ``error``."""
    return _load(_of(path), _Taken())


@dataclass(frozen=True)
class _Source:
    """Where a plugin is."""

    name: str
    place: Path | importlib.metadata.EntryPoint

    @property
    def origin(self) -> str:
        if isinstance(self.place, Path):
            return str(self.place)
        return f"{self.place.dist.name} {self.place.dist.version}" if self.place.dist else self.place.value


def _in(directory: Path) -> Iterator[_Source]:
    for file in sorted(directory.iterdir()):
        if file.suffix in (".py", ".toml") and not file.name.startswith(("_", ".", "test_", "conftest.")):
            yield _of(file)


def _of(file: Path) -> _Source:
    return _Source(file.stem.replace("_", "-"), file)


def _installed() -> Iterator[_Source]:
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        yield _Source(point.name, point)


def _trusted(directory: Path) -> Path:
    """Refuse a directory in which others could put code that then runs as us, which mostly means root."""
    if not directory.is_dir():
        raise UsageError("there is no such directory", where=str(directory), hint="give a directory of plugins")
    above = directory.resolve().parents
    for path in (directory, *above, *directory.iterdir()):
        try:
            about = path.stat()
        except FileNotFoundError:
            continue  # a dangling link, such as an editor's lock
        open_to_others = bool(about.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
        if path in above:
            # Below a sticky directory such as /tmp, others cannot put theirs in the place of ours.
            refused = open_to_others and not about.st_mode & stat.S_ISVTX
        else:
            refused = open_to_others or about.st_uid not in (0, os.geteuid())
        if refused:
            raise UsageError(
                "others may write here, and plugins run with all your rights",
                where=str(path),
                hint=f"make it yours alone: chmod go-w {path} (and chown it)",
            )
    return directory


class _Taken:
    """The names and tables that are given out, each with who has it."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.tables: dict[str, str] = {record.table: "drakmet" for record in CORE_RECORDS}

    def claim(self, plugin: LoadedPlugin) -> None:
        """Give the plugin its name and tables, or raise `PluginError` and give it none of them."""
        if plugin.name in self.names:
            raise PluginError(
                f"there is a plugin {plugin.name} already: {self.names[plugin.name]}",
                hint="call it something else, or leave the other out (--without leaves both out)",
            )
        tables: dict[str, str] = {}
        for record in plugin.records:
            _check_table(record)
            owner = self.tables.get(record.table) or tables.get(record.table)
            if owner is not None:
                raise PluginError(
                    f"its table {record.table} is one of {owner} already",
                    hint=f"call {record.__name__} something else, or give it another `table`",
                )
            tables[record.table] = plugin.name
        self.names[plugin.name] = plugin.origin
        self.tables |= tables


def _load(source: _Source, taken: _Taken) -> LoadedPlugin:
    plugin = LoadedPlugin(source.name, source.origin)
    if isinstance(source.place, Path):
        plugin.path = source.place
    try:
        plugin.module = _import(source)
        _ask(plugin)
        taken.claim(plugin)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may raise anything; the others go on
        plugin.error = str(error) if isinstance(error, DrakmetError) else _describe(error)
        plugin.records, plugin.traps, plugin.execute_traps, plugin.collectors, plugin.sinks = [], [], [], [], []
    return plugin


def _check_table(record: type[Record]) -> None:
    """Refuse what no table can be made of."""
    if not _TABLE.fullmatch(record.table):
        raise PluginError(
            f"{record.table!r} cannot be the name of a table",
            hint="take small letters, digits and underscores, and another beginning than sqlite_ or drakmet_",
        )
    for column in columns(record):
        if column.name == "id" and issubclass(record, EventRecord):
            raise PluginError(f"{record.__name__} has a column id, which is the number of the row in each table")


def _describe(error: BaseException) -> str:
    """Return type and text of an error, and the line of the plugin it comes from."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and not frame.filename.startswith("<frozen")
    ]
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames and not isinstance(error, SyntaxError) else ""
    return f"{type(error).__name__}: {error}{where}"


def _import(source: _Source) -> Any:
    if not isinstance(source.place, Path):
        return source.place.load()
    if source.place.suffix == ".toml":
        from drakmet.probes import load_probes

        return load_probes(source.place)
    name = f"drakmet_plugin_{source.place.stem}"
    spec = importlib.util.spec_from_file_location(name, source.place)
    if spec is None or spec.loader is None:
        raise PluginError("it is no Python file", where=source.origin)
    module = importlib.util.module_from_spec(spec)
    # Annotations of its record classes are looked up here by name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _ask(plugin: LoadedPlugin) -> None:
    """Call the plugin's hooks, and check that each thing they return is what it should be."""
    manager = pluggy.PluginManager("drakmet")
    manager.add_hookspecs(hookspecs)
    manager.register(plugin.module, plugin.name)
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        misspelt = ", ".join(sorted(hook.name for hook in manager.hook.__dict__.values() if not hook.has_spec()))
        raise PluginError(f"drakmet has no hook {misspelt}", where=plugin.origin) from error
    hook = manager.hook
    plugin.traps = _each(plugin, "drakmet_traps", hook.drakmet_traps(), lambda one: isinstance(one, Trap), "trap")
    plugin.execute_traps = _each(
        plugin,
        "drakmet_execute_traps",
        hook.drakmet_execute_traps(),
        lambda one: isinstance(one, ExecuteTrap),
        "execute trap",
    )
    plugin.collectors = _each(plugin, "drakmet_collectors", hook.drakmet_collectors(), callable, "function")
    plugin.sinks = _each(plugin, "drakmet_sinks", hook.drakmet_sinks(), _is_sink, "sink (with put and flush)")
    named = _each(plugin, "drakmet_records", hook.drakmet_records(), _is_record, "record class")
    for trap in plugin.traps:
        _check_trap(plugin, trap)
    for execute in plugin.execute_traps:
        _check_execute_trap(plugin, execute)
    traps: list[Trap | ExecuteTrap] = [*plugin.traps, *plugin.execute_traps]
    named += [trap.record for trap in traps if trap.record is not None]
    plugin.records = list(dict.fromkeys(named))
    labels = [trap.label for trap in traps]
    for label in labels:
        if labels.count(label) > 1:
            raise PluginError(f"it has two traps {label}", where=plugin.origin, hint="give one of them a name=")


def _each(plugin: LoadedPlugin, hook: str, returned: list[Any], fits: Callable[[Any], bool], what: str) -> list[Any]:
    """Return all that the implementations of a hook returned, checked."""
    found = []
    for some in returned:
        if isinstance(some, str) or not isinstance(some, Iterable):
            raise PluginError(f"{hook} returned {some!r:.80}, not a list", where=plugin.origin)
        for one in some:
            if not fits(one):
                raise PluginError(f"{hook} returned {one!r:.80}, which is no {what}", where=plugin.origin)
            found.append(one)
    return found


def _is_record(one: Any) -> bool:
    return isinstance(one, type) and issubclass(one, Record)


def _is_sink(one: Any) -> bool:
    return callable(getattr(one, "put", None)) and callable(getattr(one, "flush", None))


def _check_trap(plugin: LoadedPlugin, trap: Trap) -> None:
    """Refuse what would only come to light when the trap is set, or at each of its hits."""
    if not trap.functions or not all(isinstance(name, str) and name for name in trap.functions):
        raise PluginError("a trap names no function", where=plugin.origin)
    where = f"{plugin.origin}: trap {trap.label}"
    if trap.record is None and trap.handler is None:
        raise PluginError("it has neither a record nor a handler", where=where)
    if trap.record is not None and not (_is_record(trap.record) and issubclass(trap.record, EventRecord)):
        raise PluginError(f"its record {trap.record!r:.80} is no class of EventRecord", where=where)
    names = [*trap.fetch, *(trap.returns or ())]
    for name in names:
        if names.count(name) > 1:
            raise PluginError(f"{name} is fetched at the entry and at the return", where=where)
        if name in EventRecord.__struct_fields__ or hasattr(Hit, name):
            raise PluginError(f"a value cannot be called {name}: each hit has that already", where=where)
        if trap.record is not None and trap.handler is None and name not in trap.record.__struct_fields__:
            raise PluginError(f"{trap.record.__name__} has no column {name}", where=where)


def _check_execute_trap(plugin: LoadedPlugin, trap: ExecuteTrap) -> None:
    where = f"{plugin.origin}: execute trap {trap.label}"
    if not callable(trap.handler):
        raise PluginError("its handler is no function", where=where)
    for record in (trap.record, *trap.also):
        if record is not None and not (_is_record(record) and issubclass(record, EventRecord)):
            raise PluginError(f"its record {record!r:.80} is no class of EventRecord", where=where)
