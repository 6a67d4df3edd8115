# SPDX-License-Identifier: GPL-2.0-or-later
"""Lines as each of DRAKVUF's plugins prints them, made from what is known of its format."""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drakmet.drakvuf.parser import Parser
from drakmet.drakvuf.tables import BY_PLUGIN

if TYPE_CHECKING:
    from drakmet.records import Record

DATA = Path(__file__).resolve().parent.parent / "data"
WINDOWS = DATA / "drakvuf-windows-93b2d184.log.gz"
LINUX = sorted(DATA.glob("drakvuf-linux-*.jsonl.gz"))
WITHOUT_HEAD = ("rootkitmon", "fileextractor_close", "inject")


def quoted(text: bytes) -> bytes:
    """Return a string as DRAKVUF prints it: only quotes and backslashes are escaped."""
    return b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def value(one: Any) -> bytes:
    if one is None:
        return b"null"
    if isinstance(one, bytes):
        return quoted(one)
    if isinstance(one, str):
        return quoted(one.encode())
    if isinstance(one, list):
        return b"[" + b",".join(map(value, one)) + b"]"
    if isinstance(one, dict):
        return b"{" + b",".join(quoted(name.encode()) + b":" + value(each) for name, each in one.items()) + b"}"
    return str(one).encode()


def line(plugin: str, own: list[tuple[str, Any]], *, method: str = "NtX", old: bool = False, **head: Any) -> bytes:
    """Return a line without its newline; ``own`` may name a key twice."""
    told: dict[str, Any] = {"PID": 100, "PPID": 1, "TID": 101, "UserId": 0, "ProcessName": "/bin/sh"}
    pairs: list[tuple[str, Any]] = [("Plugin", plugin)]
    if plugin not in WITHOUT_HEAD:
        told |= {name: head[name] for name in told if name in head}
        if old:
            told = {name: told[name] for name in ("PID", "PPID", "TID")} | {"UserName": "SessionID"} | told
        pairs += [("TimeStamp", head.get("TimeStamp", "1700000000.000001")), *told.items()]
        pairs += [("Method", method), ("EventUID", head.get("EventUID", "0x1f"))]
    return b"{" + b",".join(quoted(name.encode()) + b":" + value(each) for name, each in pairs + own) + b"}"


def sample(plugin: str) -> list[tuple[str, Any]]:
    """Return one value of every form for the keys of a plugin."""
    keys = [sql.split('"')[1] for sql, _ in BY_PLUGIN[plugin].computed.values()]
    forms = [
        "\\Device\\HarddiskVolume2\\a b.exe",
        7,
        "0xfffff80000001000",
        None,
        ["Arg0=0x1", 'Arg1=0x0:"x"'],
        {"a": 1},
        "",
    ]
    return [(key, forms[place % len(forms)]) for place, key in enumerate(keys)]


@dataclass
class Parsed:
    """What a parser gave."""

    parser: Parser
    rows: list[dict[str, Any]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)


def parse(*blocks: bytes, meanings: Any = None) -> Parsed:
    """Run blocks of whole lines through a parser."""
    found = Parsed(None)  # type: ignore[arg-type]
    found.parser = Parser(1, 1, found.records.append, lambda row, reason: found.refused.append((row, reason)))
    if meanings is not None:
        found.parser.understand(meanings(found.parser, found.records.append))
    for block in blocks:
        found.parser.feed(block)
    found.parser.finish()
    for record, columns in found.parser.take():
        for values in zip(*columns.values(), strict=True):
            found.rows.append({"table": record.table, **dict(zip(columns, values, strict=True))})
    return found


def unpacked(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes())
