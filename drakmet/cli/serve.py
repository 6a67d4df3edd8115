# SPDX-License-Identifier: GPL-2.0-or-later
"""``drakmet serve``: a file in a browser, to ask it anything."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Browse and query a file in Datasette.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen at")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8001, show_default=True, help="port to listen at; 0 for a free one"
)
def serve(file: Path, host: str, port: int) -> None:
    """Browse and query a file in Datasette.

    Tables with what each column means, filters, facets, SQL, JSON and CSV of everything, and questions that are often
    asked: processes, what they executed, where they connected to, findings with their rows, gaps of the coverage.
    Nothing can be written, and only this machine can reach it unless --host says otherwise.

    Needs Datasette: pip install 'drakmet[serve]'

    \b
    Example:
      drakmet serve run.db
      drakmet serve run.db --port 0
    """
    from drakmet.report import serving

    def ready(address: str) -> None:
        if serving.is_open(host):
            click.echo(
                "drakmet: whoever can reach this address can read the file; nobody is asked for a password", err=True
            )
        click.echo(f"drakmet: {file} is at {address} - Ctrl-C ends it", err=True)

    serving.serve(file, host, port, ready)
