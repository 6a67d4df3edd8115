# SPDX-License-Identifier: GPL-2.0-or-later
"""Attaching and detaching on a domain that fails where it is told to; the real one is in tests/lab."""

from __future__ import annotations

import pytest

from drakmet.monitor.engine import Engine
from drakmet.pyxen import Access, Flag, Reason
from drakmet.traps import Trap
from monitor.fake import Broken, FakeDomain
from monitor.scene import FUNCTION, Opened, Way

ENTRY = Trap(function=FUNCTION, fetch={"requested": "pathname->name"}, record=Opened)
BOTH = Trap(function=FUNCTION, returns={"result": "$return|errno"}, record=Opened)


class Rig:
    """An engine on a fake domain, with one trap."""

    def __init__(self, trap: Trap = ENTRY, fail_at: int = -1) -> None:
        self.way = Way(trap, learn=self.learn)
        self.domain = FakeDomain(self.way.memory, fail_at)
        self.engine = Engine(self.domain, self.way.guest)  # type: ignore[arg-type]

    def learn(self, address: int) -> bool:
        return self.engine.learn(address)

    def attach(self) -> Rig:
        prepared = self.way.prepared
        self.engine.attach(prepared.places, self.way.hits, prepared.registers | {"rsi", "rdi"})
        return self

    @property
    def gpa(self) -> int:
        return self.way.guest.kernel.gpa(self.way.address)

    def shadow(self) -> bytes:
        return bytes(self.domain.window[:4096])

    def hit(self, vcpu: int = 0, **values: int) -> int:
        regs = {key: value for key, value in self.way.registers.items() if key != "vcpu_id"}
        return self.domain.ask(
            Reason.SOFTWARE_BREAKPOINT, vcpu, **{**regs, "rip": self.way.address, "gfn": self.gpa >> 12, **values}
        )


def steps() -> int:
    rig = Rig().attach()
    return rig.domain.calls


def test_attach_shadows_the_functions_frame_for_execution_only() -> None:
    rig = Rig().attach()
    gfn = rig.gpa >> 12
    (copy,) = rig.domain.views[1].values()
    assert rig.domain.views[1] == {gfn: copy}
    assert copy in rig.domain.frames_given
    assert rig.domain.rights == {(1, gfn): int(Access.X)}
    original = rig.way.memory.read(gfn << 12, 4096)
    differing = [at for at in range(4096) if rig.shadow()[at] != original[at]]
    assert differing == [rig.gpa & 4095]
    assert rig.shadow()[rig.gpa & 4095] == 0xCC
    assert rig.domain.current_view == 1


def test_the_guest_is_stopped_only_for_what_must_not_be_seen_half_done() -> None:
    rig = Rig().attach()
    log = rig.domain.log
    assert log.count("pause") == 1
    assert log[log.index("pause") + 1 :] == ["software_breakpoint", "singlestep", "switch"]


@pytest.mark.parametrize("fail_at", range(steps()))
def test_a_failure_at_any_step_leaves_nothing_behind(fail_at: int) -> None:
    rig = Rig(fail_at=fail_at)
    with pytest.raises(Broken):
        rig.attach()
    assert rig.domain.left() == {}
    assert rig.engine.undo_steps == []


def test_detach_leaves_nothing_behind_and_may_be_called_twice() -> None:
    rig = Rig().attach()
    assert rig.engine.detach() == []
    assert rig.domain.left() == {}
    calls = rig.domain.calls
    assert rig.engine.detach() == []
    assert rig.domain.calls == calls


@pytest.mark.parametrize("step", range(16))
def test_a_detach_that_fails_somewhere_goes_on_with_the_rest(step: int) -> None:
    rig = Rig().attach()
    rig.domain.fail_at = rig.domain.calls + step
    failed = rig.engine.detach()
    assert rig.domain.pauses == 0
    assert rig.engine.undo_steps == []
    assert len(failed) <= 1
    if rig.domain.log[-1] != "unmap":
        assert "frames.close" in rig.domain.log


def test_a_guest_that_is_gone_fails_no_detach() -> None:
    rig = Rig().attach()
    rig.domain.gone = True
    assert rig.engine.detach() == []


def test_events_that_wait_at_detach_are_answered_first() -> None:
    rig = Rig().attach()
    slot = rig.hit()
    rig.engine.detach()
    assert rig.domain.answered == 1
    assert rig.domain.flags(slot) == Flag.VCPU_PAUSED | Flag.SET_REGISTERS
    assert len(rig.way.sink.of(Opened)) == 1


def test_a_hit_skips_the_nop_and_is_told_of() -> None:
    rig = Rig().attach()
    slot = rig.hit()
    assert rig.engine.batch() == 1
    assert rig.domain.flags(slot) == Flag.VCPU_PAUSED | Flag.SET_REGISTERS
    assert rig.domain.answer(slot, "rip") == rig.way.address + 5
    assert (rig.domain.answered, rig.domain.notified) == (1, 1)
    assert len(rig.way.sink.of(Opened)) == 1


def test_all_that_waits_is_answered_with_one_notification() -> None:
    rig = Rig().attach()
    for vcpu in range(5):
        rig.hit(vcpu)
    assert rig.engine.batch() == 5
    assert (rig.domain.answered, rig.domain.notified) == (5, 1)


