# SPDX-License-Identifier: GPL-2.0-or-later
"""The simulated Xen against a real one: after an answer, a vCPU's next event is of the same kind in both.

``tests/data/session.json`` was kept by `tests/lab/guest_probe.py`: a guest that opens files, and puts kprobes and the
function tracer on the trapped function meanwhile (runs of the same are shortened).
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from monitor.scene import Way

from simulator.machine import CALL, INT3, NOP, Op
from simulator.test_interleavings import TRAP, Case

if TYPE_CHECKING:
    from collections.abc import Iterable

RECORDED = Path(__file__).parent.parent / "data" / "session.json"
FORCED = {"toggle step", "fast step"}
"""Answers that say what a vCPU does before anything else; what it does after the others is its own affair."""

Follows = dict[tuple[str, str], set[bool]]


def follows(seen: Iterable[tuple[int, str, str]]) -> Follows:
    """Return, for each (event, answer), whether the same vCPU's next event was the report of a step."""
    found: Follows = defaultdict(set)
    last: dict[int, tuple[str, str]] = {}
    for vcpu, event, answer in seen:
        if vcpu in last:
            found[last[vcpu]].add(event == "step")
        last[vcpu] = event, answer
    return found


def simulated() -> Follows:
    """Return the same of many simulated sessions."""
    way, ops = Way(TRAP), (Op("call"), Op("read"), Op("write", CALL), Op("write", NOP), Op("write", bytes([INT3])))
    found: Follows = defaultdict(set)
    for seed in range(100):
        chance = random.Random(seed)  # noqa: S311  # it is to be the same each time
        case = Case(way, tuple([chance.choice(ops) for _ in range(12)] for _ in range(2)))
        try:
            case.attach()
            case.machine.choose = chance.randrange
            for _ in range(60):
                case.machine.turn()
                case.engine.batch()
            for key, kinds in follows(case.machine.seen).items():
                found[key] |= kinds
            case.engine.detach()
        finally:
            case.restore()
    return found


def test_what_follows_an_answer_is_the_same_as_in_a_real_session() -> None:
    real, ours = follows(map(tuple, json.loads(RECORDED.read_text())["events"])), simulated()
    assert len(real) >= 3, real
    assert set(real) <= set(ours), set(real) - set(ours)
    assert {key: kinds for key, kinds in real.items() if key[1] in FORCED or key[0] == "step"} == {
        key: kinds for key, kinds in ours.items() if key in real and (key[1] in FORCED or key[0] == "step")
    }
    for key, kinds in real.items():
        assert kinds <= ours[key], key


def test_a_recorded_session_has_each_way_to_go_on() -> None:
    events = json.loads(RECORDED.read_text())["events"]
    assert {answer for _, _, answer in events} >= {"skip", "toggle step", "fast step"}
    assert {event for _, event, _ in events} >= {"breakpoint", "access write", "step"}
