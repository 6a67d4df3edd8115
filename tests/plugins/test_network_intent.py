# SPDX-License-Identifier: GPL-2.0-or-later
"""What the plugin network-intent makes of hits, branch by branch."""

from __future__ import annotations

from typing import Any

import pytest

from drakmet.guest.dns import Message, Question
from drakmet.guest.sockets import Socket, SocketAddress
from drakmet.plugins import bundled
from drakmet.testing import load, run_trap, trap

plugin = load(bundled() / "network_intent.py")

TCP = Socket("inet", "stream", "tcp", 7, SocketAddress("inet", "0.0.0.0", 0))  # noqa: S104 - what a guest has
TCP6 = Socket("inet6", "stream", "tcp", 7)
UDP = Socket("inet", "dgram", "udp", 7)
UDP6 = Socket("inet6", "dgram", "udp", 7)
UNIX = Socket("unix", "stream", "0", 7)
WEB = SocketAddress("inet", "192.0.2.1", 443)
SERVER = SocketAddress("inet", "192.0.2.53", 53)


def run(label: str, **values: Any) -> list[Any]:
    return run_trap(trap(plugin, label), **{key: one for key, one in values.items() if one != "lost"})


def end(record: Any) -> tuple[Any, ...]:
    return record.family, record.protocol, record.address, record.port, record.path


@pytest.mark.parametrize("label", ["connect", "inet_bind"])
@pytest.mark.parametrize(
    ("sock", "to", "expected"),
    [
        (TCP, WEB, ("inet", "tcp", "192.0.2.1", 443, None)),
        (TCP6, SocketAddress("inet6", "2001:db8::1", 443), ("inet6", "tcp", "2001:db8::1", 443, None)),
        (UNIX, SocketAddress("unix", "/run/x.sock"), ("unix", None, None, None, "/run/x.sock")),
        (UNIX, SocketAddress("unix", "@name"), ("unix", None, None, None, "@name")),
        (UNIX, SocketAddress("unix", ""), ("unix", None, None, None, None)),
        (UDP, SocketAddress("unspec"), ("unspec", "udp", None, None, None)),
        (Socket("netlink", "raw", "0", 7), SocketAddress("netlink", "1"), ("netlink", None, "1", None, None)),
    ],
)
def test_an_end_is_named(label: str, sock: Socket, to: SocketAddress, expected: tuple[Any, ...]) -> None:
    (record,) = run(label, sock=sock, to=to, result=-115)
    assert end(record) == expected
    assert (record.result, record.unreadable) == (-115, None)


@pytest.mark.parametrize(
    ("sock", "lost"),
    [(TCP, {"address", "port"}), (UNIX, {"path"}), ("lost", {"family", "protocol", "address", "port", "path"})],
)
def test_an_address_that_cannot_be_read_is_marked(sock: Any, lost: set[str]) -> None:
    (record,) = run("connect", sock=sock, to="lost", result=0)
    assert (record.address, record.port, record.path) == (None, None, None)
    assert set(record.unreadable.split(",")) == lost


@pytest.mark.parametrize(("to", "lost"), [(WEB, "protocol"), (SocketAddress("unix", "/run/x"), None)])
def test_a_socket_that_cannot_be_read_is_marked(to: SocketAddress, lost: str | None) -> None:
    (record,) = run("connect", sock="lost", to=to, result=0)
    assert (record.family, record.protocol, record.unreadable) == (to.family, None, lost)


def test_each_family_binds() -> None:
    for label in ("inet_bind", "inet6_bind", "unix_bind"):
        (record,) = run(label, sock=TCP, to=WEB, result=0)
        assert record.table == "net_bind"


@pytest.mark.parametrize(
    ("label", "sock", "expected"),
    [
        ("inet_listen", Socket("inet", "stream", "tcp", 10, SocketAddress("inet", "192.0.2.9", 80)),
         ("inet", "tcp", "192.0.2.9", 80, None)),
        ("inet_listen", Socket("inet6", "stream", "tcp", 10, SocketAddress("inet6", "::", 80)),
         ("inet6", "tcp", "::", 80, None)),
        ("unix_listen", Socket("unix", "stream", "0", 10, SocketAddress("unix", "/run/x")),
         ("unix", None, None, None, "/run/x")),
    ],
)  # fmt: skip
def test_a_socket_listens(label: str, sock: Socket, expected: tuple[Any, ...]) -> None:
    (record,) = run(label, backlog=128, sock=sock, result=0)
    assert end(record) == expected
    assert (record.table, record.backlog, record.result, record.unreadable) == ("net_listen", 128, 0, None)


