# SPDX-License-Identifier: GPL-2.0-or-later
"""Plugins without Python: a TOML file that names kernel functions and what to store of them.

::

    description = "Kernel modules that are loaded."

    [[probe]]
    table = "module_load"
    description = "A kernel module was loaded."
    function = "do_init_module"

    [probe.fetch]
    name = { expression = "mod->name", type = "str", description = "the module's name" }

``function`` may be a list of names, of which the first that the kernel has is taken; ``[probe.returns]`` is read when
the function returns; types are ``str``, ``int``, ``bool`` and ``bytes``. Every column may be null.
"""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from drakmet.errors import PluginError
from drakmet.hookspecs import hookimpl
from drakmet.records import EventRecord
from drakmet.traps import Trap

if TYPE_CHECKING:
    from pathlib import Path

_TYPES = {"str": str, "int": int, "bool": bool, "bytes": bytes}


class _Value(msgspec.Struct, forbid_unknown_fields=True):
    expression: str
    description: str
    type: str = "str"


class _Probe(msgspec.Struct, forbid_unknown_fields=True):
    table: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$", max_length=60)]
    description: str
    function: str | list[str]
    fetch: dict[str, _Value] = {}
    returns: dict[str, _Value] | None = None
    limit: int = 20_000


class _File(msgspec.Struct, forbid_unknown_fields=True):
    description: str
    probe: list[_Probe]


class Probes:
    """The plugin that a file of probes makes."""

    def __init__(self, description: str, traps: list[Trap]) -> None:
        self.__doc__ = description
        self._traps = traps

    @hookimpl
    def drakmet_traps(self) -> list[Trap]:
        """Return a trap a probe."""
        return self._traps


def load_probes(path: Path) -> Probes:
    """Return the plugin that ``path`` describes; raise `PluginError` with what is wrong in it."""
    try:
        with path.open("rb") as file:
            described = msgspec.convert(tomllib.load(file), _File)
        return Probes(described.description, [_trap(probe) for probe in described.probe])
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise PluginError(str(error), where=str(path), hint="`python -m pydoc drakmet.probes` shows one") from error


def _trap(probe: _Probe) -> Trap:
    values = {**probe.fetch, **(probe.returns or {})}
    fields: list[tuple[str, Any, Any]] = []
    for name, value in values.items():
        if value.type not in _TYPES:
            raise ValueError(f"{probe.table}.{name}: there is no type {value.type!r}, only {', '.join(_TYPES)}")
        if not name.isidentifier() or name in EventRecord.__struct_fields__:
            raise ValueError(f"{probe.table}: a column cannot be called {name!r}")
        fields.append((name, Annotated[_TYPES[value.type] | None, value.description], None))
    class_name = "".join(word.capitalize() for word in probe.table.split("_"))
    record = msgspec.defstruct(
        class_name, fields, bases=(EventRecord,), namespace={"__doc__": probe.description, "table": probe.table}
    )
    assert issubclass(record, EventRecord)  # noqa: S101 - for mypy: it is its base
    return Trap(
        function=probe.function if isinstance(probe.function, str) else tuple(probe.function),
        fetch={name: value.expression for name, value in probe.fetch.items()},
        returns=None if probe.returns is None else {name: value.expression for name, value in probe.returns.items()},
        record=record,
        name=probe.table,
        limit=probe.limit,
    )
