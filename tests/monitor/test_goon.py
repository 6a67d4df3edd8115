# SPDX-License-Identifier: GPL-2.0-or-later
"""How a vCPU goes on after a breakpoint."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drakmet.monitor.goon import Way, choose, flags_after_test, moved


@pytest.mark.parametrize(
    ("code", "length"),
    [("0f1f440000", 5), ("90", 1), ("6690", 2), ("0f1f8000000000", 7), ("0f1f840000000000", 8)],
)
def test_a_nop_is_skipped_whole(code: str, length: int) -> None:
    assert choose(bytes.fromhex(code) + b"\x41\x57")[:2] == (Way.SKIP, length)


def test_what_the_guest_made_an_int3_is_the_guests() -> None:
    assert choose(bytes.fromhex("cc1f440000")).way is Way.REINJECT


def test_a_call_in_the_place_of_the_nop_is_stepped() -> None:
    assert choose(bytes.fromhex("e8fb0102034157")).way is Way.STEP


def test_a_nop_that_is_cut_by_the_pages_end_is_stepped() -> None:
    assert choose(bytes.fromhex("0f1f44")).way is Way.STEP
    assert choose(b"").way is Way.STEP


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("4889c3", (Way.MOVE, 3, "rax", "rbx", True)),  # mov %rax,%rbx
        ("4989c4", (Way.MOVE, 3, "rax", "r12", True)),  # mov %rax,%r12
        ("89c5", (Way.MOVE, 2, "rax", "rbp", False)),  # mov %eax,%ebp
        ("4c8be0", (Way.MOVE, 3, "rax", "r12", True)),  # the other encoding of mov %rax,%r12
        ("85c0", (Way.TEST, 2, "rax", "rax", False)),  # test %eax,%eax
        ("4d85e4", (Way.TEST, 3, "r12", "r12", True)),  # test %r12,%r12
    ],
)
def test_moves_and_tests_of_registers_are_done_here(code: str, expected: tuple[object, ...]) -> None:
    assert tuple(choose(bytes.fromhex(code) + b"\x74\x05")) == expected


@pytest.mark.parametrize("code", ["488903", "4889c4", "8bc4"[:2] + "03", "488b4508", "8503", "4885", "48"])
def test_memory_operands_and_the_stack_pointer_are_stepped(code: str) -> None:
    assert choose(bytes.fromhex(code)).way is Way.STEP


@given(st.integers(0, 2**64 - 1))
def test_a_32_bit_move_clears_the_upper_half(value: int) -> None:
    assert moved(value, wide=False) == value & 0xFFFFFFFF
    assert moved(value, wide=True) == value


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.booleans())
def test_test_sets_the_flags_that_the_cpu_sets(one: int, two: int, wide: bool) -> None:
    bits = 64 if wide else 32
    result = one & two & ((1 << bits) - 1)
    flags = flags_after_test(0x202 | 1 | 1 << 11, one, two, wide=wide)
    assert bool(flags & 1 << 6) == (result == 0)
    assert bool(flags & 1 << 7) == bool(result >> (bits - 1))
    assert bool(flags & 1 << 2) == ((result & 0xFF).bit_count() % 2 == 0)
    assert not flags & (1 | 1 << 11)
    assert flags & 0x202 == 0x202


@given(st.binary(max_size=12))
def test_any_bytes_have_a_way(code: bytes) -> None:
    how = choose(code)
    assert 0 <= how.length <= 9
    assert (how.length > 0) == (how.way in (Way.SKIP, Way.MOVE, Way.TEST))
