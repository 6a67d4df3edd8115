# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables that are known without a file: those of the plugins that are installed."""

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


def known_records(directories: Iterable[Path] = ()) -> list[type[Record]]:
    """Return the record classes of the bundled and installed plugins, and of those in the directories."""
    from drakmet.plugins import load_plugins

    return load_plugins(directories).records
