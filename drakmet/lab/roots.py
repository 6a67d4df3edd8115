# SPDX-License-Identifier: GPL-2.0-or-later
"""Roots: Debian packages unpacked into a folder, never installed, and programs run out of them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from drakmet.errors import LabError
from drakmet.lab.places import built_folder, locked
from drakmet.lab.run import run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from drakmet.lab.archive import Archive, Package
    from drakmet.lab.progress import Progress

_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_LOADER = "usr/lib64/ld-linux-x86-64.so.2"
_MERGED = ("bin", "sbin", "lib", "lib64", "lib32", "libx32")
_UNUSED = (
    "./usr/share/doc/*",
    "./usr/share/man/*",
    "./usr/share/info/*",
    "./usr/share/locale/*",
    "./usr/share/lintian/*",
)
# What packages ask for to be installed and configured, which never happens here.
_INSTALLERS = (
    "perl",
    "perl-base",
    "perl-modules-*",
    "libperl*",
    "dpkg",
    "debconf*",
    "adduser",
    "passwd",
    "init-system-helpers",
    "systemd",
    "systemd-sysv",
    "dbus*",
    "fontconfig*",
    "fonts-*",
    "adwaita-icon-theme",
    "*-icon-theme",
    "shared-mime-info",
    "libsystemd-shared",
    "xkb-data",
    "ucf",
    "sensible-utils",
    "dracut*",
    "initramfs-tools*",
    "klibc-utils",
    "libklibc",
    "libgtk-3-common",
    "debianutils-bin",
    "libgdbm*",
    "libdb5*",
    "python3-dev*",
    "gawk",
    "linux-base",
)


def key_of(*parts: object) -> str:
    """Return a short name for what something is built from: the same parts give the same name, on any machine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Root:
    """An unpacked root and what it is made of."""

    path: Path
    key: str

    def run(
        self, program: str, *arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> str:
        """Run a program of the root with the root's own loader and libraries, and return its output."""
        return run([*self.argv(program), *arguments], env=env, cwd=cwd)

    def argv(self, program: str) -> list[str]:
        """Return the start of a command line that runs a program of the root, whatever this machine's libraries are."""
        libraries = ":".join(str(path) for path in (self.path / _LIBRARIES, self.path / "usr/lib"))
        return [str(self.path / _LOADER), "--library-path", libraries, str(self.path / program)]


def build_root(
    name: str,
    archive: Archive,
    packages: Sequence[str],
    cache: Path,
    progress: Progress,
    *,
    alone: Sequence[str] = (),
    exclude: Sequence[str] = (),
    refresh: bool = False,
) -> Root:
    """Unpack packages with what they depend on, and those of ``alone`` without, into a root, unless that is there."""
    chosen = archive.resolve(packages, skip=_INSTALLERS, refresh=refresh) if packages else []
    if alone:
        chosen = chosen + archive.resolve(alone, closure=False, refresh=refresh)
    key = key_of("root", 2, [(p.file, p.hash) for p in chosen], sorted(exclude), _UNUSED)
    path = cache / "roots" / f"{name}-{key}"
    with locked(path.parent, f".{name}.lock"):
        if not path.exists():
            files = archive.fetch(chosen)
            with progress.stage(f"unpack {len(files)} packages into the {name} root"), built_folder(path) as work:
                _unpack(files, work, exclude)
    return Root(path, key)


def _unpack(files: Sequence[Path], root: Path, exclude: Sequence[str]) -> None:
    (root / "usr").mkdir()
    for name in _MERGED:
        (root / "usr" / name).mkdir()
        (root / name).symlink_to(f"usr/{name}")
    excludes = [f"--exclude={pattern}" for pattern in (*_UNUSED, *exclude)]
    for file in files:
        # Signatures were checked when the file was downloaded; dpkg-deb checks its own sums again.
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(file)], stdout=subprocess.PIPE) as source:
            unpacked = subprocess.run(
                [
                    "tar",
                    "-x",
                    "--keep-directory-symlink",
                    "--no-same-owner",
                    "--delay-directory-restore",
                    "-C",
                    str(root),
                    *excludes,
                ],
                stdin=source.stdout,
                capture_output=True,
                check=False,
            )
        if unpacked.returncode != 0 or source.returncode not in (0, None, -13):
            raise LabError(
                f"cannot unpack {file.name}: {unpacked.stderr.decode(errors='replace').strip()[-400:]}", where=str(file)
            )


def compile_python(root: Root, version: str, folders: Sequence[Path], names: Mapping[Path, str]) -> None:
    """Compile Python sources to bytecode with the root's own interpreter, so that the emulated machine need not.

    ``names`` gives for a folder the path it has in the emulated machine, which tracebacks show.
    """
    env = {"PYTHONHOME": str(root.path / "usr"), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": ""}
    env.update({key: "" for key in os.environ if key.startswith("PYTHON") and key not in env})
    for folder in folders:
        root.run(
            f"usr/bin/python{version}",
            "-S",
            "-m",
            "compileall",
            "-q",
            "-s",
            folder,
            "-p",
            names[folder],
            "--invalidation-mode",
            "timestamp",
            folder,
            env=env,
        )


def package_names(packages: Sequence[Package]) -> list[str]:
    """Return name and version of packages, for people to read."""
    return [f"{p.name} {p.version}" for p in packages]
