# SPDX-License-Identifier: GPL-2.0-or-later
"""Traps that a kernel cannot have: the reason says what is wrong, and what would be right."""

from __future__ import annotations

from typing import Annotated

import pytest
from guest.images import image

from drakmet import EventRecord, Trap
from drakmet.monitor.armed import prepare
from drakmet.plugins import LoadedPlugin


class Seen(EventRecord):
    """Something."""

    name: Annotated[str | None, "a name"]


@pytest.mark.parametrize(
    ("function", "expression", "reason"),
    [
        ("do_filp_opn", "x", "the kernel has no function do_filp_opn; did you mean do_filp_open or"),
        (("no_such", "none_such"), "x", "the kernel has no function no_such or none_such"),
        ("do_filp_open", "pathname->nmae", "filename has no member nmae"),
        ("do_filp_open", "$return", "'$return' is only there when the function returns; move it to returns="),
    ],
)
def test_the_reason_is_told(function: str | tuple[str, ...], expression: str, reason: str) -> None:
    trap = Trap(function=function, fetch={"name": expression}, record=Seen)
    (refused,) = prepare(image("6.1").guest, [LoadedPlugin("p", "here", traps=[trap])]).refused
    assert reason in refused.reason
    assert "\n" not in refused.reason


def test_a_function_whose_code_cannot_be_read_is_not_said_to_be_missing() -> None:
    # The fixtures keep only the pages of functions that the guest's tests trap.
    trap = Trap(function="__fput", record=Seen)
    (refused,) = prepare(image("6.1").guest, [LoadedPlugin("p", "here", traps=[trap])]).refused
    assert "has no function" not in refused.reason
    assert "__fput" in refused.reason
