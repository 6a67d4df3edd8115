# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding and loading plugins: whatever is wrong with one is told with its file, and the others go on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from drakmet.errors import UsageError
from drakmet.plugins import LoadedPlugin, PluginSet, load_file, load_plugins

BUNDLED = {"execution", "execution-pages", "file", "network-intent"}
Write = Callable[..., Path]

SMALL = '''
"""Kernel modules that are loaded."""
from typing import Annotated
from drakmet import EventRecord, Trap, hookimpl

class ModuleLoad(EventRecord):
    """A kernel module was loaded."""
    name: Annotated[str | None, "the module's name"]

@hookimpl
def drakmet_traps() -> list[Trap]:
    """Return the traps."""
    return [Trap(function="do_init_module", fetch={"name": "mod->name"}, record=ModuleLoad)]
'''
HEAD = (
    "from drakmet import *\nfrom typing import Annotated\nclass One(EventRecord):\n    a: Annotated[int | None, 'a']\n"
)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    directory = tmp_path / "plugins"
    directory.mkdir(mode=0o755)

    def write(name: str, text: str, mode: int = 0o644) -> Path:
        path = directory / name
        path.write_text(text)
        path.chmod(mode)
        return directory

    return write


def named(found: PluginSet, name: str) -> LoadedPlugin:
    (plugin,) = [one for one in found.found if one.name == name]
    return plugin


def traps(body: str) -> str:
    return f"{HEAD}@hookimpl\ndef drakmet_traps():\n    return {body}\n"


def test_a_plugin_with_record_and_trap_takes_fifteen_lines(write: Write) -> None:
    assert len([line for line in SMALL.splitlines() if line]) <= 15
    directory = write("modules.py", SMALL)
    found = load_plugins([directory])
    plugin = named(found, "modules")
    assert found.failed == []
    assert plugin.doc == "Kernel modules that are loaded."
    assert [record.table for record in plugin.records] == ["module_load"]
    assert [trap.label for trap in plugin.traps] == ["do_init_module"]
    assert plugin.origin == str(directory / "modules.py")


def test_the_bundled_ones_come_by_themselves() -> None:
    found = load_plugins()
    assert {plugin.name for plugin in found.plugins} >= BUNDLED
    assert found.failed == []
    assert {"process_start", "file_open", "net_connect"} <= {record.table for record in found.records}


def test_names_have_hyphens_and_some_files_are_no_plugins(write: Write) -> None:
    for name in ("my_own.py", "_private.py", "test_my_own.py", "conftest.py", "README.md", ".hidden.py"):
        directory = write(name, SMALL)
    assert {one.name for one in load_plugins([directory]).found} - BUNDLED == {"my-own"}


def test_probes_are_plugins(write: Write) -> None:
    directory = write(
        "probes.toml",
        'description = "Probes."\n[[probe]]\ntable = "probed"\ndescription = "It was."\nfunction = "f"\n'
        '[probe.fetch]\nname = { expression = "mod->name", description = "its name" }\n',
    )
    assert [record.table for record in named(load_plugins([directory]), "probes").records] == ["probed"]


def test_installed_distributions_bring_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outside_plugin.py").write_text(SMALL)
    about = tmp_path / "outside-1.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.2\n")
    (about / "entry_points.txt").write_text("[drakmet]\noutside = outside_plugin\nbroken = outside_missing\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = load_plugins()
    plugin = named(found, "outside")
    assert (plugin.error, plugin.origin) == (None, "outside 1.2")
    assert [trap.label for trap in plugin.traps] == ["do_init_module"]
    broken = named(found, "broken")
    assert broken.error is not None
    assert "outside_missing" in broken.error
    del sys.modules["outside_plugin"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module' ({file}:1)"),
        ("\n\n1 / 0", "ZeroDivisionError: division by zero ({file}:3)"),
        ("def f(:", "SyntaxError"),
        ("import sys\nsys.exit(1)", "SystemExit"),
        ("from drakmet import hookimpl\n@hookimpl\ndef drakmet_trap(): ...", "drakmet has no hook drakmet_trap"),
        ("from drakmet import hookimpl\n@hookimpl\ndef drakmet_traps(guest): return []", "guest"),
        (traps("1 / 0"), "ZeroDivisionError"),
        (traps("Trap(function='f', record=One)"), "drakmet_traps returned Trap("),
        (traps("'f'"), "drakmet_traps returned 'f', not a list"),
        (traps("['f']"), "'f', which is no trap"),
        (traps("[Trap(function='f')]"), "trap f: it has neither a record nor a handler"),
        (traps("[Trap(function=(), record=One)]"), "names no function"),
        (traps("[Trap(function='', record=One)]"), "names no function"),
        (traps("[Trap(function='f', record=One, fetch={'b': 'x'})]"), "One has no column b"),
        (traps("[Trap(function='f', record=One, fetch={'a': 'x'}, returns={'a': 'y'})]"), "a is fetched at the entry"),
        (traps("[Trap(function='f', record=One, fetch={'time': 'x'})]"), "cannot be called time"),
        (traps("[Trap(function='f', handler=print, fetch={'make': 'x'})]"), "cannot be called make"),
        (traps("[Trap(function='f', record=One), Trap(function='f', record=One)]"), "two traps f"),
        (traps("[Trap(function='f', record=int)]"), "no class of EventRecord"),
        (traps("[Trap(function='f', record=Process)]"), "no class of EventRecord"),
        (traps("[]") + "@hookimpl\ndef drakmet_records(): return [1]", "which is no record class"),
        (traps("[]") + "@hookimpl\ndef drakmet_collectors(): return [1]", "which is no function"),
        (traps("[]") + "@hookimpl\ndef drakmet_sinks(): return [1]", "which is no sink"),
        (HEAD + "    b: dict\n@hookimpl\ndef drakmet_records(): return [One]", "no column can hold"),
        (HEAD + "    table = 'file_open'\n@hookimpl\ndef drakmet_records(): return [One]", "file_open is one of file"),
        (HEAD + "    table = 'session'\n@hookimpl\ndef drakmet_records(): return [One]", "session is one of drakmet"),
        (
            HEAD + "class Two(One):\n    table = 'one'\n@hookimpl\ndef drakmet_records(): return [One, Two]",
            "one is one of",
        ),
        (HEAD + "    table = 'sqlite_x'\n@hookimpl\ndef drakmet_records(): return [One]", "sqlite_x"),
        (HEAD + "    table = 'a b'\n@hookimpl\ndef drakmet_records(): return [One]", "a b"),
        (HEAD + "    id: int = 0\n@hookimpl\ndef drakmet_records(): return [One]", "a column id"),
    ],
)
def test_what_is_wrong_is_told_and_the_others_go_on(write: Write, text: str, message: str) -> None:
    directory = write("wrong.py", text)
    found = load_plugins([write("sound.py", SMALL)])
    assert {plugin.name for plugin in found.plugins} == {*BUNDLED, "sound"}
    (plugin,) = found.failed
    assert plugin.error is not None
    assert message.format(file=directory / "wrong.py") in plugin.error
    assert (plugin.name, plugin.origin) == ("wrong", str(directory / "wrong.py"))
    assert (plugin.records, plugin.traps, plugin.collectors, plugin.sinks) == ([], [], [], [])


