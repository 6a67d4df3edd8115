# SPDX-License-Identifier: GPL-2.0-or-later
"""Probes out of TOML: sound ones become plugins, of all others it is told what is wrong in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drakmet import probes
from drakmet.errors import PluginError
from drakmet.probes import load_probes
from drakmet.records import columns
from drakmet.store import Writer
from drakmet.testing import load, problems, run_trap

if TYPE_CHECKING:
    from pathlib import Path

SOUND = """
description = "Kernel modules that are loaded."

[[probe]]
table = "module_load"
description = "A kernel module was loaded."
function = ["do_init_module", "load_module"]
limit = 50

[probe.fetch]
name = { expression = "mod->name", description = "the module's name" }
at = { expression = "mod", type = "address", description = "where it lies" }
size = { expression = "mod->core_layout.size", type = "int", description = "bytes" }

[probe.returns]
failed = { expression = "$return|errno", type = "bool", description = "whether it failed" }
"""


def text_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "modules.toml"
    path.write_text(text)
    return path


def test_a_probe_is_a_trap_and_a_table(tmp_path: Path) -> None:
    plugin = load(text_file(tmp_path, SOUND))
    assert plugin.doc == "Kernel modules that are loaded."
    assert problems(plugin) == []
    (trap,) = plugin.traps
    assert (trap.functions, trap.label, trap.limit) == (("do_init_module", "load_module"), "module_load", 50)
    assert trap.fetch == {"name": "mod->name", "at": "mod", "size": "mod->core_layout.size"}
    assert trap.returns == {"failed": "$return|errno"}
    (record,) = plugin.records
    own = {column.name: column for column in columns(record) if column.name in {"name", "at", "size", "failed"}}
    assert {name: (one.sql_type, one.nullable, one.doc) for name, one in own.items()} == {
        "name": ("TEXT", True, "the module's name"),
        "at": ("INTEGER", True, "where it lies"),
        "size": ("INTEGER", True, "bytes"),
        "failed": ("INTEGER", True, "whether it failed"),
    }
    assert own["at"].is_address
    assert own["failed"].is_bool


def test_its_records_can_be_stored(tmp_path: Path) -> None:
    plugin = load(text_file(tmp_path, SOUND))
    with Writer(tmp_path / "a.db", plugin.records) as writer:
        for record in run_trap(plugin.traps[0], name="\x1b", at=(1 << 64) - 1, size=3, failed=0):
            writer.put(record)
        writer.flush()
        assert writer.stored == 1


def test_the_example_of_the_documentation_is_sound(tmp_path: Path) -> None:
    lines = (probes.__doc__ or "").split("::\n", 1)[1].splitlines()
    example = "\n".join(line[4:] for line in lines if not line or line.startswith("    "))
    assert problems(load(text_file(tmp_path, example))) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('description = "Kernel modules that are loaded."', "", "missing required field `description`"),
        ("[[probe]]", "[[probes]]", "`probes`"),
        ('table = "module_load"', "", "missing required field `table`"),
        ('"module_load"', '"Module Load"', "matching regex"),
        ('"module_load"', '"module_load\\n"', "matching regex"),
        ('"A kernel module was loaded."', '" "', "matching regex"),
        ('["do_init_module", "load_module"]', "[]", "length >= 1"),
        ('["do_init_module", "load_module"]', '""', "matching regex"),
        ('["do_init_module", "load_module"]', '["f", ""]', "matching regex"),
        ("50", "0", ">= 1"),
        ("50", "'x'", "Expected `int`"),
        ("limit", "limits", "`limits`"),
        ('"int"', '"float"', "no type 'float'"),
        ('"int"', '"bytes"', "no type 'bytes'"),
        ('"mod->name"', '""', "matching regex"),
        (', description = "bytes"', "", "missing required field `description`"),
        ("size =", "time =", "cannot be called 'time'"),
        ("size =", "table =", "cannot be called 'table'"),
        ("size =", "make =", "cannot be called 'make'"),
        ("size =", "id =", "cannot be called 'id'"),
        ("size =", "class =", "cannot be called 'class'"),
        ("size =", "Size =", "cannot be called 'Size'"),
        ("size =", '"a b" =', "cannot be called 'a b'"),
        ("failed =", "size =", "module_load.size is fetched at the entry and at the return"),
        ("[probe.fetch]", "[probe.fetch", "line 10"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in SOUND
    path = text_file(tmp_path, SOUND.replace(old, new, 1))
    with pytest.raises(PluginError) as refused:
        load_probes(path)
    assert message in refused.value.what
    assert refused.value.where == str(path)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a = " + b"[" * 5000, b"#" * (1 << 21), b""])
def test_hostile_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(PluginError):
        load_probes(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="No such file"):
        load_probes(tmp_path / "none.toml")


scalars = st.one_of(
    st.text(max_size=8),
    st.integers(-5, 5),
    st.booleans(),
    st.sampled_from(["str", "int", "name", "table", "__class__", "self", "None"]),
)
keys = st.one_of(
    st.text(max_size=6), st.sampled_from(["name", "table", "type", "expression", "time", "__init__", "id"])
)
values = st.one_of(
    scalars, st.fixed_dictionaries({}, optional={"expression": scalars, "type": scalars, "description": scalars})
)
described = st.fixed_dictionaries(
    {"table": st.one_of(st.just("a_table"), scalars), "description": scalars, "function": scalars},
    optional={"fetch": st.dictionaries(keys, values, max_size=3), "returns": st.dictionaries(keys, values, max_size=2),
              "limit": scalars, "other": scalars},
)  # fmt: skip


def toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(one):08x}" for one in value) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return "{" + ", ".join(f"{toml(key)} = {toml(one)}" for key, one in value.items()) + "}"


@given(st.one_of(st.lists(described, max_size=2), scalars), scalars)
def test_no_file_breaks_the_loader(tmp_path_factory: pytest.TempPathFactory, probe: Any, description: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    path.write_text(f"description = {toml(description)}\nprobe = {toml(probe)}\n", encoding="utf-8", errors="replace")
    try:
        plugin = load(path)
    except PluginError:
        return
    assert plugin.traps


@given(st.text(max_size=200))
def test_no_text_breaks_the_loader(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "text.toml"
    path.write_bytes(text.encode("utf-8", "replace"))
    with pytest.raises(PluginError):
        load_probes(path)
