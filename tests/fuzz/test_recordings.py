# SPDX-License-Identifier: GPL-2.0-or-later
"""A few seeds of the campaign in each run; the rest by hand."""

from fuzz.recordings import run


def test_damaged_moments_break_nothing() -> None:
    told = run(300, seed=20, most=1500)
    assert told["records"] > 300
    assert told["recordings"] >= 1
