# SPDX-License-Identifier: GPL-2.0-or-later
"""gdb in a watched guest: its breakpoints are its own, each is met, and it notices nothing of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from lab.test_guest_breaks import BASE, TIMES, program
from lab.test_guest_does import Probe

if TYPE_CHECKING:
    from drakmet.lab.client import Agent
    from drakmet.lab.hosts import Host

pytestmark = pytest.mark.lab

ROUNDS = bytes.fromhex("b914000000 90 ffc9 75fb bf07000000 b83c000000 0f05")  # 20 times nop; exit(7)


def test_a_debugger_in_the_guest_sets_breakpoints_and_meets_each(lab_host: Host, lab_guest: Agent) -> None:
    """Twenty rounds over a nop at which gdb has a breakpoint, then exit(7)."""
    lab_guest.run(["tee", "/run/rounds"], stdin=program(ROUNDS), check=True)
    lab_guest.run(["chmod", "755", "/run/rounds"], check=True)
    commands = (
        "set startup-with-shell off",
        f"break *{BASE + 120 + 5:#x}",
        f"ignore 1 {10 * TIMES}",
        "run",
        "info breakpoints",
    )
    each = " ".join(f"-ex '{command}'" for command in commands)
    script = f"gdb -nx -batch {each} /run/rounds 2>&1; for i in 1 2 3; do cat /etc/debugged 2> /dev/null; done; true"
    told, said = Probe(lab_host).during(lab_guest, script)
    assert f"breakpoint already hit {TIMES} times" in said
    assert "exited with code 07" in said
    assert told["opened"]["/etc/debugged"] == 3
    assert told["opened"]["/run/rounds"] >= 1
    assert told["events"]["reinjected"] >= TIMES
