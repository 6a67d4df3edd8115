# SPDX-License-Identifier: GPL-2.0-or-later
"""A few seeds of the campaign over memory images in each run; the rest by hand."""

from fuzz.images import run


def test_damaged_images_are_read_alike_both_ways_or_said_to_be_unreadable() -> None:
    told = run(400, seed=443)
    assert told["images"] > 350
    assert told["read otherwise than undamaged"] > 100
    assert told["said that something cannot be read"] > 100
