# SPDX-License-Identifier: GPL-2.0-or-later
"""A fleet without Xen: hosts that are folders of this machine, guests that are files of memory; Ansible is real."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from guest.images import image
from sources.image_files import elf_core

if TYPE_CHECKING:
    from pathlib import Path


def core(folder: Path, version: str) -> str:
    """Write the memory of a sample guest and return its URI."""
    path = folder / f"{version}.core"
    path.write_bytes(elf_core(image(version).memory.pages))
    return f"image:{path}"


def here(folder: Path, *targets: str, **more: Any) -> dict[str, Any]:
    """Return the variables of a host that is a folder of this machine, with these guests; without any it lacks Xen."""
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "drakmet_dir": str(folder),
        **more,
    }
    return variables | ({"drakmet_targets": list(targets)} if targets else {})


def write_inventory(path: Path, hosts: dict[str, dict[str, Any]]) -> Path:
    """Write an inventory with one group, ``xen``."""
    path.write_text(json.dumps({"xen": {"hosts": hosts}}))
    return path
