# SPDX-License-Identifier: GPL-2.0-or-later
"""Socket addresses out of bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drakmet.guest.memory import Unreadable
from drakmet.guest.sockets import SocketAddress, sockaddr

INET = b"\x02\x00\x1f\x90\x0a\x00\x00\x01" + bytes(8)
INET6 = b"\x0a\x00\x00\x35" + bytes(4) + bytes.fromhex("fe800000000000000000000000000001") + b"\x03\0\0\0"


@pytest.mark.parametrize(
    ("raw", "wanted", "shown"),
    [
        (INET, SocketAddress("inet", "10.0.0.1", 8080), "10.0.0.1:8080"),
        (INET[:8], SocketAddress("inet", "10.0.0.1", 8080), "10.0.0.1:8080"),
        (INET6, SocketAddress("inet6", "fe80::1", 53, 3), "[fe80::1]:53"),
        (INET6[:24], SocketAddress("inet6", "fe80::1", 53), "[fe80::1]:53"),
        (b"\x01\x00/run/x\0rest", SocketAddress("unix", "/run/x"), "unix:/run/x"),
        (b"\x01\x00/run/x", SocketAddress("unix", "/run/x"), "unix:/run/x"),
        (b"\x01\x00\0a\0b", SocketAddress("unix", "@a\0b"), "unix:@a\0b"),
        (b"\x01\x00", SocketAddress("unix"), "unix:"),
        (b"\x10\0\0\0\x07\0\0\0\x01\0\0\0", SocketAddress("netlink", "7", scope=1), "netlink:7"),
        (b"\x28\0\0\0\x39\x05\0\0\x03\0\0\0", SocketAddress("vsock", "3", 1337), "3:1337"),
        (
            b"\x11\0\x08\0\x02\0\0\0\x01\0\0\x06\1\2\3\4\5\6\0\0",
            SocketAddress("packet", "01:02:03:04:05:06", scope=2),
            None,
        ),
        (b"\0\0" + bytes(14), SocketAddress("unspec"), "unspec:"),
        (b"\x1f\0\1\2", SocketAddress("bluetooth", "0102"), "bluetooth:0102"),
        (b"\xfe\0\1\2", SocketAddress("af_254", "0102"), "af_254:0102"),
    ],
)
def test_addresses_are_decoded(raw: bytes, wanted: SocketAddress, shown: str | None) -> None:
    assert sockaddr(raw) == wanted
    if shown is not None:
        assert str(sockaddr(raw)) == shown


def test_without_its_length_an_abstract_name_ends_before_its_padding() -> None:
    assert sockaddr(b"\x01\x00\0name" + bytes(103), length_known=False).address == "@name"


@pytest.mark.parametrize("raw", [b"", b"\x02", INET[:7], INET6[:23], b"\x10\0\0\0"])
def test_what_is_too_short_is_unreadable(raw: bytes) -> None:
    with pytest.raises(Unreadable):
        sockaddr(raw)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_an_address_or_unreadable(raw: bytes, known: bool) -> None:
    try:
        str(sockaddr(raw, length_known=known))
    except Unreadable:
        assert len(raw) < 24
