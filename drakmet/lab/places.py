# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the lab keeps what it builds (cache) and what runs (state)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Places:
    """The two folders of the lab; both are private to the user (0700)."""

    cache: Path
    state: Path

    @property
    def hosts(self) -> Path:
        """Return the folder that holds one folder a running or stopped host."""
        return self.state / "hosts"


def find_places() -> Places:
    """Return the lab's folders, from DRAKMET_LAB_DIR or else the XDG directories, and make them."""
    own = os.environ.get("DRAKMET_LAB_DIR")
    if own:
        places = Places(Path(own).absolute() / "cache", Path(own).absolute() / "state")
    else:
        home = Path.home()
        cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
        state = Path(os.environ.get("XDG_STATE_HOME") or home / ".local/state")
        places = Places(cache / "drakmet/lab", state / "drakmet/lab")
    for folder in (places.cache, places.state):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
    return places


@contextlib.contextmanager
def locked(folder: Path, name: str = "lock") -> Iterator[None]:
    """Hold an exclusive lock of a folder, so that two commands do not build the same thing at once."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def built_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder that becomes ``target`` when the block ends well, and is removed when it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield work
        work.chmod(0o755)
        work.rename(target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


@contextlib.contextmanager
def built_file(target: Path) -> Iterator[Path]:
    """Give a file name that becomes ``target`` when the block ends well, and is removed when it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        yield work
        work.rename(target)
    finally:
        work.unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    """Write a file that only the user can read, all at once."""
    with built_file(path) as work:
        work.touch(mode=0o600)
        work.write_text(text)
