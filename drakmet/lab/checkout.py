# SPDX-License-Identifier: GPL-2.0-or-later
"""This copy of drakmet, as it goes into dom0: its files, what it depends on, and its metadata."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import drakmet
from drakmet.errors import LabError
from drakmet.lab.places import built_folder
from drakmet.lab.run import run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from drakmet.lab.progress import Progress

_SUFFIXES = (".py", ".toml", ".txt", ".json", ".sql", ".html", ".css", ".js", ".drec", ".sh", ".typed")
# Where it lies in dom0.
HOME = "/opt/drakmet"
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64")


def sources() -> dict[str, Path]:
    """Return the files of the package and, in a checkout, of the folders beside it: name in dom0 -> file here."""
    package = Path(drakmet.__file__).resolve().parent
    found = {f"drakmet/{path.relative_to(package)}": path for path in _files(package)}
    for name in ("plugins", "rules"):
        folder = package.parent / name
        # Beside an installed package these names could be anyone's.
        if (package.parent / "pyproject.toml").exists() and folder.is_dir():
            found |= {f"{name}/{path.relative_to(folder)}": path for path in _files(folder)}
    return found


def _files(folder: Path) -> Iterable[Path]:
    for path in sorted(folder.rglob("*")):
        if path.suffix in _SUFFIXES and path.is_file() and "__pycache__" not in path.parts:
            yield path


def digests(files: Mapping[str, Path]) -> dict[str, str]:
    """Return the SHA-256 of each file; one that has just gone away is left out."""
    found = {}
    for name, path in files.items():
        try:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        except FileNotFoundError:
            continue
    return found


def requirements() -> list[str]:
    """Return what drakmet depends on, less what only extras need."""
    found = importlib.metadata.requires("drakmet") or []
    return [name for name in found if "extra ==" not in name]


def dependencies(target: Path, wanted: list[str], python: str, progress: Progress) -> Path:
    """Install dependencies for another Python into a folder, as wheels, and return the folder."""
    if not target.exists():
        platforms = [word for platform in _PLATFORMS for word in ("--platform", platform)]
        with progress.stage(f"fetch drakmet's dependencies for Python {python}"), built_folder(target) as work:
            run(
                [
                    sys.executable,
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--no-compile",
                    "--only-binary=:all:",
                    "--python-version",
                    python,
                    "--implementation",
                    "cp",
                    *platforms,
                    "--target",
                    work,
                    *wanted,
                ],
                hint="pip and the package index are needed for what drakmet depends on.",
            )
    return target


def stage(files: Mapping[str, Path], target: Path) -> None:
    """Copy files with their times, which their bytecode refers to."""
    for name, path in files.items():
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(path, place)
        except FileNotFoundError:
            continue
        whole = int(path.stat().st_mtime)
        os.utime(place, (whole, whole))


def metadata() -> dict[str, str]:
    """Return the texts of drakmet's metadata, by file name."""
    try:
        own = importlib.metadata.distribution("drakmet")
    except importlib.metadata.PackageNotFoundError as error:
        raise LabError("drakmet is not installed", hint="Run `pip install -e .` in the checkout.") from error
    lines: dict[str, list[str]] = {}
    for point in own.entry_points:
        lines.setdefault(point.group, []).append(f"{point.name} = {point.value}")
    points = "".join(f"[{group}]\n" + "\n".join(names) + "\n\n" for group, names in sorted(lines.items()))
    return {"METADATA": f"Metadata-Version: 2.1\nName: drakmet\nVersion: {own.version}\n", "entry_points.txt": points}


def write_metadata(site: Path) -> None:
    """Make drakmet known to importlib.metadata in dom0."""
    version = importlib.metadata.version("drakmet")
    folder = site / f"drakmet-{version}.dist-info"
    folder.mkdir()
    for name, text in metadata().items():
        (folder / name).write_text(text)


def write_manifest(files: Mapping[str, Path], target: Path) -> None:
    """Write which files, with which content, dom0 has."""
    target.write_text(json.dumps(digests(files), sort_keys=True))
