# SPDX-License-Identifier: GPL-2.0-or-later
"""What may stand at a place of the kernel's patch tables, and what may not, though the place is right."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drakmet.errors import GuestError
from drakmet.guest.kerneltext import elf, relocs, values
from drakmet.guest.kerneltext.nops import only_nops, run_around

HERE, THUNK, RETURNED, FUNCTION, EVIL = 0x1000, 0x9000, 0x9100, 0x9200, 0x20_0000
NAMES = {"__x86_indirect_thunk_rax": THUNK, "__x86_indirect_thunk_r11": THUNK + 32, "srso_return_thunk": RETURNED}
KNOWN = values.Known(lambda address: address == FUNCTION, NAMES, lambda _address, length: bytes(length))
KNOWN.names["d_hash_shift"] = 5


def to(opcode: str, there: int, here: int = HERE) -> bytes:
    code = bytes.fromhex(opcode)
    return code + struct.pack("<i", there - here - len(code) - 4)


@pytest.mark.parametrize(
    "code",
    [
        "90",
        "6690",
        "0f1f440000",
        "66662e0f1f840000000000",
        "0f1f8000000000",
        "eb07cccccccccccccc",
        "e907000000cccccccccccccc",
        "666690",
    ],
)
def test_what_does_nothing(code: str) -> None:
    assert only_nops(bytes.fromhex(code))


@pytest.mark.parametrize(
    "code",
    [
        "c3",
        "cc",
        "90c3",
        "eb02cccccc",
        "eb0390cccc",
        "0f1f440001",
        "e900000000",
        "e900000000cc",
        "eb03cccccc",
        "eb0390cccccccccccc",
        "f390",
    ],
)
def test_what_does_something(code: str) -> None:
    assert not only_nops(bytes.fromhex(code))


def test_nops_stand_for_nops_and_for_nothing_else() -> None:
    short, long = bytes.fromhex("55" + "90" * 5 + "5d"), bytes.fromhex("550f1f4400005d")
    assert run_around(short, long, 1) == 6
    assert run_around(short, bytes.fromhex("55e9001122335d"), 1) is None


@pytest.mark.parametrize(("code", "size"), [("c3cccccccc", 5), ("c390909090", 0), ("c3cccccc90", 0)])
def test_a_return_is_followed_by_int3_alone(code: str, size: int) -> None:
    assert KNOWN.return_site(bytes.fromhex(code), HERE) == size


def test_a_return_goes_to_a_return_thunk_and_nowhere_else() -> None:
    assert KNOWN.return_site(to("e9", RETURNED), HERE) == 5
    assert KNOWN.return_site(to("e9", EVIL), HERE) == 0
    assert KNOWN.return_site(to("e8", RETURNED), HERE) == 0


@pytest.mark.parametrize(
    ("file", "found", "good"),
    [
        (to("e8", THUNK), "ffd00f1f00", True),
        (to("e8", THUNK), "0faee8ffd0", True),
        (to("e8", THUNK), "ffd10f1f00", False),
        (to("e8", THUNK), "ffe0cc6690", False),
        (to("e9", THUNK), "ffe0cccccc", True),
        (to("e9", THUNK), "ffe0cc6690", True),
        (to("e9", THUNK + 32), "41ffe3cc90", True),
        (to("2ee8", THUNK + 32), "41ffd30f1f00", True),
        (to("0f85", THUNK), "7404ffe0cc90", True),
        (to("0f85", THUNK), "7504ffe0cc90", False),
        (to("e8", THUNK), to("e8", THUNK + 32).hex(), False),
        (to("e8", THUNK), to("e8", EVIL).hex(), False),
    ],
)
def test_a_retpoline_keeps_its_register_and_its_kind(file: bytes, found: str, good: bool) -> None:
    assert bool(KNOWN.retpoline(file + b"\x90", HERE, bytes.fromhex(found) + b"\x90", HERE)) == good


@pytest.mark.parametrize(
    ("file", "found", "good"),
    [
        (to("e8", EVIL), to("e8", FUNCTION), True),
        (to("e8", EVIL), to("e8", FUNCTION + 4), False),
        (to("e8", EVIL), to("e9", FUNCTION), False),
        (to("e8", EVIL), bytes.fromhex("0f1f440000"), True),
        (to("e8", EVIL), bytes.fromhex("2e2e2e31c0"), True),
        (to("e8", EVIL), bytes.fromhex("c3cccccccc"), False),
        (to("e9", EVIL), bytes.fromhex("c3cccccccc"), True),
        (to("e9", EVIL), to("e9", FUNCTION), True),
        (to("0f84", EVIL), to("0f84", FUNCTION), True),
        (to("0f84", EVIL), to("0f85", FUNCTION), False),
    ],
)
def test_a_static_call_calls_a_function_of_the_files(file: bytes, found: bytes, good: bool) -> None:
    assert bool(KNOWN.static_call(file + b"\0", found + b"\0", HERE)) == good


def test_a_jump_label_jumps_to_its_own_target_only() -> None:
    nop = bytes.fromhex("0f1f440000")
    assert KNOWN.jump_label(nop, to("e9", 0x1100), HERE, 0x1100) == 5
    assert KNOWN.jump_label(nop, to("e9", 0x1101), HERE, 0x1100) == 0
    assert KNOWN.jump_label(bytes.fromhex("6690909090"), bytes.fromhex("eb10909090"), HERE, 0x1012) == 2
    assert KNOWN.jump_label(bytes.fromhex("6690909090"), bytes.fromhex("eb11909090"), HERE, 0x1012) == 0


def test_a_call_of_fentry_becomes_a_nop() -> None:
    assert values.mcount(bytes.fromhex("0f1f440000")) == 5
    assert values.mcount(to("e9", EVIL)) == 0
    assert values.sealed(bytes.fromhex("660f1f00")) == 4
    assert values.sealed(bytes.fromhex("90909090")) == 0
    assert values.lock(b"\xf0", b"\x3e") == 1
    assert values.lock(b"\xf0", b"\x90") == 0


def test_paravirt_is_native_or_a_call_of_a_function() -> None:
    assert KNOWN.paravirt(to("e8", FUNCTION) + b"\x66\x90", HERE, 7) == 7
    assert KNOWN.paravirt(to("e8", EVIL) + b"\x66\x90", HERE, 7) == 0
    assert KNOWN.paravirt(bytes.fromhex("fa9090909090"), HERE, 6) == 6
    assert KNOWN.paravirt(bytes.fromhex("fac390909090"), HERE, 6) == 0


@given(st.binary(max_size=400))
def test_a_broken_file_is_told(data: bytes) -> None:
    for start in (b"", b"\x7fELF\x02\x01"):
        try:
            file = elf.Elf(start + data)
            file.symbols()
        except GuestError:
            continue


def test_relocations_are_three_lists_from_the_end() -> None:
    head = bytearray(64)
    struct.pack_into("<Q", head, 40, 64)
    words = [0, 0x8100_0008, 0x8100_0010, 0, 0x8100_0004, 0, 0x8100_0000]
    found = relocs.read(bytes(head) + struct.pack(f"<{len(words)}I", *words))
    assert found is not None
    assert [list(one) for one in found] == [[0x8100_0000], [0x8100_0004], [0x8100_0008, 0x8100_0010]]
    data = bytearray(24)
    relocs.apply(found, 0x20_0000, 0xFFFF_FFFF_8100_0000, data)
    assert struct.unpack("<IIQQ", data) == (0x20_0000, 0xFFE0_0000, 0x20_0000, 0x20_0000)
    assert relocs.read(bytes(head)) is None
    assert relocs.read(bytes(head) + struct.pack("<4I", 0, 1, 0, 2)) is None


@pytest.mark.parametrize("slide", [1 << 30, 4096, -(2 << 20)])
def test_a_slide_that_kaslr_never_makes(slide: int) -> None:
    with pytest.raises(GuestError, match="which KASLR never does"):
        relocs.check(slide)
