# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a guest means to connect: connections, datagrams, sockets that listen, DNS names that are asked for.

It is the intent that is recorded, whatever the network makes of it. DNS over TCP is not looked into.
"""

from typing import Annotated, Any

from drakmet import EventRecord, Hit, Trap, hookimpl


class NetConnect(EventRecord):
    """A connection was asked for (connect)."""

    indexes = (("process", "time"),)

    family: Annotated[str | None, "inet, inet6, unix, netlink...; unspec dissolves a connection"]
    protocol: Annotated[str | None, "tcp, udp, ... for inet and inet6"]
    address: Annotated[str | None, "IP address"]
    port: Annotated[int | None, "port"]
    path: Annotated[str | None, "a unix socket's path; @ and the name of an abstract one"]
    result: Annotated[int | None, "0, or the negative error number; -115 (EINPROGRESS) goes on in the background"]


class NetBind(EventRecord):
    """A socket was given an address (bind)."""

    family: Annotated[str | None, "inet, inet6 or unix"]
    protocol: Annotated[str | None, "tcp, udp, ... for inet and inet6"]
    address: Annotated[str | None, "IP address"]
    port: Annotated[int | None, "port; 0 lets the kernel choose"]
    path: Annotated[str | None, "a unix socket's path; @ and the name of an abstract one"]
    result: Annotated[int | None, "0, or the negative error number"]


class NetListen(EventRecord):
    """A socket waits for connections (listen)."""

    family: Annotated[str | None, "inet, inet6 or unix"]
    protocol: Annotated[str | None, "tcp, ... for inet and inet6"]
    address: Annotated[str | None, "IP address it is bound to"]
    port: Annotated[int | None, "port it is bound to"]
    path: Annotated[str | None, "a unix socket's path; @ and the name of an abstract one"]
    backlog: Annotated[int | None, "connections that may wait"]
    result: Annotated[int | None, "0, or the negative error number"]


class NetDatagram(EventRecord):
    """A UDP datagram is sent."""

    indexes = (("process", "time"),)

    family: Annotated[str | None, "inet or inet6"]
    protocol: Annotated[str | None, "udp or udplite"]
    address: Annotated[str | None, "IP address it goes to"]
    port: Annotated[int | None, "port it goes to"]
    size: Annotated[int | None, "bytes"]


class DnsQuery(EventRecord):
    """A name was asked for in the DNS."""

    indexes = (("process", "time"),)

    name: Annotated[str | None, "the name, without a dot at its end"]
    qtype: Annotated[str | None, "A, AAAA, MX, ..."]
    address: Annotated[str | None, "IP address of the name server"]
    port: Annotated[int | None, "its port"]


_DNS = 53


@hookimpl
def drakmet_records() -> list[type[EventRecord]]:
    """Return this plugin's records."""
    return [NetConnect, NetBind, NetListen, NetDatagram, DnsQuery]


@hookimpl
def drakmet_traps() -> list[Trap]:
    """Return this plugin's traps."""
    result = {"result": "$return|errno"}
    datagram = {
        "named": "msg->msg_name",
        "to": "msg->msg_name|sockaddr(msg->msg_namelen)",
        "sock": "sk|sock",
        "size": "len",
        "dns": "msg|dns",
    }
    traps = [
        Trap(
            function="__sys_connect_file",
            name="connect",
            fetch={"sock": "file|sock", "to": "address|sockaddr(addrlen)"},
            returns=result,
            record=NetConnect,
            handler=on_connect,
        ),
        Trap(function="udp_sendmsg", fetch=datagram, record=NetDatagram, also=(DnsQuery,), handler=on_datagram),
        Trap(function="udpv6_sendmsg", fetch=datagram, record=NetDatagram, also=(DnsQuery,), handler=on_datagram6),
    ]
    for family in ("inet", "inet6", "unix"):
        fetch = {"sock": "sock|sock", "to": "uaddr|sockaddr(addr_len)"}
        traps.append(Trap(function=f"{family}_bind", fetch=fetch, returns=result, record=NetBind, handler=on_bind))
    for family in ("inet", "unix"):  # inet_listen serves IPv6 as well
        fetch = {"backlog": "backlog"}
        after = {"sock": "sock|sock", **result}
        traps.append(Trap(function=f"{family}_listen", fetch=fetch, returns=after, record=NetListen, handler=on_listen))
    return traps


def on_connect(hit: Hit) -> NetConnect:
    """A connect has ended, or goes on in the background."""
    end = _End(hit, hit.to)
    return hit.make(NetConnect, end.lost, **end.columns, result=hit.result)


def on_bind(hit: Hit) -> NetBind:
    """A bind has ended."""
    end = _End(hit, hit.to)
    return hit.make(NetBind, end.lost, **end.columns, result=hit.result)


def on_listen(hit: Hit) -> NetListen:
    """A listen has ended; the socket is bound by now, whether the program did that or the kernel."""
    end = _End(hit, hit.sock.local if hit.sock else None)
    return hit.make(NetListen, end.lost, **end.columns, backlog=hit.backlog, result=hit.result)


def on_datagram(hit: Hit) -> list[EventRecord]:
    """A datagram over IPv4."""
    to = _destination(hit)
    if to is None and hit.named == 0 and hit.sock:
        return []  # neither says where to: the kernel refuses it (EDESTADDRREQ)
    end = _End(hit, to, only_ip=True)
    records: list[EventRecord] = [hit.make(NetDatagram, end.lost, **end.columns, size=hit.size)]
    if to is not None and to.port == _DNS:
        server = {"address": to.address, "port": to.port}
        if hit.dns is None:
            records.append(hit.make(DnsQuery, ["name", "qtype"], name=None, qtype=None, **server))
        elif not hit.dns.response:
            records += [hit.make(DnsQuery, name=one.name, qtype=one.type, **server) for one in hit.dns.questions]
    return records


def on_datagram6(hit: Hit) -> list[EventRecord]:
    """A datagram from an IPv6 socket; to an IPv4 address, the kernel hands it on to udp_sendmsg, which is trapped."""
    to = _destination(hit)
    if to is not None and (to.family == "inet" or to.address.startswith("::ffff:")):
        return []
    return on_datagram(hit)


def _destination(hit: Hit) -> Any:
    """Return where a datagram goes: where it says, or if it does not, where its socket is connected."""
    if hit.named == 0:
        return hit.sock.remote if hit.sock else None
    return hit.to


class _End:
    """The columns of an address, and which of them are not known."""

    def __init__(self, hit: Hit, address: Any, *, only_ip: bool = False) -> None:
        sock = hit.sock
        family = address.family if address else sock.family if sock else None
        is_unix = family == "unix"
        text = address.address or None if address else None
        self.columns: dict[str, Any] = {
            "family": family,
            # Of an IP address, the socket tells what is spoken with it.
            "protocol": sock.protocol if sock and sock.family in ("inet", "inet6") else None,
            "address": None if is_unix else text,
            "port": address.port if address else None,
            "path": text if is_unix else None,
        }
        self.lost: list[str] = [] if family else ["family"]
        if not sock and not (address and is_unix):
            self.lost.append("protocol")
        if not address:
            self.lost += {"unix": ["path"], None: ["address", "port", "path"]}.get(family, ["address", "port"])
        if only_ip:
            del self.columns["path"]
            self.lost = [name for name in self.lost if name != "path"]
