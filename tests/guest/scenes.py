# SPDX-License-Identifier: GPL-2.0-or-later
"""What the guests of the fixtures did (acts.c), and what each field of each trap must have shown of it."""

from __future__ import annotations

import os
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from drakmet.guest.dns import Message
from drakmet.guest.memory import Unreadable
from drakmet.guest.sockets import Socket, SocketAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Act = dict[str, Any]
Expected = "Callable[[Act, Any], bool]"

FAMILIES = {1: "unix", 2: "inet", 10: "inet6"}


class Scene(NamedTuple):
    """A trap: in which acts its function is called (once or more), and what its expressions must give."""

    function: str
    acts: tuple[str, ...]
    fields: dict[str, Callable[[Act, Any], bool]]
    returns: Mapping[str, Callable[[Act, Any], bool]] = MappingProxyType({})


def said(act: Act, key: str) -> str:
    """Return a text that the guest told in hex."""
    return os.fsdecode(bytes.fromhex(act[key]))


def equals(key: str) -> Callable[[Act, Any], bool]:
    return lambda act, value: value == said(act, key)


def number(key: str) -> Callable[[Act, Any], bool]:
    return lambda act, value: value == act[key]


def address(act: Act, value: Any) -> bool:
    port = act["port"] if act["port"] >= 0 else None
    return isinstance(value, SocketAddress) and (value.family, value.address, value.port) == (
        FAMILIES[act.get("family", 2)],
        said(act, "address"),
        port,
    )


def sock(act: Act, value: Any) -> bool:
    kinds = {1: "stream", 2: "dgram"}
    wanted = (FAMILIES[act.get("family", 2)], kinds[act.get("type", 2)])
    return isinstance(value, Socket) and (value.family, value.type) == wanted


def listening(act: Act, value: Any) -> bool:
    return sock(act, value) and value.local == SocketAddress("inet", said(act, "address"), act["port"])


def opened(act: Act, value: Any) -> bool:
    if act["error"]:
        return isinstance(value, Unreadable) and value.what.endswith(f": -{act['error']}")
    return bool(value == said(act, "full"))


def dns(act: Act, value: Any) -> bool:
    if not isinstance(value, Message):
        return False
    (question,) = value.questions
    return (question.name, question.type, value.response) == (act["dns"], act["dns_type"], False)


def arguments(act: Act, value: Any) -> bool:
    return bool(value == [os.fsdecode(bytes.fromhex(one)) for one in act["argv"]])


SCENES = [
    Scene(
        "do_filp_open",
        ("open",),
        {
            "pathname->name": equals("name"),
            "op->open_flag": lambda act, value: value & 0o103 == act["flags"] & 0o103,
            "$current->tgid": number("pid"),
            "$current|process": lambda act, value: (
                (value.tgid, value.comm, value.exe, value.missing) == (act["pid"], "init", "/init", {})
            ),
        },
        {
            "$return|path": opened,
            "$return|errno": lambda act, value: value == -act["error"],
        },
    ),
    Scene(
        "security_file_open",
        ("open",),
        {
            "file|path": equals("full"),
            "file->f_path|path": equals("full"),
            "file|file": lambda act, value: value.path.deleted == bool(act.get("deleted")) and not value.missing,
            "file->f_path.dentry->d_name.name": lambda act, value: value == said(act, "full").rpartition("/")[2],
        },
    ),
    Scene(
        "begin_new_exec",
        ("exec",),
        {
            "bprm->filename": equals("name"),
            "bprm|argv": arguments,
            "bprm->argc": lambda act, value: value == len(act["argv"]),
            "bprm->file|path": equals("file"),
            "$current|cwd": equals("cwd"),
        },
    ),
    Scene(
        "security_socket_connect",
        ("connect",),
        {"address|sockaddr(addrlen)": address, "sock|sock": sock},
    ),
    Scene("security_socket_bind", ("bind",), {"address|sockaddr(addrlen)": address}),
    Scene("security_socket_listen", ("listen",), {"sock|sock": listening, "sock->sk|sock": listening}),
    Scene(
        "tcp_v4_connect",
        ("connect",),
        {"uaddr|sockaddr(addr_len)": address, "sk|sock": sock, "uaddr|sockaddr": address},
    ),
    Scene("tcp_v6_connect", ("connect",), {"uaddr|sockaddr(addr_len)": address}),
    Scene(
        "udp_sendmsg",
        ("send",),
        {
            "msg->msg_name|sockaddr(msg->msg_namelen)": address,
            "msg|payload": lambda act, value: value == bytes.fromhex(act["payload"]),
            "msg|dns": dns,
            "sk|sock": sock,
            "len": lambda act, value: value == len(act["payload"]) // 2,
        },
    ),
    Scene(
        "security_path_unlink",
        ("unlink",),
        {"dentry|path(dir->mnt)": equals("full"), "dentry|path": equals("full")},
    ),
    Scene(
        "vfs_unlink",
        ("unlink",),
        {
            "dentry|path": equals("full"),
            "dentry|name": lambda act, value: value == said(act, "full").rpartition("/")[2],
        },
    ),
    Scene(
        "security_path_rename",
        ("rename",),
        {"old_dentry|path(old_dir->mnt)": equals("full"), "new_dentry|path(new_dir->mnt)": equals("new")},
    ),
    Scene("security_path_chmod", ("chmod",), {"path|path": equals("full"), "mode": number("mode")}),
    Scene(
        "do_exit", ("exit",), {"code": lambda act, value: value == act["code"] << 8, "$current->tgid": number("pid")}
    ),
    Scene(
        "udp_sendmsg",
        ("write socket",),
        {
            "sk|sock": lambda act, value: value.remote == SocketAddress("inet", said(act, "address"), act["port"]),
            "msg->msg_name|sockaddr(msg->msg_namelen)": lambda _, value: isinstance(value, Unreadable),
            "msg|payload(5)": lambda act, value: value == bytes.fromhex(act["payload"])[:5],
            "msg|dns": dns,
        },
    ),
    Scene(
        "vfs_write",
        ("write",),
        {
            "file|path": equals("full"),
            "count": lambda act, value: value == len(act["data"]) // 2,
            "buf|bytes(count)": lambda act, value: value == bytes.fromhex(act["data"]),
        },
    ),
    Scene("security_mmap_file", ("mmap",), {"file|path": equals("full"), "prot": number("prot")}),
    Scene("kernel_clone", ("fork",), {"args->exit_signal": lambda _, value: value == 17}),
    Scene(
        "wake_up_new_task",
        ("fork",),
        {
            "p->real_parent->tgid": number("pid"),
            "p->comm": lambda _, value: value == "init",
            "p|process": lambda act, value: value.ppid == act["pid"] and value.exe == "/init" and not value.missing,
        },
    ),
    Scene(
        "do_sys_openat2",
        ("open",),
        {
            "filename": equals("name"),
            "filename|bytes(3)": lambda act, value: value == bytes.fromhex(act["name"])[:3],
        },
    ),
]
