# SPDX-License-Identifier: GPL-2.0-or-later
"""Which plugins and rules a command takes: the options that several have in common, and the tables they bring."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from drakmet.records import Record


def plugins_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option for directories of plugins; it gets them as ``plugins_dir``."""
    return click.option(
        "--plugins-dir",
        type=click.Path(path_type=Path),
        multiple=True,
        help="a directory with plugins of yours (may be given several times)",
    )(command)


def isf_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option for kernels' profiles in files; it gets them as ``isf``."""
    return click.option(
        "--isf",
        type=click.Path(path_type=Path),
        multiple=True,
        help="an ISF file (Volatility 3's JSON, also .xz or .gz) of a kernel without types of its own",
    )(command)


def rules_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the option for rules of a site; it gets them as ``paths``."""
    return click.option(
        "--rules",
        "paths",
        type=click.Path(path_type=Path),
        multiple=True,
        help="a rule file, or a directory of rules of yours beside the bundled ones (may be given several times)",
    )(command)


def known_records(directories: Iterable[Path] = ()) -> list[type[Record]]:
    """Return the record classes of the plugins (bundled, installed, in the directories), scans, fleets, and DRAKVUF."""
    from drakmet.drakvuf.tables import RECORDS
    from drakmet.fleet.records import FleetHost
    from drakmet.plugins import load_plugins
    from drakmet.scan.records import SCAN_RECORDS

    return [*load_plugins(directories).records, *SCAN_RECORDS, FleetHost, *RECORDS]
