# SPDX-License-Identifier: GPL-2.0-or-later
"""Sockets and their addresses: of a sockaddr (as user space gave it) and of a struct sock."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final

import msgspec

from drakmet.guest.layout import Slice
from drakmet.guest.memory import Unreadable
from drakmet.guest.pathtypes import text

if TYPE_CHECKING:
    from drakmet.guest.kernel import Kernel

AF_UNSPEC, AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_VSOCK = 0, 1, 2, 10, 16, 17, 40
MAX_SOCKADDR: Final = 128  # sizeof(struct sockaddr_storage)
_SUN_PATH: Final = 108

FAMILIES: Final = {  # include/linux/socket.h
    0: "unspec", 1: "unix", 2: "inet", 3: "ax25", 4: "ipx", 5: "appletalk", 10: "inet6", 15: "key", 16: "netlink",
    17: "packet", 21: "rds", 24: "pppox", 29: "can", 30: "tipc", 31: "bluetooth", 38: "alg", 40: "vsock", 41: "kcm",
    42: "qipcrtr", 43: "smc", 44: "xdp", 45: "mctp",
}  # fmt: skip
TYPES: Final = {1: "stream", 2: "dgram", 3: "raw", 4: "rdm", 5: "seqpacket", 6: "dccp", 10: "packet"}
PROTOCOLS: Final = {
    0: "ip", 1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 33: "dccp", 41: "ipv6", 47: "gre", 50: "esp", 51: "ah",
    58: "icmpv6", 132: "sctp", 136: "udplite", 255: "raw", 262: "mptcp",
}  # fmt: skip
_SIZES: Final = {AF_INET: 16, AF_INET6: 28, AF_NETLINK: 12, AF_PACKET: 20, AF_VSOCK: 16, AF_UNIX: 2 + _SUN_PATH}
_MINIMUM: Final = {AF_INET: 8, AF_INET6: 24, AF_NETLINK: 12, AF_PACKET: 12, AF_VSOCK: 12}


class SocketAddress(msgspec.Struct, frozen=True):
    """One end of a connection.

    ``family`` is ``inet``, ``inet6``, ``unix``, ``netlink``...; ``address`` an IP address, a unix socket's path (an
    abstract one starts with ``@``, an unnamed one is empty), a netlink or vsock number; ``port`` as a number.
    ``scope`` is the interface of a link-local IPv6 address.
    """

    family: str
    address: str = ""
    port: int | None = None
    scope: int = 0

    def __str__(self) -> str:
        if self.port is None:
            return f"{self.family}:{self.address}"
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class Socket(msgspec.Struct, frozen=True):
    """A struct sock. ``remote`` is None where none is known; ``state`` is the TCP state's number (TCP_LISTEN is 10)."""

    family: str
    type: str
    protocol: str
    state: int
    local: SocketAddress | None = None
    remote: SocketAddress | None = None


def size_of(family: int) -> int:
    """Return how many bytes of a sockaddr of ``family`` are worth reading where its length is not told."""
    return _SIZES.get(family, 2)


def sockaddr(raw: bytes, *, length_known: bool = True) -> SocketAddress:
    """Decode a sockaddr; `Unreadable` if it is too short for its family.

    Where ``length_known`` is false, an abstract unix name, which may hold NULs, is taken to end before its
    trailing ones.
    """
    if len(raw) < 2:
        raise Unreadable(f"a socket address of {len(raw)} bytes")
    family = int.from_bytes(raw[:2], "little")
    if len(raw) < _MINIMUM.get(family, 2):
        raise Unreadable(f"a socket address of family {family} in {len(raw)} bytes")
    if family == AF_INET:
        return SocketAddress("inet", socket.inet_ntop(socket.AF_INET, raw[4:8]), int.from_bytes(raw[2:4], "big"))
    if family == AF_INET6:
        scope = int.from_bytes(raw[24:28], "little")
        return SocketAddress(
            "inet6", socket.inet_ntop(socket.AF_INET6, raw[8:24]), int.from_bytes(raw[2:4], "big"), scope
        )
    if family == AF_UNIX:
        return SocketAddress("unix", _unix(raw[2 : 2 + _SUN_PATH], length_known=length_known))
    if family == AF_NETLINK:
        pid, groups = struct.unpack_from("<II", raw, 4)
        return SocketAddress("netlink", str(pid), scope=groups)
    if family == AF_VSOCK:
        port, cid = struct.unpack_from("<II", raw, 4)
        return SocketAddress("vsock", str(cid), port)
    if family == AF_PACKET:
        return SocketAddress(
            "packet", raw[12 : 12 + min(raw[11], 8)].hex(":"), scope=int.from_bytes(raw[4:8], "little")
        )
    name = FAMILIES.get(family, f"af_{family}")
    return SocketAddress(name, raw[2:].hex() if length_known and family != AF_UNSPEC else "")


