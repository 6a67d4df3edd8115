# SPDX-License-Identifier: GPL-2.0-or-later
"""Modules for a guest's kernel, compiled without its headers: what they need of it is read from the guest.

Each C file below ``modules/`` names the kernel's symbols as ``AT(name, type)`` or ``AT_name`` and its structs' layout
as ``OFF_struct__member`` and ``SIZE_struct``. They are loaded with the flags that take a module without version checks
(include/uapi/linux/module.h).
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from drakmet.lab.client import Upload

if TYPE_CHECKING:
    from drakmet.lab.client import Agent

HERE = Path(__file__).parent / "modules"
_FLAGS = (
    "-O1", "-c", "-ffreestanding", "-fno-pic",
    "-mcmodel=kernel", "-mno-red-zone", "-mgeneral-regs-only", "-fno-stack-protector",
    "-fcf-protection=none", "-fno-asynchronous-unwind-tables", "-fno-strict-aliasing", "-Wall",
    "-Wextra", "-Werror",
)  # fmt: skip
_TELL = """
import json, sys
from drakmet.sources.xen import XenSource
source = XenSource(sys.argv[1])
kernel, types = source.kernel(), source.kernel().profile.types
found = {}
for name in sys.argv[2:]:
    kind, rest = name.split("_", 1)
    if kind == "AT":
        found[name] = kernel.address(rest)
    elif kind == "SIZE":
        found[name] = types.size(rest)
    else:
        struct, member = rest.split("__")
        found[name] = types.offset(struct, member)
print(json.dumps(found))
"""
_LOAD = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open(sys.argv[1], os.O_RDONLY)
ignore_versions_and_magic = 3
failed = libc.syscall(313, fd, b"", ignore_versions_and_magic)
print(ctypes.get_errno() if failed else 0)
"""


def build(dom0: Agent, guest: str, name: str) -> bytes:
    """Compile one of the modules for the kernel that runs in ``guest`` now."""
    source = HERE / f"{name}.c"
    texts = source.read_text() + (HERE / "module.h").read_text()
    wanted = sorted(
        {f"AT_{symbol}" for symbol in re.findall(r"\bAT\(([a-z_]\w+), ", texts)}
        | set(re.findall(r"\b(?:AT_[a-z]\w+|OFF_[a-z]\w+?__\w+|SIZE_[a-z]\w+)\b", texts))
    )
    told = json.loads(dom0.run(["python3", "-c", _TELL, guest, *wanted], check=True, timeout=600).stdout)
    defined = [f"-D{key}={value:#x}UL" for key, value in told.items()]
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / f"{name}.ko"
        subprocess.run(["gcc", *_FLAGS, *defined, "-o", str(made), str(source)], check=True)
        return made.read_bytes()


def load(guest: Agent, name: str, module: bytes) -> int:
    """Load it; return 0 or the errno with which it was refused."""
    guest.push([Upload(f"/run/{name}.ko", module, 0o644)])
    return int(guest.run(["python3", "-c", _LOAD, f"/run/{name}.ko"], check=True, timeout=900).stdout)
