# SPDX-License-Identifier: GPL-2.0-or-later
"""ISF, Volatility 3's JSON of a kernel's types and symbols (its schema 6.2), as a source and as a form to write.

Beside what the schema has, drakmet keeps prototypes of functions under ``functions``: ISF has no place for them.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import TYPE_CHECKING, Any, Final

import msgspec

from drakmet.errors import GuestError, UsageError
from drakmet.guest import types as t
from drakmet.guest.symbols import KERNEL_HALF, Symbols

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Json = dict[str, Any]

MAX_FILE: Final = 256 << 20
_VOID: Final[Json] = {"kind": "base", "name": "void"}
_MAX_DEPTH: Final = 64
_U64: Final = (1 << 64) - 1


def load(path: Path) -> Json:
    """Return the JSON of an ISF file, which may be compressed by xz or gzip; `UsageError` names what is wrong."""
    import lzma  # only here: a Python without it can still watch guests

    try:
        raw = path.read_bytes()
        if raw.startswith(b"\xfd7zXZ"):
            raw = lzma.LZMADecompressor().decompress(raw, MAX_FILE)
        elif raw.startswith(b"\x1f\x8b"):
            raw = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(raw, MAX_FILE)
        data = msgspec.json.decode(raw)
    except (OSError, lzma.LZMAError, zlib.error, msgspec.DecodeError, RecursionError) as error:
        raise UsageError(f"cannot read the ISF file: {error}", where=str(path)) from error
    check(data, str(path))
    return data  # type: ignore[no-any-return]  # checked to be a dict


def check(data: object, where: str) -> None:
    """Raise `UsageError` if ``data`` is not what an ISF file holds."""
    if not isinstance(data, dict) or not all(
        isinstance(data.get(key), dict) for key in ("base_types", "user_types", "symbols")
    ):
        raise UsageError(
            "not an ISF file: it needs base_types, user_types and symbols", where=where, hint="make one with dwarf2json"
        )


def symbols(data: Json) -> Symbols:
    """Return the symbols of an ISF file; those whose address is no number are left out."""
    rows = []
    for name, entry in data["symbols"].items():
        address = entry.get("address") if isinstance(entry, dict) else None
        if isinstance(address, int) and not isinstance(address, bool):
            rows.append((address & _U64, str(entry.get("nm", "?"))[:1], name))
    return Symbols.of(rows)


def banner(data: Json) -> str:
    """Return the kernel's banner as the file has it, or an empty string."""
    entry = data["symbols"].get("linux_banner")
    text = entry.get("constant_data") if isinstance(entry, dict) else None
    try:
        return base64.b64decode(text or "", validate=True).rstrip(b"\0\n").decode("utf-8", "surrogateescape")
    except (binascii.Error, ValueError, TypeError):
        return ""


