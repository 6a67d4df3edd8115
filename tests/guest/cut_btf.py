# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes BTF: a kernel's own, cut down to the types that were touched, in the place of the whole.

A whole BTF section is a megabyte compressed; the fixtures need a hundredth of it. Types keep their layout; a
struct that nobody looked into becomes one without members, or a forward declaration behind a pointer.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from drakmet.guest import btf
from drakmet.guest import types as t

if TYPE_CHECKING:
    from drakmet.guest.kernel import Kernel


class Writer:
    """Encodes types (include/uapi/linux/btf.h)."""

    def __init__(self) -> None:
        self.strings = bytearray(b"\0")
        self.known_strings: dict[str, int] = {"": 0}
        self.records: list[bytes] = []

    def string(self, text: str) -> int:
        if text not in self.known_strings:
            self.known_strings[text] = len(self.strings)
            self.strings += text.encode("utf-8", "surrogateescape") + b"\0"
        return self.known_strings[text]

    def reserve(self) -> int:
        self.records.append(b"")
        return len(self.records)

    def put(self, ref: int, name: str, kind: int, size: int, *rest: int, count: int = 0, flag: bool = False) -> int:
        info = count | kind << 24 | (1 << 31 if flag else 0)
        words = [one & 0xFFFF_FFFF for one in (self.string(name), info, size, *rest)]
        self.records[ref - 1] = struct.pack(f"<{len(words)}I", *words)
        return ref

    def blob(self) -> bytes:
        types = b"".join(self.records)
        header = struct.pack("<HBBIIIII", btf.MAGIC, 1, 0, 24, 0, len(types), len(types), len(self.strings))
        return header + types + bytes(self.strings)


class Cutter:
    """Copies types from one `t.Types` to a `Writer`."""

    def __init__(self, source: t.Types) -> None:
        self.source = source
        self.writer = Writer()
        self.copied: dict[tuple[int, bool], int] = {}
        self.alive: list[t.Type] = []
        self.wanted = {
            kind.name
            for kind in (source.resolve(ref) for ref in (*source.touched, *source.touched_types))
            if isinstance(kind, t.Struct)
        } - {""}

    def copy(self, ref: int, *, behind_pointer: bool = False) -> int:
        kind = self.source.resolve(ref)
        if isinstance(kind, t.Void):
            return 0
        # Types of the same content are one: BTF has a struct once, whatever typedefs lead to it.
        bare = isinstance(kind, t.Struct) and bool(kind.name) and kind.name not in self.wanted
        key = (id(kind) if not isinstance(kind, t.Enum) else hash((kind.name, *kind.values)), bare and behind_pointer)
        if key in self.copied:
            return self.copied[key]
        new = self.copied[key] = self.writer.reserve()
        self.alive.append(kind)  # its id() is a key
        put = self.writer.put
        if isinstance(kind, t.Int):
            code = (1 if kind.signed else 0) | (4 if kind.kind == "bool" else 0)
            if kind.kind == "float":
                return put(new, kind.name, btf.FLOAT, kind.size)
            return put(new, kind.name, btf.INT, kind.size, code << 24 | 8 * kind.size)
        if isinstance(kind, t.Pointer):
            return put(new, "", btf.PTR, self.copy(kind.target, behind_pointer=True))
        if isinstance(kind, t.Array):
            return put(new, "", btf.ARRAY, 0, self.copy(kind.element), 0, kind.count)
        if isinstance(kind, t.Enum):
            pairs = [word for name, value in kind.values.items() for word in (self.writer.string(name), value)]
            return put(new, kind.name, btf.ENUM, kind.size, *pairs, count=len(kind.values), flag=kind.signed)
        if isinstance(kind, t.Function):
            words = [word for one in kind.parameters for word in (self.writer.string(one.name), self.copy(one.type))]
            proto = put(new, "", btf.FUNC_PROTO, self.copy(kind.result), *words, count=len(kind.parameters))
            return put(self.writer.reserve(), kind.name, btf.FUNC, proto) if kind.name else proto
        code = btf.STRUCT if kind.kind == "struct" else btf.UNION
        if bare and behind_pointer:
            return put(new, kind.name, btf.FWD, 0, flag=kind.kind == "union")
        members: list[int] = []
        for one in () if bare else kind.members:
            offset = one.bit_offset | one.bits << 24
            members += [self.writer.string(one.name), self.copy(one.type), offset]
        return put(new, kind.name, code, kind.size, *members, count=len(members) // 3, flag=True)


def cut_types(source: t.Types) -> bytes:
    """Return BTF of what was touched of ``source``."""
    cutter = Cutter(source)
    for ref in sorted({*source.touched, *source.touched_types}):
        cutter.copy(ref)
    for name in sorted(source.touched_functions):
        function = source.find(name, "function")
        assert function is not None
        cutter.copy(function)
    return cutter.writer.blob()


def cut(kernel: Kernel, pages: dict[int, bytes]) -> dict[int, bytes]:
    """Return the pages of the kernel's BTF section, holding only what was touched and then zeros."""
    symbols = kernel.profile.symbols
    text = symbols["_text"]
    start, stop = (kernel.base + symbols[name] - text for name in ("__start_BTF", "__stop_BTF"))
    blob = cut_types(kernel.profile.types)
    assert len(blob) <= stop - start
    first, last = start >> 12, (stop - 1) >> 12
    whole = bytearray(b"".join(kernel.memory.read(gfn << 12, 4096) for gfn in range(first, last + 1)))
    at = start - (first << 12)
    whole[at : at + stop - start] = blob.ljust(stop - start, b"\0")
    return {gfn: bytes(whole[(gfn - first) << 12 :][:4096]) for gfn in range(first, last + 1)}
