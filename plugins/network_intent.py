# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a guest means to connect: connections, datagrams, sockets that listen, DNS names that are asked for.

It is the intent that is recorded, whatever the network makes of it. DNS over TCP is not looked into.
"""

from typing import Annotated, Any

from drakmet import EventRecord, Hit, Trap, hookimpl


class NetConnect(EventRecord):
    """A connection was asked for (connect)."""

    indexes = (("process",),)

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

    indexes = (("process",),)

    family: Annotated[str | None, "inet or inet6"]
    protocol: Annotated[str | None, "udp or udplite"]
    address: Annotated[str | None, "IP address it goes to"]
    port: Annotated[int | None, "port it goes to"]
    size: Annotated[int | None, "bytes"]


class DnsQuery(EventRecord):
    """A name was asked for in the DNS."""

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
    datagram = {"to": "msg->msg_name|sockaddr(msg->msg_namelen)", "sock": "sk|sock", "size": "len", "dns": "msg|dns"}
    traps = [
        Trap(
            function="__sys_connect_file",
            name="connect",
            fetch={"sock": "file|sock", "to": "address|sockaddr(addrlen)"},
            returns=result,
            record=NetConnect,
            handler=on_connect,
        ),
        Trap(function="udp_sendmsg", fetch=datagram, record=NetDatagram, handler=on_datagram),
        Trap(function="udpv6_sendmsg", fetch=datagram, record=NetDatagram, handler=on_datagram6),
    ]
    for family, address, length in (
        ("inet", "uaddr", "addr_len"), ("inet6", "uaddr", "addr_len"), ("unix", "uaddr", "addr_len"),
    ):  # fmt: skip
        fetch = {"sock": "sock|sock", "to": f"{address}|sockaddr({length})"}
        traps.append(Trap(function=f"{family}_bind", fetch=fetch, returns=result, record=NetBind, handler=on_bind))
    for family in ("inet", "unix"):  # inet_listen serves IPv6 as well
        fetch = {"backlog": "backlog"}
        after = {"sock": "sock|sock", **result}
        traps.append(Trap(function=f"{family}_listen", fetch=fetch, returns=after, record=NetListen, handler=on_listen))
    return traps


def on_connect(hit: Hit) -> NetConnect:
    """A connect has ended, or goes on in the background."""
    return hit.make(NetConnect, **_end(hit, hit.to), protocol=_protocol(hit), result=hit.result)


def on_bind(hit: Hit) -> NetBind:
    """A bind has ended."""
    return hit.make(NetBind, **_end(hit, hit.to), protocol=_protocol(hit), result=hit.result)


def on_listen(hit: Hit) -> NetListen:
    """A listen has ended; the socket is bound by now, whether the program did that or the kernel."""
    end = _end(hit, hit.sock.local if hit.sock else None)
    return hit.make(NetListen, **end, protocol=_protocol(hit), backlog=hit.backlog, result=hit.result)


def on_datagram(hit: Hit) -> list[EventRecord]:
    """A datagram over IPv4."""
    # Without an address of its own it goes to where the socket is connected.
    to = hit.to or (hit.sock.remote if hit.sock else None)
    end = _end(hit, to)
    del end["path"]
    records: list[EventRecord] = [
        hit.make(NetDatagram, **end, protocol=_protocol(hit), size=hit.size),
    ]
    if to is not None and to.port == _DNS and not (hit.dns and hit.dns.response):
        if hit.dns is None:
            query = hit.make(DnsQuery, name=None, qtype=None, address=to.address, port=to.port)
            query.unreadable = "name,qtype"
            records.append(query)
        else:
            records += [
                hit.make(DnsQuery, name=question.name, qtype=question.type, address=to.address, port=to.port)
                for question in hit.dns.questions
            ]
    return records


def on_datagram6(hit: Hit) -> list[EventRecord]:
    """A datagram from an IPv6 socket; to an IPv4 address, the kernel hands it on to udp_sendmsg, which is trapped."""
    to = hit.to or (hit.sock.remote if hit.sock else None)
    if to is not None and (to.family == "inet" or to.address.startswith("::ffff:")):
        return []
    return on_datagram(hit)


def _end(hit: Hit, address: Any) -> dict[str, Any]:
    """Return the columns of an address."""
    if address is None:
        return {"family": hit.sock.family if hit.sock else None, "address": None, "port": None, "path": None}
    if address.family == "unix":
        return {"family": "unix", "address": None, "port": None, "path": address.address}
    return {"family": address.family, "address": address.address or None, "port": address.port, "path": None}


def _protocol(hit: Hit) -> str | None:
    """Return the protocol of an IP socket."""
    sock = hit.sock
    return sock.protocol if sock and sock.family in ("inet", "inet6") else None