class IsfTypes(t.Types):
    """The types of an ISF file."""

    def __init__(self, data: Json) -> None:
        super().__init__()
        self._base: Json = data["base_types"]
        self._user: Json = data["user_types"]
        self._enums: Json = _dict(data.get("enums"))
        self._functions: Json = _dict(data.get("functions"))
        # A Ref is a position here; each descriptor of the file has one once it was met.
        self._descriptors: list[Json] = [_VOID]
        self._refs: dict[int, t.Ref] = {id(_VOID): 0}
        self._named: dict[tuple[str, str], t.Ref] = {}
        self._resolved: dict[t.Ref, t.Type] = {0: t.Void()}

    def _ref(self, descriptor: object) -> t.Ref:
        if not isinstance(descriptor, dict):
            return 0
        ref = self._refs.get(id(descriptor))
        if ref is None:
            ref = self._refs[id(descriptor)] = len(self._descriptors)
            self._descriptors.append(descriptor)
        return ref

    def resolve(self, ref: t.Ref) -> t.Type:
        """Return the type behind ``ref``."""
        known = self._resolved.get(ref)
        if known is None:
            if not 0 <= ref < len(self._descriptors):
                raise GuestError(f"the ISF file has no type {ref}")
            known = self._resolved[ref] = self._decode(self._descriptors[ref])
        return known

    def _decode(self, descriptor: Json) -> t.Type:
        kind, name = descriptor.get("kind"), str(descriptor.get("name", ""))
        if kind == "pointer":
            return t.Pointer(self._ref(descriptor.get("subtype")))
        if kind == "array":
            return t.Array(self._ref(descriptor.get("subtype")), _int(descriptor.get("count")))
        if kind in ("struct", "union", "class"):
            return self._decode_struct(name)
        if kind == "enum":
            return self._decode_enum(name)
        if kind == "base":
            entry = _dict(self._base.get(name))
            size = _int(entry.get("size"))
            what = entry.get("kind", "int")
            if name == "void" or not size:
                return t.Void(name)
            return t.Int(name, size, bool(entry.get("signed")), what if what in ("char", "bool", "float") else "int")
        return t.Void(str(kind))

    def _decode_struct(self, name: str) -> t.Type:
        entry = self._user.get(name)
        if not isinstance(entry, dict):
            return t.Void(f"struct {name}")
        members = []
        for member, field in _dict(entry.get("fields")).items():
            if not isinstance(field, dict):
                continue
            descriptor = _dict(field.get("type"))
            bit_offset, bits = 8 * _int(field.get("offset")), 0
            if descriptor.get("kind") == "bitfield":
                bits = _int(descriptor.get("bit_length"))
                bit_offset += _int(descriptor.get("bit_position"))
                descriptor = _dict(descriptor.get("type"))
            anonymous = bool(field.get("anonymous"))
            members.append(t.Member("" if anonymous else member, bit_offset, bits, self._ref(descriptor)))
        kind = "union" if entry.get("kind") == "union" else "struct"
        shown = "" if name.startswith("unnamed_") else name
        return t.Struct(shown, kind, _int(entry.get("size")), tuple(members))  # type: ignore[arg-type]  # one of two

    def _decode_enum(self, name: str) -> t.Type:
        entry = self._enums.get(name)
        if not isinstance(entry, dict):
            return t.Void(f"enum {name}")
        values = {str(one): value for one, value in _dict(entry.get("constants")).items() if isinstance(value, int)}
        base = _dict(self._base.get(str(entry.get("base", ""))))
        return t.Enum(name, _int(entry.get("size")), bool(base.get("signed")), values)

    def find(self, name: str, *kinds: t.Kind) -> t.Ref | None:
        """Return the type called ``name`` of one of ``kinds``; ISF has no typedefs."""
        for kind in kinds:
            known = self._named.get((kind, name))
            if known is not None:
                return known
            held = {"struct": self._user, "union": self._user, "enum": self._enums, "int": self._base}.get(kind, {})
            entry = held.get(name)
            if not isinstance(entry, dict):
                continue
            if held is self._user and (entry.get("kind") == "union") != (kind == "union"):
                continue
            ref = self._named[kind, name] = self._ref({"kind": "base" if kind == "int" else kind, "name": name})
            return ref
        return None

    def function(self, name: str) -> t.Function | None:
        """Return the prototype of ``name``: only files that drakmet wrote have any."""
        entry = self._functions.get(name)
        if not isinstance(entry, dict):
            return None
        parameters = tuple(
            t.Parameter(str(one[0]), self._ref(one[1]))
            for one in entry.get("parameters") or []
            if isinstance(one, list) and len(one) == 2
        )
        return t.Function(name, parameters, self._ref(entry.get("result")))

    def names(self, kind: t.Kind) -> Iterator[str]:
        """Yield the names of all types of ``kind``."""
        if kind in ("struct", "union"):
            yield from (
                one for one, entry in self._user.items() if (_dict(entry).get("kind") == "union") == (kind == "union")
            )
        else:
            yield from {"enum": self._enums, "int": self._base, "function": self._functions}.get(kind, {})


