# SPDX-License-Identifier: GPL-2.0-or-later
"""The arithmetic of the bench that tells what a trap costs; the bench itself needs a host."""

from __future__ import annotations

from collections import Counter

import pytest
from bench.emulated import WHERE, owner
from bench.trap_cost import WAYS, Row, an_open, rounds, shares, table

from drakmet.errors import LabError

PRINTED = "opens 2000 ns 250000000\nnoise\nopens 2000 ns 275000000\nopens 2000 ns 9000000000\n"


def test_a_nanosecond_is_a_fraction_of_an_instruction() -> None:
    told = rounds(PRINTED)
    assert told == [(2000, 250_000_000), (2000, 275_000_000), (2000, 9_000_000_000)]
    assert an_open(told) == pytest.approx(11_000)  # 275 ms of 80 M instructions a second, over 2,000 opens: the median


def test_a_guest_that_told_nothing_has_no_cost() -> None:
    with pytest.raises(LabError):
        an_open(rounds("opens: not found"))


def test_shares_add_up_to_the_whole() -> None:
    found = shares(Counter({"Xen": 60, "guest": 30, "dom0's programs": 10}), 50_000)
    assert found == {"Xen": 30_000, "dom0's kernel": 0, "dom0's programs": 5_000, "guest": 15_000}
    assert shares(Counter(), 50_000) == {}


@pytest.mark.parametrize(
    ("rip", "cr3", "whose"),
    [
        (0xFFFF_82D0_4022_FFFA, 0x336_8000, "Xen"),
        (0xFFFF_FFFF_8115_B7FA, 0x51BB_D000, "dom0's kernel"),
        (0x7F4F_4A12_0000, 0x51BB_D000, "dom0's programs"),
        (0xFFFF_FFFF_9115_B7FA, 0x336_8000, "guest"),
        (0x40_1000, 0x336_8000, "guest"),
    ],
)
def test_whose_code_an_address_is(rip: int, cr3: int, whose: str) -> None:
    assert owner(rip, cr3, 256 << 20) == whose
    assert whose in WHERE


def test_the_table_has_theirs_beside_ours() -> None:
    row = Row(
        "stored", WAYS["stored"], 61_234, 6000, drakvuf=213_000, drakvuf_way="-F", profile=dict.fromkeys(WHERE, 7)
    )
    printed = table([Row("unwatched", WAYS["unwatched"], 10_650, 6000), row])
    (line,) = [line for line in printed.splitlines() if "213,000" in line]
    assert line.startswith(WAYS["stored"])
    assert "61,234" in line
    assert all(where in printed for where in WHERE)
