# SPDX-License-Identifier: GPL-2.0-or-later
"""Every bundled plugin: that it is documented, stands on drakmet's public names, and fits real kernels."""

from __future__ import annotations

import ast
import gzip
import json
import sys
from pathlib import Path

import pytest

import drakmet
from drakmet.guest.fetch import compile_field
from drakmet.guest.profile import Profile
from drakmet.plugins import LoadedPlugin, bundled, load_plugins
from drakmet.testing import problems

DATA = Path(__file__).parent.parent / "data"
PLUGINS = load_plugins().found
PROFILES = sorted(DATA.glob("profile-*.json.gz"))

each = pytest.mark.parametrize("plugin", [pytest.param(one, id=one.name) for one in PLUGINS])


def test_there_are_plugins_and_kernels() -> None:
    assert {plugin.name for plugin in PLUGINS} >= {"execution", "execution-pages", "file", "network-intent"}
    assert len(PROFILES) >= 3


@each
def test_it_loads_and_is_documented(plugin: LoadedPlugin) -> None:
    assert plugin.error is None
    assert problems(plugin) == []


@each
def test_it_imports_only_public_names(plugin: LoadedPlugin) -> None:
    assert plugin.path is not None
    if plugin.path.suffix != ".py":
        return
    for node in ast.walk(ast.parse(plugin.path.read_text())):
        if isinstance(node, ast.Import):
            names = {alias.name.partition(".")[0] for alias in node.names}
            assert names <= sys.stdlib_module_names, f"line {node.lineno}"
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            if node.module == "drakmet":
                assert {alias.name for alias in node.names} <= set(drakmet.__all__), f"line {node.lineno}"
            else:
                assert (node.module or "").partition(".")[0] in sys.stdlib_module_names, f"line {node.lineno}"


@each
@pytest.mark.parametrize("path", [pytest.param(one, id=one.name[8:-8]) for one in PROFILES])
def test_its_traps_fit_real_kernels(plugin: LoadedPlugin, path: Path) -> None:
    profile = Profile.from_json(json.loads(gzip.decompress(path.read_bytes())))
    for trap in plugin.traps:
        names = [name for name in trap.functions if profile.symbols.get(name) is not None]
        assert names, (
            f"{profile.release} has no {' or '.join(trap.functions)} (tests/make_profiles.py makes these files)"
        )
        for expression in trap.fetch.values():
            assert compile_field(expression, names[0], profile.types).when in ("entry", "any")
        for expression in (trap.returns or {}).values():
            compile_field(expression, names[0], profile.types)


def test_the_bundled_plugins_are_those_of_the_checkout() -> None:
    package, checkout = Path(drakmet.__file__).parent, Path(__file__).parents[2] / "plugins"
    assert bundled() in (package / "_bundled" / "plugins", package.parent / "plugins")
    shipped = {path.name: path.read_bytes() for path in bundled().glob("*.py")}
    assert shipped == {path.name: path.read_bytes() for path in checkout.glob("*.py")}
