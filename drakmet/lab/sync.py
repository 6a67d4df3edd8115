# SPDX-License-Identifier: GPL-2.0-or-later
"""Bring the drakmet in a running dom0 up to date with this checkout: only what differs, with bytecode, in seconds."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from drakmet.lab import checkout
from drakmet.lab.client import Upload
from drakmet.lab.images import Builder
from drakmet.lab.roots import compile_python

if TYPE_CHECKING:
    from drakmet.lab.hosts import Host
    from drakmet.lab.places import Places
    from drakmet.lab.progress import Progress

_MANIFEST = f"{checkout.HOME}/manifest.json"
_SOURCE = f"{checkout.HOME}/src"


def sync(places: Places, host: Host, progress: Progress) -> list[str]:
    """Send changed files into dom0 and remove those that are gone here; return their names.

    dom0 itself says what it has, so that a sync that broke off is made good by the next one.
    """
    agent = host.agent
    files = checkout.sources()
    here = checkout.digests(files)
    there = json.loads(agent.run(["cat", _MANIFEST], check=True, timeout=60).stdout)
    changed = sorted(name for name, digest in here.items() if there.get(name) != digest)
    gone = sorted(name for name in there if name not in here)
    if not changed and not gone:
        return []
    builder = Builder(places.cache, progress, xen=host.choice.xen, guest_kernel=host.choice.guest_kernel)
    root, python = builder.interpreter()
    work = Path(tempfile.mkdtemp(prefix="sync-", dir=places.cache))
    try:
        checkout.stage({name: files[name] for name in changed}, work)
        # A file that changed while it was copied counts as what was copied.
        staged = {name: work / name for name in changed if (work / name).exists()}
        here |= checkout.digests(staged)
        compile_python(root, python, [work], {work: _SOURCE})
        uploads = [
            Upload(f"{_SOURCE}/{path.relative_to(work)}", path.read_bytes(), mtime=int(path.stat().st_mtime))
            for path in sorted(work.rglob("*"))
            if path.is_file()
        ]
    finally:
        shutil.rmtree(work, ignore_errors=True)
    removed = [f"{_SOURCE}/{name}" for name in gone]
    removed += [f"{_SOURCE}/{_bytecode(name, python)}" for name in gone if name.endswith(".py")]
    manifest = Upload(_MANIFEST, json.dumps(here, sort_keys=True).encode())
    agent.push([*uploads, manifest], remove=removed)
    return [*changed, *(f"{name} (removed)" for name in gone)]


def _bytecode(name: str, python: str) -> str:
    path = Path(name)
    return str(path.parent / "__pycache__" / f"{path.stem}.cpython-{python.replace('.', '')}.pyc")
