# SPDX-License-Identifier: GPL-2.0-or-later
"""Members of a kernel struct that are read together, with one read and one unpack."""

from __future__ import annotations

import struct
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from drakmet.errors import GuestError
from drakmet.guest import types as t

if TYPE_CHECKING:
    from collections.abc import Callable

    from drakmet.guest.paging import AddressSpace

_UNSIGNED = {1: "B", 2: "H", 4: "I", 8: "Q"}
_MAX_SPAN = 1 << 16


def code(types: t.Types, ref: t.Ref) -> str:
    """Return the `struct` code of a member: a number, or the bytes of an array or struct."""
    kind = types.resolve(ref)
    size = types.sizeof(ref)
    if isinstance(kind, t.Struct) and size in _UNSIGNED and len(kind.members) == 1:
        return code(types, kind.members[0].type)  # kuid_t, atomic_t and their like: a number in a struct
    if isinstance(kind, t.Array | t.Struct):
        return f"{size}s"
    letter = _UNSIGNED.get(size)
    if letter is None:
        raise GuestError(f"cannot read a {types.describe(ref)}")
    signed = isinstance(kind, t.Int | t.Enum) and kind.signed
    return letter.lower() if signed else letter


class Slice:
    """The members ``paths`` of ``struct_name``; `read` returns their values in that order.

    Numbers come as int, arrays and structs as bytes. ``unpack`` and ``unpack_from`` are for the `length` bytes from
    `start` on and give the values in the order of memory. `GuestError` if the kernel lacks one of them.
    """

    def __init__(self, types: t.Types, struct_name: str, *paths: str) -> None:
        fields = [(types.field(struct_name, path), path, i) for i, path in enumerate(paths)]
        fields.sort(key=lambda one: one[0].offset)
        self.start = at = fields[0][0].offset
        parts = ["<"]
        order = [0] * len(fields)
        for position, (field, path, i) in enumerate(fields):
            if field.bits or field.offset < at:
                raise GuestError(f"{struct_name}.{path} cannot be read together with its neighbours")
            letter = code(types, field.type)
            parts.append(f"{field.offset - at}x{letter}")
            at = field.offset + struct.calcsize("<" + letter)
            order[i] = position
        self.length = at - self.start
        if self.length > _MAX_SPAN:
            raise GuestError(f"{struct_name}: its members are too far apart")
        self.names = tuple(path for _, path, _ in fields)
        """The members in the order of memory."""
        packed = struct.Struct("".join(parts))
        self.unpack: Callable[[bytes], tuple[Any, ...]] = packed.unpack
        self.unpack_from: Callable[..., tuple[Any, ...]] = packed.unpack_from
        self._order = itemgetter(*order) if order != sorted(order) else None

    def ordered(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return what `unpack` or `unpack_from` gave in the order of the members that were asked for."""
        return self._order(values) if self._order else values

    def read(self, space: AddressSpace, address: int) -> tuple[Any, ...]:
        """Return the values of the members of the struct at ``address``."""
        values = self.unpack(space.read(address + self.start, self.length))
        return self._order(values) if self._order else values


def uint(types: t.Types, struct_name: str, *paths: str) -> tuple[int, int] | None:
    """Return ``(offset, size)`` of the first of ``paths`` that the kernel has, for names that changed."""
    for path in paths:
        if types.has_field(struct_name, path):
            field = types.field(struct_name, path)
            return field.offset, types.sizeof(field.type)
    return None


def first(types: t.Types, struct_name: str, *paths: str) -> str:
    """Return the first of ``paths`` that the kernel has; `GuestError` if it has none."""
    for path in paths:
        if types.has_field(struct_name, path):
            return path
    raise GuestError(f"struct {struct_name} has no {' nor '.join(paths)}")