def test_a_misspelt_hook_is_told_with_its_file(write: Write) -> None:
    directory = write("wrong.py", "from drakmet import hookimpl\n@hookimpl\ndef drakmet_record(): ...")
    (plugin,) = load_plugins([directory]).failed
    assert plugin.error is not None
    assert "drakmet_record" in plugin.error
    assert "wrong.py" in plugin.error


def test_a_name_is_given_once(write: Write) -> None:
    directory = write("file.py", SMALL)
    found = load_plugins([directory])
    first, second = (plugin for plugin in found.found if plugin.name == "file")
    assert first.error is None
    assert second.error is not None
    assert first.origin in second.error


def test_a_failed_plugin_keeps_no_table_from_others(write: Write) -> None:
    write(
        "a.py",
        SMALL + "\nclass Other(EventRecord):\n    table = 'session'\n@hookimpl\ndef drakmet_records(): return [Other]",
    )
    found = load_plugins([write("b.py", SMALL)])
    assert [plugin.name for plugin in found.failed] == ["a"]
    assert named(found, "b").error is None


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
def test_a_directory_that_others_may_write_to_is_refused(write: Write, mode: int) -> None:
    directory = write("mine.py", SMALL)
    directory.chmod(mode)
    with pytest.raises(UsageError, match="others may write here") as refused:
        load_plugins([directory])
    assert refused.value.where == str(directory)


def test_a_directory_that_others_may_replace_is_refused(write: Write, tmp_path: Path) -> None:
    directory = write("mine.py", SMALL)
    tmp_path.chmod(0o777)
    with pytest.raises(UsageError, match="others may write here") as refused:
        load_plugins([directory])
    assert refused.value.where == str(tmp_path)
    tmp_path.chmod(0o1777)  # as /tmp: what is mine stays
    assert named(load_plugins([directory]), "mine").error is None


def test_a_file_that_others_may_write_to_is_refused(write: Write) -> None:
    directory = write("mine.py", SMALL, 0o666)
    with pytest.raises(UsageError, match="others may write here") as refused:
        load_plugins([directory])
    assert refused.value.where == str(directory / "mine.py")


def test_a_dangling_link_is_nothing(write: Write) -> None:
    directory = write("mine.py", SMALL)
    (directory / ".#mine.py").symlink_to("me@host.1")
    (directory / "gone.py").symlink_to("nowhere.py")
    found = load_plugins([directory])
    assert named(found, "mine").error is None
    assert [plugin.name for plugin in found.failed] == ["gone"]


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such directory"):
        load_plugins([tmp_path / "none"])


def test_an_unknown_name_is_corrected() -> None:
    for wanted in ({"only": ["network_intent"]}, {"disabled": ["network_intent"]}):
        with pytest.raises(UsageError, match="no plugin 'network_intent'") as refused:
            load_plugins(**wanted)
        assert refused.value.hint == "did you mean 'network-intent'?"
    with pytest.raises(UsageError) as refused:
        load_plugins(only=["zzzzzz"])
    assert refused.value.hint is not None
    assert "execution" in refused.value.hint


def test_some_can_be_chosen_and_left_out() -> None:
    assert [plugin.name for plugin in load_plugins(only=["file"]).found] == ["file"]
    assert [plugin.name for plugin in load_plugins(only=["file", "execution"], disabled=["file"]).found] == [
        "execution"
    ]
    assert {plugin.name for plugin in load_plugins(disabled=["file"]).found} == BUNDLED - {"file"}


def test_one_file_can_be_loaded_alone(write: Write) -> None:
    directory = write("file.py", SMALL)
    plugin = load_file(directory / "file.py")
    assert (plugin.name, plugin.error, plugin.path) == ("file", None, directory / "file.py")
    assert "nowhere" in (load_file(directory / "nowhere.py").error or "")
