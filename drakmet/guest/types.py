# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest kernel's types, whatever told them (BTF, an ISF file): one small model and its look-ups."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from drakmet.errors import GuestError

if TYPE_CHECKING:
    from collections.abc import Iterable

POINTER_SIZE = 8
_MAX_DEPTH = 32  # of nested anonymous members, arrays of arrays, typedefs of typedefs

Ref: TypeAlias = int
"""Names a type within one `Types`; 0 is ``void``."""


class Void(msgspec.Struct, frozen=True):
    """``void``, or a type of which only the name is known."""

    name: str = "void"


class Int(msgspec.Struct, frozen=True):
    """An integer (or a floating point number, which nobody decodes: ``kind`` tells)."""

    name: str
    size: int
    signed: bool
    kind: Literal["int", "char", "bool", "float"] = "int"


class Pointer(msgspec.Struct, frozen=True):
    """A pointer to ``target``."""

    target: Ref


class Array(msgspec.Struct, frozen=True):
    """``count`` elements; 0 for a flexible array."""

    element: Ref
    count: int


class Enum(msgspec.Struct, frozen=True):
    """An enumeration; ``values`` as the kernel names them."""

    name: str
    size: int
    signed: bool
    values: dict[str, int]


class Member(msgspec.Struct, frozen=True):
    """A member of a struct or union; ``bits`` is 0 for one that is no bitfield."""

    name: str
    bit_offset: int
    bits: int
    type: Ref


class Struct(msgspec.Struct, frozen=True):
    """A struct or union; ``size`` in bytes."""

    name: str
    kind: Literal["struct", "union"]
    size: int
    members: tuple[Member, ...]


class Parameter(msgspec.Struct, frozen=True):
    """A parameter of a function; its name may be empty."""

    name: str
    type: Ref


class Function(msgspec.Struct, frozen=True):
    """A function's prototype."""

    name: str
    parameters: tuple[Parameter, ...]
    result: Ref


class Field(msgspec.Struct, frozen=True):
    """Where a member lies from the start of a struct, anonymous and embedded ones followed.

    ``offset`` in bytes; for a bitfield, ``bits`` bits from bit ``shift`` of the little-endian number there.
    """

    offset: int
    type: Ref
    bits: int = 0
    shift: int = 0


Type: TypeAlias = Void | Int | Pointer | Array | Enum | Struct | Function
Kind: TypeAlias = Literal["struct", "union", "enum", "typedef", "int", "function"]


