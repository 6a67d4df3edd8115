# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own containers: lists, hash chains and trees, each with a bound and an end to every circle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drakmet.guest.memory import PAGE_SIZE, Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.guest.paging import AddressSpace
    from drakmet.guest.types import Types

MAX_NODES: Final = 1 << 20
_MAX_BUCKETS: Final = 1 << 22


def linked(space: AddressSpace, head: int) -> Iterator[int]:
    """Yield the nodes of the ``struct list_head`` at ``head``; `Unreadable` after what was sound if it is damaged."""
    seen = {head}
    at = space.read_u64(head)
    while at != head:
        if at in seen:
            raise Unreadable("a list runs in a circle")
        if len(seen) > MAX_NODES:
            raise Unreadable(f"a list of more than {MAX_NODES} members")
        seen.add(at)
        yield at
        at = space.read_u64(at)


def chained(space: AddressSpace, first: int) -> Iterator[int]:
    """Yield the nodes of a hash chain that begins with the node ``first``; an odd pointer ends it (list_nulls.h)."""
    seen: set[int] = set()
    at = first
    while at and not at & 1:
        if at in seen or len(seen) > MAX_NODES:
            raise Unreadable("a hash chain runs in a circle" if at in seen else "a hash chain without an end")
        seen.add(at)
        yield at
        at = space.read_u64(at)


def buckets(space: AddressSpace, array: int, count: int, stride: int, offset: int) -> Iterator[int]:
    """Yield the first node of each chain of a hash table that has any: ``count`` heads, ``stride`` bytes apart."""
    if not 0 < count <= _MAX_BUCKETS or stride < 8:
        raise Unreadable(f"a hash table of {count} chains")
    together = max(1, PAGE_SIZE // stride)
    for start in range(0, count, together):
        step = min(together, count - start)
        data = space.read(array + start * stride, step * stride)
        for index in range(step):
            at = index * stride + offset
            first = int.from_bytes(data[at : at + 8], "little")
            if first and not first & 1:
                yield first


class Trees:
    """Reads red-black trees (rbtree.h)."""

    def __init__(self, space: AddressSpace, types: Types) -> None:
        self._space = space
        self._left = types.offset("rb_node", "rb_left")
        self._right = types.offset("rb_node", "rb_right")

    def nodes(self, root: int) -> Iterator[int]:
        """Yield the nodes below the node ``root`` (0: none) in their order."""
        seen: set[int] = set()
        path: list[int] = []
        at = root
        while at or path:
            while at:
                if at in seen or len(seen) > MAX_NODES:
                    raise Unreadable("a tree runs in a circle" if at in seen else "a tree without an end")
                seen.add(at)
                path.append(at)
                at = self._space.read_u64(at + self._left)
            at = path.pop()
            yield at
            at = self._space.read_u64(at + self._right)
