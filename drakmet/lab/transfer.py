# SPDX-License-Identifier: GPL-2.0-or-later
"""Copy files and folders into the lab and out of it."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

from drakmet.errors import LabError
from drakmet.lab.client import Upload

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from drakmet.lab.client import Agent


def push(agent: Agent, local: Sequence[Path], remote: str) -> None:
    """Copy files and folders to a name, or into a folder that is there."""
    into = len(local) > 1 or remote.endswith("/")
    base = remote.rstrip("/") or "/"
    uploads = []
    for path in local:
        if path.is_dir():
            inner = f"{base}/{path.resolve().name}" if into else base
            uploads += [
                Upload(
                    f"{inner}/{file.relative_to(path)}",
                    file.read_bytes(),
                    file.stat().st_mode & 0o777,
                    int(file.stat().st_mtime),
                )
                for file in sorted(path.rglob("*"))
                if file.is_file()
            ]
        else:
            target = f"{base}/{path.name}" if into else base
            uploads.append(
                Upload(target, path.read_bytes(), path.stat().st_mode & 0o777, int(path.stat().st_mtime), path.name)
            )
    agent.push(uploads)


def pull(agent: Agent, remote: str, local: Path) -> None:
    """Copy a file or a folder to a name here, or into a folder that is here."""
    name = remote.rstrip("/").rsplit("/", 1)[-1]
    if agent.run(["test", "-d", remote]).returncode != 0:
        agent.pull(remote, local / name if local.is_dir() else local)
        return
    packed = agent.run(["tar", "-C", remote, "-cf", "-", "."], check=True).stdout
    target = local / name if local.is_dir() else local
    try:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(target, filter="data")
    except tarfile.TarError as error:
        raise LabError(f"cannot unpack what came: {error}", where=remote) from error
