# SPDX-License-Identifier: GPL-2.0-or-later
"""Test plugins without a guest: with hits made by hand, and with recordings of real ones.

pytest loads this module by itself where drakmet is installed. A whole test of a plugin::

    from pathlib import Path

    from drakmet.testing import load, problems, run_trap, trap

    plugin = load(Path(__file__).with_name("modules.py"))


    def test_a_module_is_told_by_its_name() -> None:
        (record,) = run_trap(trap(plugin, "load"), name="evil")
        assert record.name == "evil"


    def test_it_is_documented() -> None:
        assert problems(plugin) == []

`run_trap` does with the values what the monitor does with what it reads of a guest: strings become guest text, what is
left out could not be read. `records_of` runs plugins over a file of ``drakmet record``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from drakmet.errors import PluginError, UsageError
from drakmet.executions import Execution, ExecutionKind
from drakmet.records import EventRecord, Process, Record
from drakmet.traps import Hit, Trap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from drakmet.plugins import LoadedPlugin

# What an ordinary hit looks like; tests may rely on these.
SESSION = 1
TIME = 1_700_000_000_000_000_000
PROCESS = Process(
    id=1,
    session=SESSION,
    time=TIME,
    pid=1000,
    tid=1000,
    ppid=1,
    start_time=5_000_000_000,
    comm="bash",
    exe="/usr/bin/bash",
    uid=0,
    euid=0,
    gid=0,
    kernel_thread=False,
)


def hit(
    *, process: Process | None = PROCESS, vcpu: int = 0, time: int = TIME, unreadable: Iterable[str] = (), **values: Any
) -> Hit:
    """Return a hit with these values, as a handler gets it; those in ``unreadable`` are None, as the monitor has it."""
    missing = tuple(unreadable)
    return Hit(SESSION, time, vcpu, process, {**values, **dict.fromkeys(missing)}, missing)


def execution(
    *,
    process: Process | None = PROCESS,
    vcpu: int = 0,
    time: int = TIME,
    unreadable: Iterable[str] = (),
    **values: Any,
) -> Execution:
    """Return the execution of a page, as the handler of an execute trap gets it; what is not given is as usual.

    ``origin`` is an `drakmet.Origin`, or None as in a guest whose kernel is not known.
    """
    usual = {
        "kind": ExecutionKind.FIRST,
        "gfn": 0x1234,
        "hash": "00112233445566778899aabbccddeeff",
        "address": 0x55D0_0000_1000,
        "rip": 0x55D0_0000_1040,
        "cr3": 0x7F_F000,
        "kernel": False,
        "times": 1,
        "origin": None,
    }
    missing = tuple(unreadable)
    return Execution(SESSION, time, vcpu, process, {**usual, **values, **dict.fromkeys(missing)}, missing)


def run_trap(
    trap: Trap, *, process: Process | None = PROCESS, vcpu: int = 0, time: int = TIME, **values: Any
) -> list[Any]:
    """Return the records that drakmet would write if the trap fetched these values.

    A value that the trap fetches and that is left out could not be read. Strings are given as the guest has them.
    `UsageError` for a value that the trap does not fetch; what a handler raises comes out.
    """
    from drakmet.guest.memory import Unreadable
    from drakmet.monitor.armed import ArmedTrap, Place
    from drakmet.monitor.dispatch import Hits

    names = (*trap.fetch, *(trap.returns or ()))
    for name in values:
        if name not in names:
            raise UsageError(f"the trap {trap.label} fetches no {name!r}", hint=f"it fetches {', '.join(names)}")
    armed = ArmedTrap("test", trap, Place(0, trap.functions[0]))
    armed.names = names
    left_out = Unreadable("the test left it out")
    records: list[Any] = []
    # The monitor's own way from values to records, with nothing around it.
    hits = Hits(_Stub(), _Stub(), _Raise(), SESSION, records.append)  # type: ignore[arg-type]
    known: Any = None if process is None else _Known(process)
    hits.later.append((armed, tuple(values.get(name, left_out) for name in names), known, vcpu, time))
    hits.finish()
    return records


def load(path: Path) -> LoadedPlugin:
    """Return the plugin in a file (.py, or .toml with probes); raise `PluginError` with what is wrong with it."""
    from drakmet.plugins import load_file

    plugin = load_file(path)
    if plugin.error is not None:
        raise PluginError(plugin.error, where=str(path))
    return plugin


def trap(plugin: LoadedPlugin, label: str) -> Trap:
    """Return the trap of a plugin with this name, or if it was given none, on this function."""
    labels = [one.label for one in plugin.traps]
    if label not in labels:
        raise UsageError(f"{plugin.name} has no trap {label!r}", hint=f"it has {', '.join(labels)}")
    return plugin.traps[labels.index(label)]


def problems(plugin: LoadedPlugin) -> list[str]:
    """Return what is not as it should be in a plugin that loads: what is undocumented, what does not fit together."""
    import inspect

    from drakmet.records import columns

    found = []
    if not plugin.doc:
        found.append(f"{plugin.name} has no docstring")
    for record in plugin.records:
        # Not __doc__: a record class without one would get its base's.
        if not inspect.cleandoc(record.__dict__.get("__doc__") or ""):
            found.append(f"{record.__name__} has no docstring")
        if not issubclass(record, EventRecord):
            found.append(f"{record.__name__} is no EventRecord: its rows have no time and no process")
        found += [f"{record.__name__}.{column.name} is not documented" for column in columns(record) if not column.doc]
    for one in plugin.traps:
        if one.record is not None and one.record not in plugin.records:
            found.append(f"the record of the trap {one.label} is not among those that drakmet_records returns")
        if one.handler is not None and not (one.handler.__doc__ or "").strip():
            found.append(f"the handler of the trap {one.label} has no docstring")
    for execute in plugin.execute_traps:
        if not (execute.handler.__doc__ or "").strip():
            found.append(f"the handler of the execute trap {execute.label} has no docstring")
    return found


def records_of(plugins: Iterable[str | Path], recording: Path | str) -> list[Any]:
    """Return what plugins make of a recording, in its order, process and coverage records included.

    ``plugins`` are names of plugins, and directories (or files) of your own. A recording knows only the functions that
    were trapped when it was made and only what was read then, so record with the same traps. `PluginError` if one of
    the plugins cannot be loaded.
    """
    from pathlib import Path

    from drakmet.monitor import Monitor
    from drakmet.plugins import load_file, load_plugins
    from drakmet.sources import open_source

    names: list[str] = []
    loaded: list[LoadedPlugin] = []
    for plugin in plugins:
        if isinstance(plugin, Path) and plugin.is_file():
            loaded.append(load_file(plugin))
        elif isinstance(plugin, Path):
            loaded += [one for one in load_plugins([plugin]).found if one.path and one.path.parent == plugin]
        else:
            names.append(plugin)
    if names:
        loaded += load_plugins(only=names).found
    for one in loaded:
        if one.error is not None:
            raise PluginError(one.error, where=one.origin)
    kept = _Kept()
    source = open_source(f"replay:{recording}")
    try:
        with Monitor(source, loaded, [kept]) as monitor:
            monitor.attach()
            monitor.run()
    finally:
        source.close()
    return kept.records


@pytest.fixture
def drakmet_hit() -> Callable[..., Hit]:
    """`drakmet.testing.hit`: a hit with the values that you give."""
    return hit


@pytest.fixture
def drakmet_run_trap() -> Callable[..., list[Any]]:
    """`drakmet.testing.run_trap`: the records of a trap for the values that you give."""
    return run_trap


class _Kept:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def put(self, record: Record) -> None:
        self.records.append(record)

    def flush(self) -> None:
        pass


class _Known:
    def __init__(self, record: Process) -> None:
        self.record = record


class _Stub:
    """In the place of what the way from values to records does not touch."""

    current = None


class _Raise:
    """Gives a handler's error to the test instead of writing it down."""

    def report(self, plugin: str, trap: str, error: Exception, time: int) -> str:  # noqa: ARG002
        raise error