def _dict(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _int(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 1 << 48 else 0


class _Writer:
    """Writes what of a `types.Types` was touched."""

    def __init__(self, source: t.Types) -> None:
        self.source = source
        self.base: Json = {"pointer": {"size": 8, "signed": False, "kind": "int", "endian": "little"}}
        self.user: Json = {}
        self.enums: Json = {}
        self._labels: dict[str, t.Struct | t.Enum] = {}

    def _label(self, kind: t.Struct | t.Enum, ref: t.Ref) -> str:
        name = kind.name or f"unnamed_{ref}"
        while self._labels.setdefault(name, kind) != kind:  # two different types of one name
            name += "_"
        return name

    def descriptor(self, ref: t.Ref, depth: int = 0) -> Json:
        kind = self.source.resolve(ref)
        if depth > _MAX_DEPTH:
            return _VOID
        if isinstance(kind, t.Pointer):
            return {"kind": "pointer", "subtype": self.descriptor(kind.target, depth + 1)}
        if isinstance(kind, t.Array):
            return {"kind": "array", "count": kind.count, "subtype": self.descriptor(kind.element, depth + 1)}
        if isinstance(kind, t.Struct):
            name = self._label(kind, ref)
            if name not in self.user:
                self.user[name] = {"kind": kind.kind, "size": kind.size, "fields": {}}
                if len(kind.members) == 1 and kind.size <= 8 and kind.members[0].name:
                    # A number in a struct (kuid_t, atomic_t): readers see through it without asking for its member.
                    member = kind.members[0].name
                    self.field(ref, member, self.source.members(ref)[member])
            return {"kind": kind.kind, "name": name}
        if isinstance(kind, t.Enum):
            name = self._label(kind, ref)
            base = f"{'int' if kind.signed else 'uint'}{8 * kind.size}"
            self.base[base] = {"size": kind.size, "signed": kind.signed, "kind": "int", "endian": "little"}
            self.enums[name] = {"size": kind.size, "base": base, "constants": kind.values}
            return {"kind": "enum", "name": name}
        if isinstance(kind, t.Int):
            self.base[kind.name] = {"size": kind.size, "signed": kind.signed, "kind": kind.kind, "endian": "little"}
            return {"kind": "base", "name": kind.name}
        return {"kind": "function"} if isinstance(kind, t.Function) else _VOID

    def field(self, owner: t.Ref, name: str, field: t.Field) -> None:
        descriptor = self.descriptor(field.type)
        if field.bits:
            descriptor = {
                "kind": "bitfield", "bit_position": field.shift, "bit_length": field.bits, "type": descriptor,
            }  # fmt: skip
        held = self.user[self.descriptor(owner)["name"]]
        held["fields"][name] = {"offset": field.offset, "type": descriptor}


def write(types: t.Types, kernel_symbols: Symbols, banner_text: str) -> Json:
    """Return the ISF of all members, types, functions and symbols that were asked for so far."""
    writer = _Writer(types)
    for ref, names in sorted(types.touched.items()):
        owner = types.resolve(ref)
        if isinstance(owner, t.Struct):
            writer.descriptor(ref)
            members = types.members(ref)
            for name in sorted(names):
                writer.field(ref, name, members[name])
    for ref in sorted(types.touched_types):
        writer.descriptor(ref)
    functions: Json = {}
    for name in sorted(types.touched_functions):
        function = types.function(name)
        if function is not None:
            functions[name] = {
                "parameters": [[one.name, writer.descriptor(one.type)] for one in function.parameters],
                "result": writer.descriptor(function.result),
            }
    rows: Json = {}
    for name in sorted(kernel_symbols.touched):
        address = kernel_symbols.get(name)
        if address is not None:
            rows[name] = {"address": address}
    text = base64.b64encode(banner_text.encode("utf-8", "surrogateescape") + b"\n\0").decode()
    rows.setdefault("linux_banner", {"address": kernel_symbols.get("linux_banner") or KERNEL_HALF})["constant_data"] = (
        text
    )
    return {
        "metadata": {"producer": {"name": "drakmet", "version": "1"}, "format": "6.2.0"},
        "base_types": writer.base,
        "user_types": writer.user,
        "enums": writer.enums,
        "symbols": rows,
        "functions": functions,
    }
