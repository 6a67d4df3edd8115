# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding and opening Xen's libraries, late: importing drakmet.pyxen works on a machine without Xen."""

from __future__ import annotations

import functools
import re
import sysconfig
from pathlib import Path
from typing import Any

from drakmet.errors import XenError

_HYPERVISOR_VERSION = Path("/sys/hypervisor/version")
_LOADER_CONFIG = Path("/etc/ld.so.conf")
_MAX_CONFIGS = 64


def _configured(config: Path, seen: set[Path]) -> list[Path]:
    """Return the directories that the dynamic loader's configuration names, includes followed."""
    if config in seen or len(seen) >= _MAX_CONFIGS:
        return []
    seen.add(config)
    try:
        lines = config.read_text(errors="replace").splitlines()
    except OSError:
        return []
    found: list[Path] = []
    for line in lines:
        text = line.partition("#")[0].strip()
        if text.startswith("include"):
            pattern = text.removeprefix("include").strip()
            for part in sorted(config.parent.glob(pattern) if pattern[:1] != "/" else Path("/").glob(pattern[1:])):
                found += _configured(part, seen)
        elif text:
            found.append(Path(text))
    return found


def library_dirs() -> list[Path]:
    """Return where the system keeps shared libraries, in the order of the search, each once."""
    triplet = sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu"
    usual = [Path(root) / part for root in ("/usr/lib", "/lib", "/usr/local/lib") for part in (triplet, "")]
    usual += [Path("/usr/lib64"), Path("/lib64")]
    return list(dict.fromkeys(path for path in [*_configured(_LOADER_CONFIG, set()), *usual] if path.is_dir()))


def running_version() -> str | None:
    """Return the running hypervisor's version, such as ``4.17``, or None where there is none."""
    try:
        major = (_HYPERVISOR_VERSION / "major").read_text().strip()
        minor = (_HYPERVISOR_VERSION / "minor").read_text().strip()
    except OSError:
        return None
    return f"{major}.{minor}"


def candidates(stem: str, dirs: list[Path] | None = None) -> dict[str, Path]:
    """Return the installed libraries ``stem`` by the version in their soname, newest last."""
    name = re.compile(re.escape(stem) + r"\.so\.(\d+(?:\.\d+)?)")
    found: dict[str, Path] = {}
    for folder in library_dirs() if dirs is None else dirs:
        for path in folder.glob(f"{stem}.so.*"):
            match = name.fullmatch(path.name)
            if match:
                found.setdefault(match[1], path)
    return dict(sorted(found.items(), key=lambda item: [int(part) for part in item[0].split(".")]))


def choose(found: dict[str, Path], running: str | None) -> Path:
    """Return the libxenctrl that fits the running Xen; without one running, the newest."""
    if not found:
        raise XenError(
            "libxenctrl is not installed",
            hint="Install Xen's tools on this host (Debian: apt install xen-utils), or run drakmet in dom0.",
        )
    if running is None:
        return found[max(found, key=lambda version: [int(part) for part in version.split(".")])]
    if running not in found:
        raise XenError(
            f"this host runs Xen {running}, but libxenctrl is installed for {', '.join(found)} only",
            hint=f"Install the libraries of Xen {running} (Debian: libxenmisc{running}), or restart the host.",
        )
    return found[running]


class Libraries:
    """Xen's libraries and the C library, each opened when it is first used."""

    def __init__(self) -> None:
        from drakmet.pyxen._ffi import ffi

        self.ffi: Any = ffi

    def _open(self, stem: str) -> Any:
        found = candidates(stem)
        if not found:
            raise XenError(
                f"{stem} is not installed",
                hint="Install Xen's tools on this host (Debian: apt install xen-utils), or run drakmet in dom0.",
            )
        return self._dlopen(next(reversed(found.values())))

    def _dlopen(self, path: Path) -> Any:
        try:
            return self.ffi.dlopen(str(path))
        except OSError as error:
            raise XenError(f"cannot load the library: {error}", where=str(path)) from error

    @functools.cached_property
    def ctrl(self) -> Any:
        """libxenctrl, of the running hypervisor's version."""
        return self._dlopen(choose(candidates("libxenctrl"), running_version()))

    @functools.cached_property
    def evtchn(self) -> Any:
        """libxenevtchn."""
        return self._open("libxenevtchn")

    @functools.cached_property
    def foreignmemory(self) -> Any:
        """libxenforeignmemory."""
        return self._open("libxenforeignmemory")

    @functools.cached_property
    def store(self) -> Any:
        """libxenstore."""
        return self._open("libxenstore")

    @functools.cached_property
    def toollog(self) -> Any:
        """libxentoollog."""
        return self._open("libxentoollog")

    @functools.cached_property
    def libc(self) -> Any:
        """The C library of this process."""
        return self.ffi.dlopen(None)

    @functools.cached_property
    def quiet(self) -> Any:
        """A logger that prints nothing: Xen's own goes to stderr, and errors are told by exceptions here."""
        nothing_is_this_bad = 11  # XTL_NUM_LEVELS, xentoollog.h
        return self.toollog.xtl_createlogger_stdiostream(self.libc.stderr, nothing_is_this_bad, 0)


@functools.cache
def libraries() -> Libraries:
    """Return the one set of libraries of this process."""
    return Libraries()
