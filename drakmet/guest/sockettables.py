# SPDX-License-Identifier: GPL-2.0-or-later
"""All sockets the kernel has in its tables, whoever holds them: what ``ss`` and ``/proc/net`` show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from drakmet.errors import GuestError
from drakmet.guest.layout import Slice
from drakmet.guest.lists import buckets, chained, linked
from drakmet.guest.sockets import Socket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from drakmet.guest.kernel import Kernel
    from drakmet.guest.sockets import Sockets

# include/net/tcp_states.h; a socket without TCP uses established and close.
STATES: Final = (
    "unknown", "established", "syn_sent", "syn_recv", "fin_wait1", "fin_wait2", "time_wait", "close", "close_wait",
    "last_ack", "listen", "closing", "syn_recv", "bound",
)  # fmt: skip
_TIME_WAIT, _NEW_SYN_RECV = 6, 12
_UNIX_CHAINS: Final = 512  # 2 * UNIX_HASH_SIZE, include/net/af_unix.h
_RAW_CHAINS: Final = 256  # RAW_HTABLE_SIZE, include/net/raw.h


class TableSocket(msgspec.Struct, frozen=True):
    """A socket: ``inode`` is what ``/proc/PID/fd`` shows of it, None for one that no file leads to any more."""

    address: int
    socket: Socket
    state: str
    net_ns: int | None
    inode: int | None
    uid: int | None


class SocketTables:
    """Reads the tables of sockets of one kernel."""

    def __init__(self, kernel: Kernel, sockets: Sockets) -> None:
        types = self._types = kernel.profile.types
        self._kernel = kernel
        self._space = kernel.space
        self._sockets = sockets
        common = "__sk_common."
        self._node = types.offset("sock", common + "skc_node")
        self._state = types.offset("sock", common + "skc_state")
        self._family = types.offset("sock", common + "skc_family")
        self._net = types.offset("sock", common + "skc_net")
        self._inum = types.offset("net", "ns.inum")
        self._sk_socket = types.offset("sock", "sk_socket")
        self._sk_uid = types.offset("sock", "sk_uid") if types.has_field("sock", "sk_uid") else None
        inode = types.offset("socket_alloc", "vfs_inode") - types.offset("socket_alloc", "socket")
        self._substate = None
        if types.has_field("inet_timewait_sock", "tw_substate"):
            self._substate = types.field("inet_timewait_sock", "tw_substate")
        self._inode = inode + types.offset("inode", "i_ino")

    def describe(self, sock: int) -> TableSocket:
        """Return the ``struct sock`` at ``sock``; of one that waits for its end, or for its birth, what there is."""
        space = self._space
        state = space.read_uint(sock + self._state, 1)
        net = space.read_u64(sock + self._net)
        net_ns = space.read_uint(net + self._inum, 4) if net else None
        shown = STATES[state] if state < len(STATES) else str(state)
        if state in (_TIME_WAIT, _NEW_SYN_RECV) and space.read_uint(sock + self._family, 2) in (2, 10):
            if state == _TIME_WAIT and self._substate is not None:
                # FIN_WAIT2 is waited for in the same small structure.
                state = space.read_uint(sock + self._substate.offset, 1)
                shown = STATES[state] if state < len(STATES) else str(state)
            half = self._sockets.of_sock(sock)
            # Only the part that all kinds have in common is there; type and protocol are a TCP socket's.
            whole = Socket(half.family, "stream", "tcp", state, half.local, half.remote)
            return TableSocket(sock, whole, shown, net_ns, None, None)
        socket = space.read_u64(sock + self._sk_socket)
        uid = space.read_uint(sock + self._sk_uid, 4) if self._sk_uid is not None else None
        inode = space.read_u64(socket + self._inode) if socket else None
        return TableSocket(sock, self._sockets.of_sock(sock), shown, net_ns, inode, uid)

    def namespaces(self) -> Iterator[int]:
        """Yield the addresses of all ``struct net``."""
        offset = self._types.offset("net", "list")
        for node in linked(self._space, self._kernel.address("net_namespace_list")):
            yield node - offset

    def sources(self) -> Iterator[tuple[str, Callable[[], Iterator[int]]]]:
        """Yield each kind of table, and what gives the addresses of the ``struct sock`` in all tables of it."""
        yield "tcp", self._tcp
        yield "udp", self._udp
        yield "raw", self._raw
        yield "unix", self._unix

    def _per_net(self, name: str, path: str) -> list[int]:
        """Return the global table ``name`` and those that network namespaces have of their own."""
        found = self._kernel.find(name)
        tables = [] if found is None else [found]
        if self._types.has_field("net", path):
            offset = self._types.offset("net", path)
            for net in self.namespaces():
                own = self._space.read_u64(net + offset)
                if own and own not in tables:
                    tables.append(own)
        return tables

    def _chains(self, array: int, count: int, stride: int, offset: int = 0) -> Iterator[int]:
        for first in buckets(self._space, array, count, stride, offset):
            for node in chained(self._space, first):
                yield node - self._node

    def _tcp(self) -> Iterator[int]:
        types, space = self._types, self._space
        stride = types.size("inet_ehash_bucket")
        listen = types.size("inet_listen_hashbucket")
        head = types.offset("inet_listen_hashbucket", "nulls_head")
        table = Slice(types, "inet_hashinfo", "ehash", "ehash_mask")
        old = types.has_field("inet_hashinfo", "listening_hash")
        second = None if old else Slice(types, "inet_hashinfo", "lhash2", "lhash2_mask")
        for info in self._per_net("tcp_hashinfo", "ipv4.tcp_death_row.hashinfo"):
            array, mask = table.read(space, info)
            if second is None:  # up to Linux 5.18
                field = types.field("inet_hashinfo", "listening_hash")
                count = types.sizeof(field.type) // listen
                yield from self._chains(info + field.offset, count, listen, head)
            else:
                listeners, most = second.read(space, info)
                yield from self._chains(listeners, most + 1, listen, head)
            yield from self._chains(array, mask + 1, stride)

    def _udp(self) -> Iterator[int]:
        types = self._types
        table = Slice(types, "udp_table", "hash", "mask")
        stride = types.size("udp_hslot")
        tables = self._per_net("udp_table", "ipv4.udp_table")
        lite = self._kernel.find("udplite_table")
        for address in [*tables, *([lite] if lite is not None else [])]:
            array, mask = table.read(self._space, address)
            yield from self._chains(array, mask + 1, stride)

    def _raw(self) -> Iterator[int]:
        offset = self._types.offset("raw_hashinfo", "ht")
        for name in ("raw_v4_hashinfo", "raw_v6_hashinfo"):
            table = self._kernel.find(name)
            if table is not None:
                yield from self._chains(table + offset, _RAW_CHAINS, 8)

    def _unix(self) -> Iterator[int]:
        whole = self._kernel.find("unix_socket_table")
        if whole is not None:
            yield from self._chains(whole, _UNIX_CHAINS, 8)
            return
        if not self._types.has_field("net", "unx.table.buckets"):
            raise GuestError("the kernel keeps its unix sockets in a way that is not known")
        offset = self._types.offset("net", "unx.table.buckets")
        for net in self.namespaces():
            array = self._space.read_u64(net + offset)
            if array:
                yield from self._chains(array, _UNIX_CHAINS, 8)
