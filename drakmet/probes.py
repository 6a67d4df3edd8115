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
the function returns. Types are ``str`` (also for bytes, as guest text), ``int``, ``bool`` and ``address`` (for pointers
and other unsigned 64-bit numbers). Every column may be null.
"""

from __future__ import annotations

import keyword
import re
import tomllib
import types
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from drakmet.errors import PluginError
from drakmet.hookspecs import hookimpl
from drakmet.records import Address, EventRecord
from drakmet.traps import Hit, Trap

if TYPE_CHECKING:
    from pathlib import Path

_TYPES: dict[str, Any] = {"str": str, "int": int, "bool": bool, "address": Address}
_COLUMN = re.compile(r"[a-z][a-z0-9_]{0,62}")
_MOST_BYTES = 1 << 20

_Text = Annotated[str, msgspec.Meta(pattern=r"\S")]
_Function = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*\Z", max_length=200)]


class _Value(msgspec.Struct, forbid_unknown_fields=True):
    expression: _Text
    description: _Text
    type: str = "str"


class _Probe(msgspec.Struct, forbid_unknown_fields=True):
    table: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9]*(_[a-z0-9]+)*\Z", max_length=60)]
    description: _Text
    function: _Function | Annotated[list[_Function], msgspec.Meta(min_length=1)]
    fetch: dict[str, _Value] = {}
    returns: dict[str, _Value] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1)] = 20_000


class _File(msgspec.Struct, forbid_unknown_fields=True):
    description: _Text
    probe: Annotated[list[_Probe], msgspec.Meta(min_length=1)]


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
        described = msgspec.convert(tomllib.loads(_text_of(path)), _File)
        return Probes(described.description, [_trap(probe) for probe in described.probe])
    except (OSError, ValueError, RecursionError, msgspec.ValidationError) as error:
        raise PluginError(str(error), where=str(path), hint="`python -m pydoc drakmet.probes` shows one") from error


def _text_of(path: Path) -> str:
    with path.open("rb") as file:
        text = file.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise ValueError("it is larger than a megabyte")
    return text.decode()


def _trap(probe: _Probe) -> Trap:
    returns = probe.returns or {}
    annotations: dict[str, Any] = {}
    for name, value in (*probe.fetch.items(), *returns.items()):
        if value.type not in _TYPES:
            raise ValueError(f"{probe.table}.{name}: there is no type {value.type!r}, only {', '.join(_TYPES)}")
        if not _COLUMN.fullmatch(name) or keyword.iskeyword(name):
            raise ValueError(f"{probe.table}: a column cannot be called {name!r}: take small letters and underscores")
        if name in annotations:
            raise ValueError(f"{probe.table}.{name} is fetched at the entry and at the return")
        if name == "id" or hasattr(EventRecord, name) or hasattr(Hit, name):
            raise ValueError(f"{probe.table}: a column cannot be called {name!r}, each record has that already")
        annotations[name] = Annotated[_TYPES[value.type] | None, value.description]
    body = {
        "__doc__": probe.description,
        "__module__": __name__,
        "__annotations__": annotations,
        "table": probe.table,
        **dict.fromkeys(annotations),
    }
    class_name = "".join(word.capitalize() for word in probe.table.split("_"))
    record: type[EventRecord] = types.new_class(class_name, (EventRecord,), {}, lambda names: names.update(body))
    return Trap(
        function=probe.function if isinstance(probe.function, str) else tuple(probe.function),
        fetch={name: value.expression for name, value in probe.fetch.items()},
        returns=None if probe.returns is None else {name: value.expression for name, value in returns.items()},
        record=record,
        name=probe.table,
        limit=probe.limit,
    )
