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
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

import drakmet
from drakmet import hookspecs
from drakmet.errors import DrakmetError, PluginError, UsageError
from drakmet.records import CORE_RECORDS, Record, columns

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from drakmet.traps import Collector, Sink, Trap

ENTRY_POINTS = "drakmet"


@dataclass
class LoadedPlugin:
    """A plugin and what its hooks returned; with an ``error`` it takes no part."""

    name: str
    origin: str
    module: Any = None
    records: list[type[Record]] = field(default_factory=list)
    traps: list[Trap] = field(default_factory=list)
    collectors: list[Collector] = field(default_factory=list)
    sinks: list[Sink] = field(default_factory=list)
    error: str | None = None

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
    taken = {record.table: "drakmet" for record in CORE_RECORDS}
    return PluginSet([_load(source, taken) for source in chosen])


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
        if file.suffix in (".py", ".toml") and not file.name.startswith(("_", ".", "test_")):
            yield _Source(file.stem.replace("_", "-"), file)


def _installed() -> Iterator[_Source]:
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        yield _Source(point.name, point)


def _trusted(directory: Path) -> Path:
    """Refuse a directory in which others could put code that then runs as us, which mostly means root."""
    if not directory.is_dir():
        raise UsageError("there is no such directory", where=str(directory), hint="give a directory of plugins")
    for path in (directory, *directory.iterdir()):
        about = path.stat()
        if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or about.st_uid not in (0, os.geteuid()):
            raise UsageError(
                "others may write here, and plugins run with all your rights",
                where=str(path),
                hint=f"make it yours alone: chmod go-w {path} (and chown it)",
            )
    return directory


def _load(source: _Source, taken: dict[str, str]) -> LoadedPlugin:
    plugin = LoadedPlugin(source.name, source.origin)
    try:
        plugin.module = _import(source)
        _ask(plugin)
        _claim_tables(plugin, taken)
    except Exception as error:  # noqa: BLE001 - a plugin's code may raise anything; it is told, and the others go on
        plugin.error = str(error) if isinstance(error, DrakmetError) else f"{type(error).__name__}: {error}"
        plugin.records, plugin.traps, plugin.collectors, plugin.sinks = [], [], [], []
    return plugin


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
    spec.loader.exec_module(module)
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
    plugin.traps = _flat(manager.hook.drakmet_traps())
    plugin.collectors = _flat(manager.hook.drakmet_collectors())
    plugin.sinks = _flat(manager.hook.drakmet_sinks())
    named = [trap.record for trap in plugin.traps if trap.record is not None]
    plugin.records = list(dict.fromkeys([*_flat(manager.hook.drakmet_records()), *named]))
    for record in plugin.records:
        if not (isinstance(record, type) and issubclass(record, Record)):
            raise PluginError(f"drakmet_records returned {record!r}, which is no record class")


def _claim_tables(plugin: LoadedPlugin, taken: dict[str, str]) -> None:
    for record in plugin.records:
        columns(record)  # its types, before a table is made of them
        if taken.get(record.table, plugin.name) != plugin.name:
            raise PluginError(f"its table {record.table} is one of {taken[record.table]} already")
    taken.update((record.table, plugin.name) for record in plugin.records)


def _flat(returned: list[Iterable[Any]]) -> list[Any]:
    return [one for some in returned for one in some]
