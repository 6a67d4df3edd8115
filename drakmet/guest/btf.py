# SPDX-License-Identifier: GPL-2.0-or-later
"""BTF, the kernel's own description of its types (layout: include/uapi/linux/btf.h, Linux 6.12).

Only an index of where each type starts is made at once; types are decoded when they are asked for.
Little-endian 64-bit kernels only.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING, Final, NamedTuple

from drakmet.errors import GuestError
from drakmet.guest import types as t

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAGIC: Final = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")  # magic, version, flags, hdr_len, type_off, type_len, str_off, str_len
HEADER_SIZE: Final = _HEADER.size

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF = range(1, 9)
VOLATILE, CONST, RESTRICT, FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(9, 20)

_FIXED = [0] * 32  # 32-bit words after the common three
for _kind, _count in ((INT, 1), (ARRAY, 3), (VAR, 1), (DECL_TAG, 1)):
    _FIXED[_kind] = _count
_EACH = [0] * 32  # 32-bit words for each of vlen
for _kind, _count in ((STRUCT, 3), (UNION, 3), (ENUM, 2), (FUNC_PROTO, 2), (DATASEC, 3), (ENUM64, 3)):
    _EACH[_kind] = _count
_TRANSPARENT: Final = frozenset({TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG})
_FOUND_BY_NAME: Final = frozenset({INT, STRUCT, UNION, ENUM, ENUM64, TYPEDEF, FUNC, FLOAT})
_KINDS: Final[dict[t.Kind, tuple[int, ...]]] = {
    "struct": (STRUCT,),
    "union": (UNION,),
    "enum": (ENUM, ENUM64),
    "typedef": (TYPEDEF,),
    "int": (INT, FLOAT),
    "function": (FUNC,),
}
_INT_SIGNED, _INT_CHAR, _INT_BOOL = 1, 2, 4
_MAX_CHAIN: Final = 64
_USUAL_STRING: Final = 64
MAX_TYPES: Final = 1 << 22


class Layout(NamedTuple):
    """Where the sections of a BTF blob lie, in bytes from its start."""

    types: int
    types_size: int
    strings: int
    strings_size: int

    @property
    def end(self) -> int:
        """One past the last byte of the blob."""
        return max(self.types + self.types_size, self.strings + self.strings_size)


def layout(header: bytes) -> Layout:
    """Return where the sections lie; ``header`` is at least the first 24 bytes of a blob."""
    if len(header) < HEADER_SIZE:
        raise GuestError("BTF is cut short")
    magic, version, _, size, type_off, type_len, str_off, str_len = _HEADER.unpack_from(header)
    if magic != MAGIC or version != 1 or size < HEADER_SIZE:
        raise GuestError(f"not BTF: magic {magic:#x}, version {version}")
    if type_off % 4 or size % 4:
        raise GuestError("BTF's types are not aligned")
    return Layout(size + type_off, type_len, size + str_off, str_len)


class Index(NamedTuple):
    """What is computed from a BTF blob once, and stored in a profile.

    ``starts`` is where each type starts, in 32-bit words from the start of the type section; entry 0 is void.
    ``hashes`` are the sorted CRC-32 of the names of types that are found by name, ``ids`` the types of these.
    """

    starts: Sequence[int]
    hashes: Sequence[int]
    ids: Sequence[int]


class Btf(t.Types):
    """The types of a kernel (or, with ``base``, of a module: split BTF)."""

    def __init__(self, data: bytes | memoryview, base: Btf | None = None, index: Index | None = None) -> None:
        super().__init__()
        view = memoryview(data).cast("B") if not isinstance(data, memoryview) else data
        where = layout(bytes(view[:HEADER_SIZE]))
        if where.end > len(view) or where.strings_size == 0:
            raise GuestError("BTF is cut short")
        self.data = view
        self.words = view[where.types : where.types + (where.types_size & ~3)].cast("I")
        # Not copied: it is mapped from a profile's file as a rule, and few of its pages are looked at.
        self._strings = view[where.strings : where.strings + where.strings_size]
        self._base = base
        self._first_id = base.count if base else 1
        self._first_string = base.string_size if base else 0
        self._decoded: dict[int, t.Type] = {}
        self.index = index if index is not None else self._make_index()
        if len(self.index.hashes) != len(self.index.ids) or not self.index.starts:
            raise GuestError("the stored index of BTF does not fit it")

    @property
    def count(self) -> int:
        """One past the highest type id."""
        return self._first_id + len(self.index.starts) - 1

    @property
    def string_size(self) -> int:
        """One past the highest string offset."""
        return self._first_string + len(self._strings)

    def _make_index(self) -> Index:
        words, fixed, each = self.words, _FIXED, _EACH
        starts = array("I", [0])
        named: list[tuple[int, int]] = []
        strings, first_string = bytes(self._strings), self._first_string
        position, end, ref = 0, len(words), self._first_id
        while position + 3 <= end:
            starts.append(position)
            info = words[position + 1]
            kind = info >> 24 & 31
            if kind == 0 or kind > ENUM64:
                raise GuestError(f"BTF type {ref} is of the unknown kind {kind}")
            name = words[position]
            if name and kind in _FOUND_BY_NAME and name >= first_string:
                start = name - first_string
                named.append((zlib.crc32(strings[start : strings.find(b"\0", start)]), ref))
            position += 3 + fixed[kind] + (info & 0xFFFF) * each[kind]
            ref += 1
        if position != end or len(starts) > MAX_TYPES:
            raise GuestError("the last BTF type is cut short")
        named.sort()
        return Index(starts, array("I", [one[0] for one in named]), array("I", [one[1] for one in named]))

    def start_of(self, ref: int) -> int:
        """Return where type ``ref`` of this blob starts in ``words``; all its words are there."""
        position = ref - self._first_id + 1
        if not 0 < position < len(self.index.starts):
            raise GuestError(f"BTF has no type {ref}")
        start = self.index.starts[position]
        words = self.words
        if start + 3 > len(words):
            raise GuestError(f"BTF type {ref} is cut short")
        info = words[start + 1]
        kind = info >> 24 & 31
        if start + 3 + _FIXED[kind] + (info & 0xFFFF) * _EACH[kind] > len(words):
            raise GuestError(f"BTF type {ref} is cut short")
        return start

    def _owner(self, ref: int) -> Btf:
        owner = self
        while owner._base is not None and ref < owner._first_id:
            owner = owner._base
        return owner

    def string(self, offset: int) -> str:
        """Return the string at ``offset`` of the string section."""
        if offset < self._first_string and self._base is not None:
            return self._base.string(offset)
        start = offset - self._first_string
        for length in (_USUAL_STRING, len(self._strings)) if start >= 0 else ():
            raw = bytes(self._strings[start : start + length])
            end = raw.find(b"\0")
            if end >= 0:
                return raw[:end].decode("utf-8", "surrogateescape")
        raise GuestError(f"BTF has no string at {offset}")

    def resolve(self, ref: int) -> t.Type:
        """Return the type behind ``ref``, typedefs and qualifiers removed."""
        known = self._decoded.get(ref)
        if known is None:
            known = self._decoded[ref] = self._resolve(ref)
        return known

    def _resolve(self, ref: int) -> t.Type:
        for _ in range(_MAX_CHAIN):
            if ref == 0:
                return t.Void()
            owner = self._owner(ref)
            start = owner.start_of(ref)
            words = owner.words
            kind = words[start + 1] >> 24 & 31
            if kind not in _TRANSPARENT:
                return self._decode(owner, start, kind)
            ref = words[start + 2]
        raise GuestError(f"BTF type {ref} is a typedef of itself")

    def _decode(self, owner: Btf, start: int, kind: int) -> t.Type:
        words = owner.words
        name_offset, info, size = words[start], words[start + 1], words[start + 2]
        count = info & 0xFFFF
        flag = bool(info >> 31)
        name = self.string(name_offset) if name_offset else ""
        if kind == PTR:
            return t.Pointer(size)
        if kind == INT:
            encoding = words[start + 3] >> 24 & 15
            # pahole leaves the char bit out: a char is known by its name.
            char = bool(encoding & _INT_CHAR) or (size == 1 and name in ("char", "signed char", "unsigned char"))
            what = "bool" if encoding & _INT_BOOL else "char" if char else "int"
            return t.Int(name, size, bool(encoding & _INT_SIGNED), what)  # type: ignore[arg-type]  # one of three
        if kind == FLOAT:
            return t.Int(name, size, signed=True, kind="float")
        if kind == ARRAY:
            return t.Array(words[start + 3], words[start + 5])
        if kind in (STRUCT, UNION):
            return self._decode_struct(words, start, name, flag)
        if kind == ENUM:
            pairs = words[start + 3 : start + 3 + 2 * count].tolist()
            sign = 1 << 31 if flag else 0
            values = {self.string(n): (v ^ sign) - sign for n, v in zip(pairs[::2], pairs[1::2], strict=True)}
            return t.Enum(name, size, flag, values)
        if kind == ENUM64:
            values = {}
            for at in range(start + 3, start + 3 + 3 * count, 3):
                value = words[at + 1] | words[at + 2] << 32
                values[self.string(words[at])] = value - (1 << 64) if flag and value >> 63 else value
            return t.Enum(name, size, flag, values)
        if kind == FUNC:
            return self._decode_function(name, size)
        if kind == FUNC_PROTO:
            return self._decode_proto(owner, start, "")
        return t.Void(name)  # FWD, VAR, DATASEC, DECL_TAG: nothing that can be read

    def _decode_struct(self, words: memoryview, start: int, name: str, bitfields: bool) -> t.Struct:
        count = words[start + 1] & 0xFFFF
        members = []
        for at in range(start + 3, start + 3 + 3 * count, 3):
            offset, bits = words[at + 2], 0
            if bitfields:
                offset, bits = offset & 0xFFFFFF, offset >> 24
            members.append(t.Member(self.string(words[at]), offset, bits, words[at + 1]))
        kind = words[start + 1] >> 24 & 31
        return t.Struct(name, "struct" if kind == STRUCT else "union", words[start + 2], tuple(members))

    def _decode_function(self, name: str, proto: int) -> t.Function:
        owner = self._owner(proto)
        start = owner.start_of(proto)
        if owner.words[start + 1] >> 24 & 31 != FUNC_PROTO:
            raise GuestError(f"BTF function {name} has no prototype")
        return self._decode_proto(owner, start, name)

    def _decode_proto(self, owner: Btf, start: int, name: str) -> t.Function:
        words = owner.words
        count = words[start + 1] & 0xFFFF
        parameters = [
            t.Parameter(self.string(words[at]), words[at + 1])
            for at in range(start + 3, start + 3 + 2 * count, 2)
            if words[at] or words[at + 1]  # both 0: "...", of variadic functions
        ]
        return t.Function(name, tuple(parameters), words[start + 2])

    def _matches(self, name: str) -> Iterator[tuple[int, int]]:
        raw = name.encode("utf-8", "surrogateescape")
        wanted = zlib.crc32(raw)
        hashes, ids = self.index.hashes, self.index.ids
        at = bisect_left(hashes, wanted)
        while at < len(hashes) and hashes[at] == wanted:
            ref = ids[at]
            start = self.start_of(ref)
            text = self.words[start] - self._first_string
            if self._strings[text : text + len(raw) + 1] == raw + b"\0":
                yield ref, self.words[start + 1] >> 24 & 31
            at += 1

    def find(self, name: str, *kinds: t.Kind) -> int | None:
        """Return the type called ``name`` of one of ``kinds``."""
        wanted = [number for kind in kinds for number in _KINDS[kind]]
        for ref, kind in self._matches(name):
            if kind in wanted:
                return ref
        return self._base.find(name, *kinds) if self._base is not None else None

    def function(self, name: str) -> t.Function | None:
        """Return the prototype of the kernel function ``name``."""
        ref = self.find(name, "function")
        kind = self.resolve(ref) if ref is not None else None
        if not isinstance(kind, t.Function):
            return None
        self.touched_functions.add(name)
        return kind

    def names(self, kind: t.Kind) -> Iterator[str]:
        """Yield the names of all types of ``kind``."""
        if self._base is not None:
            yield from self._base.names(kind)
        wanted = _KINDS[kind]
        words = self.words
        for start in self.index.starts[1:]:
            if words[start + 1] >> 24 & 31 in wanted and words[start]:
                yield self.string(words[start])
