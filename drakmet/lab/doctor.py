# SPDX-License-Identifier: GPL-2.0-or-later
"""What a machine needs for the lab, and the command that installs what it lacks."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from drakmet.errors import LabError
from drakmet.lab.archive import machine_release, machine_sources, sources_for
from drakmet.lab.places import find_places

# Everything else (Bochs, QEMU, GRUB, Xen, kernels, squashfs tools) is unpacked from the archive, never installed.
_PROGRAMS = {"apt-get": "apt", "dpkg-deb": "dpkg", "tar": "tar", "zstd": "zstd", "xz": "xz-utils"}
_FREE_DISK = 4 << 30
_FREE_MEMORY = 3 << 30


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; ``package`` is what to install if it is not there."""

    what: str
    good: bool
    said: str
    package: str | None = None


def check_machine() -> list[Check]:
    """Look at everything the lab needs of this machine."""
    checks = [_release()]
    for program, package in _PROGRAMS.items():
        path = shutil.which(program)
        checks.append(Check(program, path is not None, path or "not found", package))
    has_pip = importlib.util.find_spec("pip") is not None
    checks.append(Check("pip", has_pip, "there" if has_pip else "not in this Python", "python3-pip"))
    keys = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    checks.append(Check("Debian's keys", keys.exists(), str(keys), "debian-archive-keyring"))
    places = find_places()
    disk = shutil.disk_usage(places.cache).free
    checks.append(Check("disk space", disk >= _FREE_DISK, f"{disk >> 30} GiB free for {places.cache}; 4 wanted"))
    memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _cached()
    checks.append(Check("memory", memory >= _FREE_MEMORY, f"{memory >> 20} MiB available; {_FREE_MEMORY >> 20} wanted"))
    machine = os.uname().machine
    checks.append(Check("processor", machine == "x86_64", machine))
    return checks


def needed_packages() -> list[str]:
    """Return the packages that must be installed; everything else is unpacked from the archive."""
    return sorted({*_PROGRAMS.values(), "debian-archive-keyring"})


def install_command(checks: list[Check]) -> str | None:
    """Return the command that installs what is missing, or None if nothing that can be installed is."""
    missing = sorted({check.package for check in checks if not check.good and check.package})
    return f"apt-get install --no-install-recommends -y {' '.join(missing)}" if missing else None


def _release() -> Check:
    try:
        own = machine_release()
        sources_for(own, own, machine_sources())
    except (LabError, OSError) as error:
        return Check("Debian", False, str(error))
    return Check("Debian", own in ("bookworm", "trixie"), own)


def _cached() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Cached:"):
            return int(line.split()[1]) << 10
    return 0