class Types(ABC):
    """The types of one kernel. What is asked twice is remembered.

    What was asked for is noted (``touched``), so that a recording can keep just that.
    """

    def __init__(self) -> None:
        self._flat: dict[Ref, dict[str, Field]] = {}
        self.touched: dict[Ref, set[str]] = {}
        self.touched_types: set[Ref] = set()
        self.touched_functions: set[str] = set()

    @abstractmethod
    def resolve(self, ref: Ref) -> Type:
        """Return the type behind ``ref``, typedefs and qualifiers removed; `GuestError` if there is none."""

    @abstractmethod
    def find(self, name: str, *kinds: Kind) -> Ref | None:
        """Return the type called ``name`` (a definition, not a forward declaration) of one of ``kinds``."""

    @abstractmethod
    def function(self, name: str) -> Function | None:
        """Return the prototype of the kernel function ``name``, if it is told."""

    @abstractmethod
    def names(self, kind: Kind) -> Iterable[str]:
        """Yield the names of all types of ``kind``; slow, for suggestions."""

    def struct(self, name: str) -> Ref:
        """Return the struct or union called ``name``; `GuestError` with near names if there is none."""
        ref = self.find(name, "struct", "union")
        if ref is None:
            close = nearest(name, self.names("struct"))
            raise GuestError(f"the kernel has no struct {name}", hint=close)
        self.touched_types.add(ref)
        return ref

    def has_field(self, struct: str, path: str) -> bool:
        """Tell whether ``struct`` exists and has the member ``path``."""
        ref = self.find(struct, "struct", "union")
        if ref is None:
            return False
        try:
            return self._reach(ref, path) is not None
        except GuestError:
            return False

    def field(self, struct: str, path: str) -> Field:
        """Return where ``path`` (``a``, ``a.b.c``) lies in ``struct``; `GuestError` with near names."""
        return self.walk(self.struct(struct), path)

    def offset(self, struct: str, path: str) -> int:
        """Return the byte offset of ``path`` in ``struct``."""
        return self.field(struct, path).offset

    def walk(self, ref: Ref, path: str) -> Field:
        """Return where ``path`` lies from the start of the struct ``ref``; `GuestError` with near names."""
        found = self._reach(ref, path)
        if found is not None:
            return found
        for part in path.split("."):
            members = self.members(ref)
            if part not in members:
                raise GuestError(f"{self.describe(ref)} has no member {part}", hint=nearest(part, members))
            ref = members[part].type
        raise GuestError("an empty member name")

    def _reach(self, ref: Ref, path: str) -> Field | None:
        """Return the same, or None where a member is missing: looking for near names is slow."""
        offset = 0
        found: Field | None = None
        for part in path.split("."):
            found = self.members(ref).get(part)
            if found is None:
                return None
            self.touched.setdefault(ref, set()).add(part)
            offset += found.offset
            ref = found.type
        return found and Field(offset, found.type, found.bits, found.shift)

    def members(self, ref: Ref) -> dict[str, Field]:
        """Return all members of a struct by name, those of anonymous members among them."""
        known = self._flat.get(ref)
        if known is None:
            known = {}
            self._flatten(ref, 0, known, 0)
            self._flat[ref] = known
        return known

    def _flatten(self, ref: Ref, base: int, into: dict[str, Field], depth: int) -> None:
        kind = self.resolve(ref)
        if not isinstance(kind, Struct):
            raise GuestError(f"{self.describe(ref)} has no members")
        if depth > _MAX_DEPTH:
            raise GuestError("anonymous members are nested too deep", where=kind.name)
        for member in kind.members:
            bits = base + member.bit_offset
            if not member.name:
                if isinstance(self.resolve(member.type), Struct):
                    self._flatten(member.type, bits, into, depth + 1)
                continue
            if member.bits:
                # Read no byte beyond the member's own: the struct may end a page.
                into.setdefault(member.name, Field(bits // 8, member.type, member.bits, bits % 8))
            else:
                into.setdefault(member.name, Field(bits // 8, member.type))

    def sizeof(self, ref: Ref, depth: int = 0) -> int:
        """Return the size of a type in bytes; 0 for void, functions and flexible arrays."""
        kind = self.resolve(ref)
        if isinstance(kind, Int | Enum | Struct):
            return kind.size
        if isinstance(kind, Pointer):
            return POINTER_SIZE
        if isinstance(kind, Array) and depth < _MAX_DEPTH:
            return kind.count * self.sizeof(kind.element, depth + 1)
        return 0

    def size(self, struct: str) -> int:
        """Return the size of the struct called ``struct`` in bytes."""
        return self.sizeof(self.struct(struct))

    def enum(self, name: str) -> dict[str, int]:
        """Return the values of the enum called ``name``; `GuestError` if there is none."""
        ref = self.find(name, "enum")
        kind = self.resolve(ref) if ref is not None else None
        if ref is None or not isinstance(kind, Enum):
            raise GuestError(f"the kernel has no enum {name}", hint=nearest(name, self.names("enum")))
        self.touched_types.add(ref)
        return kind.values

    def describe(self, ref: Ref) -> str:
        """Return the type in C's words, for messages."""
        stars = ""
        for _ in range(_MAX_DEPTH):
            kind = self.resolve(ref)
            if isinstance(kind, Pointer):
                stars += "*"
                ref = kind.target
            elif isinstance(kind, Array):
                stars = f"[{kind.count or ''}]{stars}"
                ref = kind.element
            elif isinstance(kind, Struct):
                return f"{kind.kind} {kind.name or '(anonymous)'}{' ' if stars else ''}{stars}"
            elif isinstance(kind, Enum):
                return f"enum {kind.name or '(anonymous)'}{' ' if stars else ''}{stars}"
            else:
                return f"{kind.name or '(anonymous)'}{' ' if stars else ''}{stars}"
        return "a type nested too deep"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return ``did you mean ...?`` over ``names``, or None if nothing is near."""
    import difflib  # only when something is wrong: it is slow to load

    close = difflib.get_close_matches(name, list(names), n=3, cutoff=0.7)
    return f"did you mean {' or '.join(close)}?" if close else None
