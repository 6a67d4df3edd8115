# SPDX-License-Identifier: GPL-2.0-or-later
"""What our records have of Sigma's log sources: which table an event is in, and which column a field is."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drakmet.rules.sigma.refusal import Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

SYSTEMS = ("linux", "windows")


class Kind(enum.Enum):
    """What the values of a field are."""

    TEXT = "text"
    PATH = "path"
    WORDS = "words"
    """A command line that is kept as a list of words."""
    NUMBER = "number"
    PLAIN = "plain"
    """A text that is not guest text, but as another program printed it."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field: its SQL, and where a test's row has its value (``row``, ``process`` or ``start``, and the column).

    ``names`` gives the values that some texts stand for; no other is known then.
    """

    sql: str
    place: tuple[str, str]
    kind: Kind = Kind.TEXT
    names: Mapping[str, int | str] | None = None
    looks_back: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """A log source: the table, what else its rows must fulfil, and its fields by Sigma's names.

    ``given`` are columns with which a row fulfils that, ``constant`` fields that are the same in all events. ``told``
    are columns for the message.
    """

    table: str
    message: str
    told: str
    fields: Mapping[str, Field]
    where: tuple[str, ...] = ()
    given: Mapping[str, object] = field(default_factory=dict)
    constant: Mapping[str, str] = field(default_factory=dict)
    meaning: str | None = None


def source_of(product: str | None, category: str | None, service: str | None) -> tuple[Source, str | None]:
    """Return the log source and the guests' system, ``None`` for any; raise `Refused` for what is not collected."""
    system = product.lower() if product else None
    name = "/".join(one for one in (product, category, service) if one)
    if system not in (None, *SYSTEMS):
        raise Refused("log source", f"{name}: drakmet watches Linux and Windows guests")
    if not category or (service and service != "sysmon"):
        raise Refused("log source", f"{name}: drakmet does not collect this log")
    source = _sources(system).get(category)
    if source is None:
        raise Refused("log source", f"{name}: no record of drakmet's has the meaning of these events")
    return source, system


_PATH, _NUMBER = Kind.PATH, Kind.NUMBER
_ROOT = {"root": 0}
_COMMAND = {"linux": "argv_text({0}.argv)", "windows": "{0}.command_line", None: ""}
_COMMAND[None] = f"coalesce({_COMMAND['windows']}, {_COMMAND['linux']})"
# A Linux process is made by its maker's fork and executes what it is to be: its start is told of the row that it was
# before. On Windows the maker's row tells of the start.
_STARTED = """(
    SELECT {command}
    FROM process AS g
    JOIN main.process_start AS e ON e.process = g.id AND e.time BETWEEN s.time - :within AND s.time
    WHERE g.session = s.session AND g.pid IN (p.pid, p.ppid) AND e.pid {pids} AND e.id <> {other}
    ORDER BY e.time DESC
    LIMIT 1
  )"""


def _sources(system: str | None) -> dict[str, Source]:
    command = _COMMAND[system].format("s")
    kind = Kind.TEXT if system == "windows" else Kind.WORDS
    column = "command_line" if system == "windows" else "argv"
    started = {"command": _COMMAND[system].format("e")}
    parent_pid = "p.pid" if system == "windows" else "p.ppid"

    def looked(pids: str, other: str) -> Field:
        return Field(_STARTED.format(**started, pids=pids, other=other), ("start", column), kind, looks_back=True)

    actor = {
        "Image": Field("p.exe", ("process", "exe"), _PATH),
        "ProcessId": Field("p.pid", ("process", "pid"), _NUMBER),
        "CommandLine": looked("= p.pid", "0"),
    }
    by_root = {"User": Field("p.uid", ("process", "uid"), _NUMBER, _ROOT)} if system != "windows" else {}
    starter = {"User": Field("s.uid", ("row", "uid"), _NUMBER, _ROOT)} if system != "windows" else {}

    def file(table: str, verb: str, columns: Mapping[str, str], **more: object) -> Source:
        last = list(columns.values())[-1]
        found = {name: Field(f"s.{column}", ("row", column), _PATH) for name, column in columns.items()}
        return Source(
            table, f"{{exe}} (pid {{pid}}) {verb} {{{last}}}", f"s.{last}, p.exe, p.pid", {**found, **actor, **by_root},
            **more,  # type: ignore[arg-type]
        )  # fmt: skip

    target = {"TargetFilename": "path"}
    done = "coalesce(s.result, 0) >= 0"
    removal = file("file_remove", "removed", target, where=(done, "s.directory IS NOT TRUE"))
    question = {
        "QueryName": Field("s.name", ("row", "name")),
        "query": Field("s.name", ("row", "name")),
        "record_type": Field("s.qtype", ("row", "qtype")),
    }
    asking = Source("dns_query", "{exe} (pid {pid}) asks for {name}", "s.name, p.exe, p.pid", {**question, **actor})
    return {
        "process_creation": Source(
            "process_start",
            "{exe} started {path} (pid {pid})",
            "s.path, s.pid, p.exe",
            {
                "Image": Field("s.path", ("row", "path"), _PATH),
                "CommandLine": Field(command, ("row", column), kind),
                "CurrentDirectory": Field("s.cwd", ("row", "cwd"), _PATH),
                "ProcessId": Field("s.pid", ("row", "pid"), _NUMBER),
                "ParentImage": Field("p.exe", ("process", "exe"), _PATH),
                "ParentProcessId": Field(parent_pid, ("process", parent_pid[2:]), _NUMBER),
                "ParentCommandLine": looked("IN (p.pid, p.ppid)", "s.id"),
                **starter,
            },
        ),
        "file_event": file(
            "file_open", "made", target,
            where=("s.result >= 0", """(s.created OR (s."create" AND s.access <> 'r'))"""),
            given={"result": 0, "created": True, "create": True, "access": "w"},
            meaning="a file that is made, or opened to be written with leave to make it",
        ),
        "file_access": file("file_open", "opened", {"FileName": "path"}, where=("s.result >= 0",), given={"result": 0}),
        "file_delete": removal,
        "file_delete_detected": removal,
        "file_rename": file(
            "file_rename", "renamed", {"SourceFilename": "path", "TargetFilename": "new_path"}, where=(done,)
        ),
        "network_connection": Source(
            "net_connect",
            "{exe} (pid {pid}) connects to {address} port {port}",
            "s.address, s.port, p.exe, p.pid",
            {
                "DestinationIp": Field("s.address", ("row", "address")),
                "DestinationPort": Field("s.port", ("row", "port"), _NUMBER),
                "DestinationIsIpv6": Field("s.family", ("row", "family"), names={"true": "inet6", "false": "inet"}),
                "Protocol": Field("s.protocol", ("row", "protocol")),
                **actor,
                **by_root,
            },
            where=("s.family IN ('inet', 'inet6')",),
            given={"family": "inet"},
            constant={"Initiated": "true"},
            meaning="a connection that is asked for, whether it comes about or not",
        ),
        "dns_query": asking,
        "dns": asking,
        **({} if system == "windows" else {
            "image_load": file("file_map", "loads", {"ImageLoaded": "path"}),
        }),
    }  # fmt: skip
