# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own patch tables: where its text may be changed, by kind and address.

Relative entries are 32-bit distances from the entry itself. Layouts: ``struct alt_instr`` by the file's own types,
``struct paravirt_patch_site`` (arch/x86/include/asm/paravirt_types.h), ``struct jump_entry``
(include/linux/jump_label.h, relative), ``struct static_call_site`` (include/linux/static_call_types.h).
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple

from drakmet.errors import GuestError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from drakmet.guest.kerneltext.image import Image, Table
    from drakmet.guest.types import Types

_ALTERNATIVE_FLAG_DIRECT: Final = 2  # ALT_FLAG_DIRECT_CALL, since 6.8
_JUMP: Final = struct.Struct("<iiq")
_PARAVIRT: Final = struct.Struct("<QBB")
_PARAVIRT_STEP: Final = 16
_CONSTANT: Final = "runtime_"


class Alternative(NamedTuple):
    """One entry of .altinstructions: the place, its length, the replacement's place and length."""

    address: int
    length: int
    replacement: int
    replacement_length: int
    direct_call: bool


class Group(NamedTuple):
    """Alternatives whose places overlap, and the range that they cover."""

    start: int
    end: int
    entries: tuple[Alternative, ...]


class Tables:
    """The tables of one image; addresses are those of the guest."""

    def __init__(self, image: Image, types: Types) -> None:
        get = image.tables.get
        self.returns = _relative(get(".return_sites"))
        self.retpolines = _relative(get(".retpoline_sites"))
        self.calls = _relative(get(".call_sites"))
        self.seals = _relative(get(".ibt_endbr_seal"))
        self.locks = _relative(get(".smp_locks"))
        self.static_calls = _relative(get(".static_call_sites"), step=8)
        self.mcount = frozenset(_words(get("__mcount_loc")))
        self.jumps = dict(_jumps(get("__jump_table")))
        self.paravirt = dict(_paravirt(get(".parainstructions")))
        self.constants = dict(_constants(image.tables))
        self.groups = _groups(_alternatives(get(".altinstructions"), types))
        self._starts = [group.start for group in self.groups]

    def group_at(self, address: int) -> Group | None:
        """Return the alternatives that an address belongs to."""
        position = bisect_right(self._starts, address) - 1
        if position >= 0 and address < self.groups[position].end:
            return self.groups[position]
        return None


def _relative(table: Table | None, step: int = 4) -> frozenset[int]:
    if table is None:
        return frozenset()
    words = array("i", table.data[: len(table.data) // step * step])
    each = step // 4
    return frozenset(table.address + number * step + words[number * each] for number in range(len(words) // each))


def _words(table: Table | None) -> array[int]:
    return array("Q", table.data[: len(table.data) & ~7]) if table is not None else array("Q")


def _jumps(table: Table | None) -> Iterator[tuple[int, int]]:
    if table is not None:
        whole = len(table.data) // _JUMP.size * _JUMP.size
        at = table.address
        for code, target, _ in _JUMP.iter_unpack(table.data[:whole]):
            yield at + code, at + 4 + target
            at += _JUMP.size


def _paravirt(table: Table | None) -> Iterator[tuple[int, int]]:
    if table is not None:
        # The last entry lacks the padding of the others.
        for at in range(0, len(table.data) - _PARAVIRT.size + 1, _PARAVIRT_STEP):
            address, _, length = _PARAVIRT.unpack_from(table.data, at)
            yield address, length


def _constants(tables: dict[str, Table]) -> Iterator[tuple[int, tuple[int, str]]]:
    """Yield the places of runtime constants (6.11 and later): ``runtime_shift_NAME`` and ``runtime_ptr_NAME``."""
    for name, table in tables.items():
        if name.startswith(_CONSTANT):
            kind, _, variable = name.removeprefix(_CONSTANT).partition("_")
            width = {"shift": 1, "ptr": 8}.get(kind)
            if width is not None:
                for address in _relative(table):
                    yield address, (width, variable)


def _alternatives(table: Table | None, types: Types) -> Iterator[Alternative]:
    if table is None:
        return
    size = types.size("alt_instr")
    if not 8 < size <= 64:
        raise GuestError(f"a struct alt_instr of {size} bytes")
    where = types.offset("alt_instr", "instr_offset")
    what = types.offset("alt_instr", "repl_offset")
    length = types.offset("alt_instr", "instrlen")
    short = types.offset("alt_instr", "replacementlen")
    flags = types.offset("alt_instr", "flags") if types.has_field("alt_instr", "flags") else None
    data = table.data
    for at in range(0, len(data) // size * size, size):
        base = table.address + at
        direct = flags is not None and int.from_bytes(data[at + flags : at + flags + 2], "little")
        yield Alternative(
            base + where + struct.unpack_from("<i", data, at + where)[0],
            data[at + length],
            base + what + struct.unpack_from("<i", data, at + what)[0],
            data[at + short],
            bool(direct and direct & _ALTERNATIVE_FLAG_DIRECT),
        )


def _groups(alternatives: Iterator[Alternative]) -> list[Group]:
    found: list[Group] = []
    for one in sorted(alternatives):
        if found and one.address < found[-1].end:
            last = found[-1]
            found[-1] = Group(last.start, max(last.end, one.address + one.length), (*last.entries, one))
        else:
            found.append(Group(one.address, one.address + one.length, (one,)))
    return found
