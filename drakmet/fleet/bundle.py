# SPDX-License-Identifier: GPL-2.0-or-later
"""The bundle: drakmet and what it depends on, for hosts that have Python and nothing else, named by its content.

It is a folder with ``run.py``, ``src/`` (drakmet and its plugins), ``site/`` (what it depends on), where they were
given ``plugins/`` (the user's, a folder for each directory) and ``identity.db``, and a ``MANIFEST`` of the SHA-256 of
every file; the SHA-256 of the manifest is the bundle's digest. For this Python what is installed here is taken, if it
came as wheels for any Linux (manylinux) or any machine; for others pip fetches wheels.
"""

from __future__ import annotations

import compileall
import contextlib
import gzip
import hashlib
import importlib.metadata
import io
import platform
import py_compile
import re
import shutil
import sqlite3
import sys
import tarfile
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from drakmet.errors import DrakmetError
from drakmet.fleet.errors import FleetError
from drakmet.lab import checkout
from drakmet.lab.places import built_file
from drakmet.lab.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_OWN = f"{sys.version_info[0]}.{sys.version_info[1]}"
# What dependencies ask for and a scan on a host, which prints JSON, does not use: three quarters of all bytes.
_UNUSED = ("pip", "setuptools", "tzdata", "rich", "pygments", "markdown-it-py", "mdurl")
_UNUSED_FOLDERS = ("pip", "setuptools", "tzdata", "rich", "pygments", "markdown_it", "mdurl", "bin", "__pycache__")
_UNUSED_ROOMS = ("drakmet/lab/", "drakmet/report/", "drakmet/drakvuf/", "rules/", "drakmet/_bundled/rules/")
_MOST_PLUGINS = 64 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RUN = '''\
# SPDX-License-Identifier: GPL-2.0-or-later
"""Run this bundle's drakmet, with nothing else of the host's but Python itself: python3 -I -S -B run.py scan --all."""
import os
import sys

if sys.version_info[:2] != (@VERSION@):
    sys.exit("this bundle is for Python @PYTHON@")
here = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(here, "src"), os.path.join(here, "site")]
from drakmet.cli import main

main()
'''


@dataclass(frozen=True)
class Bundle:
    """An archive on this machine, and the digest of the manifest in it."""

    archive: str
    digest: str

    def as_variable(self) -> dict[str, str]:
        """Return it as the playbook takes it."""
        return asdict(self)


@dataclass(frozen=True)
class Extras:
    """What a user adds to a bundle: directories of plugins, a database of code pages."""

    plugins: tuple[Path, ...] = ()
    identity: Path | None = None


def make_bundle(cache: Path, python: str = _OWN, machine: str | None = None, extras: Extras | None = None) -> Bundle:
    """Make the bundle for a Python such as ``3.11``, unless it is in ``cache``; raise `FleetError` if it cannot be.

    ``machine`` is as ``uname -m`` says; bundles for others than this one's are not made.
    """
    if (machine or platform.machine()) != platform.machine():
        raise FleetError(
            f"no bundle can be made for {machine} on {platform.machine()}", hint="run drakmet on such a machine"
        )
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="work-") as name:
        work = Path(name)
        try:
            _fill(work, cache, python)
            _add(work, extras or Extras())
        except (DrakmetError, OSError, sqlite3.Error) as error:
            raise FleetError(f"the bundle for Python {python} cannot be made: {error}") from error
        manifest = "".join(f"{_digest(work / name)}  {name}\n" for name in _names(work)).encode()
        digest = hashlib.sha256(manifest).hexdigest()
        (work / "MANIFEST").write_bytes(manifest)
        target = cache / f"bundle-{digest}.tar.gz"
        if not target.exists():
            with built_file(target) as partial:
                partial.write_bytes(_packed(work))
    return Bundle(str(target), digest)


