# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding Xen's libraries, and the tables made of the declarations."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from drakmet.errors import XenError
from drakmet.pyxen import _abi, _lib
from drakmet.pyxen._ffi import ffi


def test_candidates_are_sorted_by_version_not_by_name(tmp_path: Path) -> None:
    for name in (
        "libxenctrl.so.4.9",
        "libxenctrl.so.4.20",
        "libxenctrl.so.4.17",
        "libxenctrl.so.4.17.0",
        "libxenctrl.so",
    ):
        (tmp_path / name).touch()
    assert list(_lib.candidates("libxenctrl", [tmp_path])) == ["4.9", "4.17", "4.20"]


def test_the_library_of_the_running_xen_is_chosen() -> None:
    found = {"4.17": Path("a"), "4.20": Path("b")}
    assert _lib.choose(found, "4.17") == Path("a")
    assert _lib.choose(found, None) == Path("b")
    with pytest.raises(XenError, match=r"runs Xen 4\.19, but libxenctrl is installed for 4\.17, 4\.20 only"):
        _lib.choose(found, "4.19")
    with pytest.raises(XenError, match="not installed") as caught:
        _lib.choose({}, None)
    assert caught.value.hint is not None


def test_loader_configuration_follows_includes_and_ends(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    main = tmp_path / "ld.so.conf"
    main.write_text(f"include d/*.conf\n/one # note\n\ninclude {main}\n")
    (tmp_path / "d" / "x.conf").write_text("/two\n")
    assert _lib._configured(main, set()) == [Path("/two"), Path("/one")]


def test_importing_needs_no_xen() -> None:
    code = (
        "import sys, drakmet.pyxen as p\n"
        "assert 'drakmet.pyxen._ffi' not in sys.modules and 'pycparser' not in sys.modules\n"
        "assert all(hasattr(p, name) for name in p.__all__)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_generated_tables_are_current() -> None:
    """After a change of `_abi.CDEF`: ``python -m drakmet.pyxen._abi``."""
    import cffi

    maker = cffi.FFI()
    maker.cdef(_abi.CDEF)
    for name in ("xc_domaininfo_t", "xc_vcpuinfo_t", "xc_physinfo_t", "xc_error"):
        ours = [(field, kind.offset, kind.type.cname) for field, kind in ffi.typeof(name).fields]
        theirs = [(field, kind.offset, kind.type.cname) for field, kind in maker.typeof(name).fields]
        assert ours == theirs
    tables = _abi.TARGET.read_text(encoding="utf-8").partition("_types")[2]
    assert tables
    assert tables == _abi.generate().partition("_types")[2]


@pytest.mark.skipif(not _lib.candidates("libxenctrl"), reason="libxenctrl is not installed")
def test_every_declared_function_is_in_the_libraries() -> None:
    shared = _lib.libraries()
    ctrl = shared.ffi.dlopen(str(_lib.choose(_lib.candidates("libxenctrl"), None)))
    by_prefix = {
        "xc_": ctrl,
        "xenevtchn_": shared.evtchn,
        "xenforeignmemory_": shared.foreignmemory,
        "xs_": shared.store,
    }
    seen = 0
    import re

    for name in re.findall(r"\b(\w+)\(", _abi.CDEF):
        for prefix, library in by_prefix.items():
            if name.startswith(prefix):
                assert getattr(library, name) is not None
                seen += 1
    assert seen > 50