def test_a_listener_that_cannot_be_read() -> None:
    (record,) = run("inet_listen", backlog=128, result=0)
    assert set(record.unreadable.split(",")) == {"family", "protocol", "address", "port", "path"}


def send(label: str = "udp_sendmsg", **changes: Any) -> list[Any]:
    return run(label, **{"named": 1, "to": WEB, "sock": UDP, "size": 12, "dns": "lost", **changes})


def test_a_datagram_goes_where_it_says() -> None:
    elsewhere = Socket("inet", "dgram", "udp", 1, remote=SERVER)
    for sock in (UDP, elsewhere):
        (record,) = send(sock=sock)
        assert (record.table, record.family, record.protocol) == ("net_datagram", "inet", "udp")
        assert (record.address, record.port, record.size, record.unreadable) == ("192.0.2.1", 443, 12, None)


def test_a_datagram_without_an_address_goes_where_its_socket_is_connected() -> None:
    (record,) = send(named=0, to="lost", sock=Socket("inet", "dgram", "udp", 1, remote=WEB))
    assert (record.address, record.port, record.unreadable) == ("192.0.2.1", 443, None)


def test_a_datagram_to_nowhere_is_none() -> None:
    assert send(named=0, to="lost", sock=UDP) == []


def test_an_address_that_is_there_but_cannot_be_read_is_not_the_socket_s() -> None:
    (record,) = send(to="lost", sock=Socket("inet", "dgram", "udp", 1, remote=WEB))
    assert (record.address, record.port) == (None, None)
    assert set(record.unreadable.split(",")) == {"address", "port"}


@pytest.mark.parametrize("changes", [{"sock": "lost"}, {"named": "lost"}])
def test_a_datagram_to_nobody_knows_where(changes: dict[str, Any]) -> None:
    (record,) = send(**{"named": 0, "to": "lost", **changes})
    assert (record.address, record.port) == (None, None)
    assert {"address", "port"} <= set(record.unreadable.split(","))


def question(*names: str, response: bool = False) -> Message:
    return Message(7, response, 0, tuple(Question(name, "A") for name in names))


def test_a_name_is_asked_for() -> None:
    sent, asked = send(to=SERVER, dns=question("example.org"))
    assert sent.table == "net_datagram"
    assert (asked.table, asked.name, asked.qtype) == ("dns_query", "example.org", "A")
    assert (asked.address, asked.port, asked.process, asked.unreadable) == ("192.0.2.53", 53, sent.process, None)


def test_each_question_counts() -> None:
    assert [one.name for one in send(to=SERVER, dns=question("a.org", "b.org"))[1:]] == ["a.org", "b.org"]


def test_a_connected_resolver_asks_too() -> None:
    _, asked = send(named=0, to="lost", sock=Socket("inet", "dgram", "udp", 1, remote=SERVER), dns=question("a.org"))
    assert (asked.name, asked.address) == ("a.org", "192.0.2.53")


def test_an_answer_asks_nothing() -> None:
    assert len(send(to=SERVER, dns=question("a.org", response=True))) == 1


def test_another_port_is_no_dns() -> None:
    assert len(send(dns=question("a.org"))) == 1


def test_a_question_that_cannot_be_read_is_told_as_one() -> None:
    _, asked = send(to=SERVER)
    assert (asked.name, asked.qtype, asked.unreadable) == (None, None, "name,qtype")


def test_hostile_names_are_escaped() -> None:
    _, asked = send(to=SERVER, dns=question("a\x1b.org"))
    assert asked.name == "a\\x1b.org"


def test_ipv6_datagrams() -> None:
    to = SocketAddress("inet6", "2001:db8::1", 5000)
    (record,) = send("udpv6_sendmsg", sock=UDP6, to=to)
    assert (record.family, record.address, record.port) == ("inet6", "2001:db8::1", 5000)
    server = SocketAddress("inet6", "2001:db8::53", 53)
    assert [one.table for one in send("udpv6_sendmsg", sock=UDP6, to=server, dns=question("a.org"))] == [
        "net_datagram",
        "dns_query",
    ]


@pytest.mark.parametrize("to", [WEB, SocketAddress("inet6", "::ffff:192.0.2.1", 443)])
def test_ipv4_from_an_ipv6_socket_is_left_to_the_ipv4_trap(to: SocketAddress) -> None:
    assert send("udpv6_sendmsg", sock=UDP6, to=to) == []
    connected = Socket("inet6", "dgram", "udp", 1, remote=to)
    assert send("udpv6_sendmsg", sock=connected, named=0, to="lost") == []


def test_an_ipv6_datagram_of_which_nothing_is_known() -> None:
    (record,) = send("udpv6_sendmsg", sock="lost", to="lost")
    assert {"family", "protocol", "address", "port"} <= set(record.unreadable.split(","))