def _fill(work: Path, cache: Path, python: str) -> None:
    sources = {name: path for name, path in checkout.sources().items() if not name.startswith(_UNUSED_ROOMS)}
    checkout.stage(sources, work / "src")
    installed = _installed() if python == _OWN else None
    if installed is None:
        wanted = checkout.requirements()
        key = hashlib.sha256("\n".join([python, *sorted(wanted)]).encode()).hexdigest()[:16]
        fetched = checkout.dependencies(cache / f"site-{python}-{key}", wanted, python, Progress(quiet=True))
        shutil.copytree(fetched, work / "site", ignore=shutil.ignore_patterns(*_UNUSED_FOLDERS))
    else:
        for name, path in installed.items():
            place = work / "site" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    checkout.write_metadata(work / "site")
    (work / "run.py").write_text(_RUN.replace("@VERSION@", python.replace(".", ", ")).replace("@PYTHON@", python))
    if python == _OWN:
        # A bundle is checked whole, so that its bytecode need not be compared with times of files.
        compileall.compile_dir(
            work,
            quiet=2,
            stripdir=str(work),
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )


def _add(work: Path, extras: Extras) -> None:
    for number, folder in enumerate(extras.plugins):
        place = work / "plugins" / f"{number:03}"
        for path in _plugin_files(folder):
            target = place / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    if extras.identity is not None:
        # The file may be written to meanwhile; this takes it whole, and without a log beside it.
        source = sqlite3.connect(f"{extras.identity.absolute().as_uri()}?mode=ro", uri=True)
        with contextlib.closing(source), contextlib.closing(sqlite3.connect(work / "identity.db")) as copy:
            source.backup(copy)
            # A log beside it would be a file that the manifest does not name.
            copy.execute("PRAGMA journal_mode = DELETE")


def _plugin_files(folder: Path) -> Iterator[Path]:
    """Yield plugins and what lies beside them for them, such as lists; nothing hidden, nothing that was compiled."""
    total = 0
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in inside):
            total += path.stat().st_size
            if total > _MOST_PLUGINS:
                raise FleetError(f"more than {_MOST_PLUGINS >> 20} MiB of plugins", where=str(folder))
            yield path


def _installed() -> dict[str, Path] | None:
    """Return the files of what is installed here and drakmet needs, or None if they may not run elsewhere."""
    found: dict[str, Path] = {}
    left, seen = checkout.requirements(), set(_UNUSED)
    while left:
        name = _NAME.match(left.pop())
        if name is None or name[0].lower() in seen:
            continue
        seen.add(name[0].lower())
        try:
            distribution = importlib.metadata.distribution(name[0])
        except importlib.metadata.PackageNotFoundError:
            # What is needed only elsewhere (another system, an older Python) is not here.
            continue
        if not _goes_anywhere(distribution):
            return None
        left += [need for need in distribution.requires or [] if "extra ==" not in need]
        found |= _files(distribution)
    return found


def _goes_anywhere(distribution: importlib.metadata.Distribution) -> bool:
    tags = re.findall(r"^Tag: (\S+)$", distribution.read_text("WHEEL") or "", re.MULTILINE)
    return bool(tags) and all(tag.endswith("-none-any") or "manylinux" in tag for tag in tags)


def _files(distribution: importlib.metadata.Distribution) -> dict[str, Path]:
    found = {}
    for file in distribution.files or []:
        path = Path(str(distribution.locate_file(file)))
        if ".." not in file.parts and "__pycache__" not in file.parts and path.is_file():
            found[str(file)] = path
    return found


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _packed(folder: Path) -> bytes:
    """Return the folder as an archive in which nothing but its content shows: no times, no owners."""
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0, compresslevel=6) as zipped, _tar(zipped) as archive:
        for name, data in _contents(folder, _names(folder)):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o600
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def _tar(target: gzip.GzipFile) -> tarfile.TarFile:
    return tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT)


def _contents(folder: Path, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    for name in names:
        yield name, (folder / name).read_bytes()