def _unix(name: bytes, *, length_known: bool) -> str:
    if not name:
        return ""
    if name[0]:
        return text(name.partition(b"\0")[0])
    return "@" + text(name[1:] if length_known else name[1:].rstrip(b"\0"))


class Sockets:
    """Reads the sockets of one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        types = kernel.profile.types
        self._space = kernel.space
        common = "__sk_common."
        self._sock = Slice(
            types, "sock", common + "skc_family", common + "skc_state", common + "skc_num", common + "skc_dport",
            common + "skc_rcv_saddr", common + "skc_daddr", "sk_type", "sk_protocol",
        )  # fmt: skip
        self._v6: tuple[int, int] | None = None
        if types.has_field("sock", common + "skc_v6_daddr"):
            self._v6 = (
                types.offset("sock", common + "skc_v6_rcv_saddr"),
                types.offset("sock", common + "skc_v6_daddr"),
            )
        self._sk = types.offset("socket", "sk")
        self._file = Slice(types, "file", "f_op", "private_data")
        self._file_ops = kernel.find("socket_file_ops")
        self._unix = Slice(types, "unix_sock", "addr", "peer") if types.has_field("unix_sock", "addr") else None
        if self._unix:
            self._unix_length = types.offset("unix_address", "len")
            self._unix_name = types.offset("unix_address", "name")

    def of_file(self, address: int) -> Socket:
        """Return the socket behind the ``struct file`` at ``address`` (net/socket.c, sock_from_file)."""
        operations, private = self._file.read(self._space, address)
        if operations != self._file_ops:
            raise Unreadable("the file is no socket")
        return self.of_socket(private)

    def sock_of_file(self, address: int) -> int:
        """Return the address of the ``struct sock`` behind the ``struct file`` at ``address``, 0 if it is no socket."""
        operations, private = self._file.read(self._space, address)
        return self._space.read_u64(private + self._sk) if operations == self._file_ops else 0

    def of_socket(self, address: int) -> Socket:
        """Return the ``struct socket`` at ``address``."""
        sock = self._space.read_u64(address + self._sk)
        if not sock:
            raise Unreadable("the socket is closed")
        return self.of_sock(sock)

    def of_sock(self, address: int) -> Socket:
        """Return the ``struct sock`` at ``address``."""
        family, state, port, remote_port, local4, remote4, kind, protocol = self._sock.read(self._space, address)
        local = remote = None
        far = int.from_bytes(remote_port.to_bytes(2, "little"), "big")
        if family == AF_INET:
            near_ip, far_ip = (socket.inet_ntop(socket.AF_INET, one.to_bytes(4, "little")) for one in (local4, remote4))
            local = SocketAddress("inet", near_ip, port)
            remote = SocketAddress("inet", far_ip, far) if far or remote4 else None
        elif family == AF_INET6 and self._v6:
            near6 = self._space.read(address + self._v6[0], 16)
            far6 = self._space.read(address + self._v6[1], 16)
            local = SocketAddress("inet6", socket.inet_ntop(socket.AF_INET6, near6), port)
            remote = SocketAddress("inet6", socket.inet_ntop(socket.AF_INET6, far6), far) if far or any(far6) else None
        elif family == AF_UNIX and self._unix:
            local, remote = self._unix_ends(address)
        # Without IP, a protocol's number means something else.
        shown = PROTOCOLS.get(protocol, str(protocol)) if family in (AF_INET, AF_INET6) else str(protocol)
        return Socket(FAMILIES.get(family, f"af_{family}"), TYPES.get(kind, str(kind)), shown, state, local, remote)

    def _unix_ends(self, address: int) -> tuple[SocketAddress, SocketAddress | None]:
        assert self._unix is not None  # noqa: S101  # for mypy: the caller looked
        name, peer = self._unix.read(self._space, address)
        remote = None
        if peer:
            other, _ = self._unix.read(self._space, peer)
            remote = self._unix_address(other)
        return self._unix_address(name), remote

    def _unix_address(self, address: int) -> SocketAddress:
        if not address:
            return SocketAddress("unix")
        length = self._space.read_uint(address + self._unix_length, 4)
        return sockaddr(self._space.read(address + self._unix_name, min(length, 2 + _SUN_PATH)))