def test_reading_code_is_stepped_in_the_guests_own_memory() -> None:
    rig = Rig().attach()
    slot = rig.domain.ask(Reason.MEM_ACCESS, gfn=rig.gpa >> 12, part3=1)
    rig.engine.batch()
    assert rig.domain.flags(slot) == Flag.VCPU_PAUSED | Flag.ALTERNATE_P2M | Flag.FAST_SINGLESTEP
    assert rig.domain.answer(slot, "altp2m_idx") == 0
    assert rig.engine.events == {"read": 1}


def rewrite(rig: Rig, code: bytes) -> None:
    """Have the guest write to its function: two events, as Xen reports them."""
    gfn, offset = rig.gpa >> 12, rig.gpa & 4095
    slot = rig.domain.ask(Reason.MEM_ACCESS, 1, gfn=gfn, part1=offset, part3=2)
    rig.engine.batch()
    assert rig.domain.flags(slot) == Flag.VCPU_PAUSED | Flag.ALTERNATE_P2M | Flag.TOGGLE_SINGLESTEP
    assert rig.domain.answer(slot, "altp2m_idx") == 0
    page = bytearray(rig.way.memory.pages[gfn])
    page[offset : offset + len(code)] = code
    rig.way.memory.pages[gfn] = bytes(page)
    slot = rig.domain.ask(Reason.SINGLESTEP, 1, gfn=0)
    rig.engine.batch()
    assert rig.domain.flags(slot) == Flag.VCPU_PAUSED | Flag.ALTERNATE_P2M | Flag.TOGGLE_SINGLESTEP
    assert rig.domain.answer(slot, "altp2m_idx") == 1


def test_a_write_is_carried_over_and_the_breakpoint_stays() -> None:
    rig = Rig().attach()
    rewrite(rig, bytes.fromhex("e8aabbccdd"))
    offset = rig.gpa & 4095
    assert rig.shadow()[offset : offset + 5] == bytes.fromhex("ccaabbccdd")


def test_a_call_in_the_place_of_the_nop_is_stepped_and_a_nop_again_skipped() -> None:
    rig = Rig().attach()
    rewrite(rig, bytes.fromhex("e8aabbccdd"))
    slot = rig.hit()
    rig.engine.batch()
    assert rig.domain.flags(slot) == Flag.VCPU_PAUSED | Flag.ALTERNATE_P2M | Flag.FAST_SINGLESTEP
    rewrite(rig, bytes.fromhex("0f1f440000"))
    slot = rig.hit()
    rig.engine.batch()
    assert rig.domain.flags(slot) == Flag.VCPU_PAUSED | Flag.SET_REGISTERS
    assert len(rig.way.sink.of(Opened)) == 2


def test_an_int3_that_the_guest_put_there_is_given_to_it() -> None:
    rig = Rig().attach()
    rewrite(rig, b"\xcc")
    slot = rig.hit(1)
    rig.engine.batch()
    assert rig.domain.injected == [(1, 3)]
    assert rig.domain.flags(slot) == Flag.VCPU_PAUSED
    assert len(rig.way.sink.of(Opened)) == 1


def test_an_int3_elsewhere_is_the_guests() -> None:
    rig = Rig().attach()
    rig.way.memory.pages[rig.gpa >> 12] = b"\xcc" * 4096
    rig.hit(0, rip=rig.way.address + 64)
    rig.engine.batch()
    assert rig.domain.injected == [(0, 3)]
    assert rig.way.sink.of(Opened) == []


def test_a_breakpoint_that_was_taken_out_meanwhile_is_met_again_as_it_was() -> None:
    rig = Rig().attach()
    rig.engine.remove(rig.way.place)
    slot = rig.hit()
    rig.engine.batch()
    assert rig.domain.injected == []
    assert rig.domain.flags(slot) == Flag.VCPU_PAUSED
    assert rig.engine.events == {"late": 1}
    assert rig.shadow() == rig.way.memory.read(rig.gpa >> 12 << 12, 4096)


def test_a_trap_can_be_put_back() -> None:
    rig = Rig().attach()
    rig.engine.remove(rig.way.place)
    rig.engine.add(rig.way.place)
    assert rig.shadow()[rig.gpa & 4095] == 0xCC
    rig.hit()
    rig.engine.batch()
    assert len(rig.way.sink.of(Opened)) == 1


def test_where_calls_return_to_is_armed_while_the_guest_is_stopped() -> None:
    rig = Rig(BOTH).attach()
    before = len(rig.domain.views[1])
    rig.hit()
    rig.engine.batch()
    sites = [place for place in rig.engine.places.values() if place.site]
    assert len(sites) == 1
    assert rig.way.returns.pending == 1
    if len(rig.domain.views[1]) > before:
        assert rig.domain.log.count("pause") == 2
    assert rig.domain.pauses == 0


def test_each_time_that_we_stop_the_guest_is_noted() -> None:
    rig = Rig().attach()
    assert len(rig.engine.pauses) == 1
    assert rig.engine.detach() == []
    assert len(rig.engine.pauses) == 2
    assert all(begin <= end for begin, end in rig.engine.pauses)
    assert rig.engine.pauses[0][1] <= rig.engine.pauses[1][0]
