# SPDX-License-Identifier: GPL-2.0-or-later
"""A file in Datasette: read-only, with what its tables and columns mean, our questions, and addresses in hex."""

from __future__ import annotations

import importlib
import ipaddress
import socket
import textwrap
from typing import TYPE_CHECKING, Any

from drakmet.errors import UsageError
from drakmet.report.cells import Cells
from drakmet.report.questions import QUESTIONS
from drakmet.store import Reader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_SETTINGS = {"sql_time_limit_ms": 5000, "allow_download": False, "facet_time_limit_ms": 400}


def metadata(file: Reader, database: str) -> dict[str, Any]:
    """Return what Datasette is told of a file that it knows as ``database``."""
    tables: dict[str, dict[str, Any]] = {}
    for info in file.tables():
        about = {column.name: column.doc for column in info.columns if column.doc}
        # Of a record's many rows one looks for the last ones first.
        order = {"sort_desc": "id"} if info.name in ("finding", "session") else {}
        tables[info.name] = {"description": info.doc, "columns": about, "hidden": not info.rows, **order}
    for name in ("drakmet_table", "drakmet_column", "drakmet_quarantine"):
        tables[name] = {"hidden": True}
    queries = {
        question.name: {"title": question.title, "sql": textwrap.dedent(question.sql).strip()}
        for question in QUESTIONS
        if file.names.issuperset(question.tables)
    }
    return {
        "title": f"drakmet: {file.path.name}",
        "description": "What was seen in guests. Times are nanoseconds since 1970; utc(time) shows them.",
        "databases": {database: {"tables": tables, "queries": queries}},
    }


def application(path: Path, hosts: set[str]) -> Any:
    """Return Datasette with a file as an ASGI application that answers to the names ``hosts`` only.

    Raises `UsageError` if Datasette is not installed, `StoreError` if the file cannot be read.
    """
    try:
        datasette = importlib.import_module("datasette.app")
        plugins = importlib.import_module("datasette.plugins")
    except ImportError as error:
        raise UsageError("drakmet serve needs Datasette", hint="pip install 'drakmet[serve]'") from error
    # On an error it would print all local variables to the terminal, and so what guests wrote.
    importlib.import_module("datasette.handle_exception").__dict__["rich"] = None
    with Reader(path) as file:
        about = metadata(file, path.stem)
        cells = Cells(file)
    # What a watch that goes on has written last stands beside the file; only a file at rest may be taken as immutable.
    log = path.with_name(path.name + "-wal")
    at_rest = not log.exists() or not log.stat().st_size
    kind = {"files": [], "immutables": [str(path)]} if at_rest else {"files": [str(path)]}
    served = datasette.Datasette(**kind, metadata=about, settings=_SETTINGS)
    if plugins.pm.has_plugin("drakmet"):
        plugins.pm.unregister(name="drakmet")
    plugins.pm.register(cells, name="drakmet")
    return _only(served.app(), hosts)


def serve(path: Path, host: str, port: int, ready: Callable[[str], object]) -> None:
    """Serve a file until somebody ends it; ``ready`` gets the address. Port 0 is one that is free.

    Raises `UsageError` if the address cannot be had, and what `application` raises.
    """
    try:
        listening = socket.create_server((host, port), family=_family(host), backlog=64)
    except OSError as error:
        raise UsageError(
            f"cannot listen: {error.strerror or error}", where=f"{host}:{port}", hint="try --port 0"
        ) from error
    with listening:
        shown = f"[{host}]" if ":" in host else host
        served = application(path, {shown, "localhost", "127.0.0.1", "[::1]"} if _is_local(host) else set())
        uvicorn: Any = importlib.import_module("uvicorn")
        server = uvicorn.Server(uvicorn.Config(served, log_level="warning", lifespan="on", server_header=False))
        ready(f"http://{shown}:{listening.getsockname()[1]}/")
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            return


def is_open(host: str) -> bool:
    """Tell whether others than this machine may reach an address."""
    return not _is_local(host)


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _only(served: Any, hosts: set[str]) -> Any:
    """Let an application answer to some host names only, to all if none is given.

    A web page of anybody's may give its own name our address (DNS rebinding), and so read what is served here.
    """

    async def guarded(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http" and hosts:
            named = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
            name = named if named.endswith("]") else named.rpartition(":")[0] if ":" in named else named
            if name not in hosts:
                headers = [(b"content-type", b"text/plain")]
                await send({"type": "http.response.start", "status": 421, "headers": headers})
                await send({"type": "http.response.body", "body": b"this name is not served here\n"})
                return
        await served(scope, receive, send)

    return guarded
