# SPDX-License-Identifier: GPL-2.0-or-later
"""The ring and the events in it, with a model of Xen's side of the page."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drakmet.pyxen import (
    HIT,
    HIT_ARGS,
    HIT_RETURN,
    AccessFlag,
    Event,
    Flag,
    MemAccess,
    Reason,
    Ring,
    RingError,
    SoftwareBreakpoint,
    WriteControlRegister,
    event_at,
    layout,
)
from drakmet.pyxen.ring import HIT_ARGS_FIELDS, HIT_FIELDS, HIT_RETURN_FIELDS, REQ_PROD, RSP_EVENT, RSP_PROD

if TYPE_CHECKING:
    from random import Random

U64 = st.integers(0, 2**64 - 1)


class Xen:
    """The front end: puts requests, takes responses."""

    def __init__(self, start: int = 0) -> None:
        self.page = mmap.mmap(-1, layout.PAGE_SIZE)
        self.view = memoryview(self.page)
        self.req_prod = self.rsp_cons = start

    def slot(self, index: int) -> int:
        return layout.RING_HEADER + index % layout.SLOTS * layout.SLOT_SIZE

    def put(self, **fields: int) -> None:
        at = self.slot(self.req_prod)
        self.view[at : at + layout.SLOT_SIZE] = bytes(layout.SLOT_SIZE)
        for name, value in {"version": layout.INTERFACE_VERSION, "flags": 1, **fields}.items():
            size = {"Q": 8, "I": 4, "H": 2}[layout.EVENT.formats[name]]
            offset = at + layout.EVENT.offsets[name]
            self.view[offset : offset + size] = value.to_bytes(size, "little")
        self.req_prod = self.req_prod + 1 & 0xFFFFFFFF
        self.view[:4] = self.req_prod.to_bytes(4, "little")

    def get(self, *names: str) -> list[int]:
        assert self.rsp_cons != int.from_bytes(self.view[8:12], "little")
        at = self.slot(self.rsp_cons)
        self.rsp_cons = self.rsp_cons + 1 & 0xFFFFFFFF
        found = []
        for name in names:
            size = {"Q": 8, "I": 4, "H": 2}[layout.EVENT.formats[name]]
            offset = at + layout.EVENT.offsets[name]
            found.append(int.from_bytes(self.view[offset : offset + size], "little"))
        return found

    def responses(self) -> int:
        return int.from_bytes(self.view[8:12], "little") - self.rsp_cons & 0xFFFFFFFF


def attach() -> tuple[Xen, Ring]:
    xen = Xen()
    ring = Ring(xen.page)
    ring.initialise()
    return xen, ring


def test_a_ring_left_by_another_session_is_emptied() -> None:
    xen, ring = attach()
    for _ in range(11):
        xen.put(reason=Reason.SOFTWARE_BREAKPOINT, rip=5)
        ring.take()
        ring.push()
        xen.get()
    second = Ring(xen.page)
    assert second.unconsumed() > 0 if xen.req_prod <= layout.SLOTS else True
    with pytest.raises(RingError, match="11 requests"):
        second.unconsumed()
    second.initialise()
    assert second.unconsumed() == 0
    assert second.unanswered() == 0
    assert (second.ints[RSP_PROD], second.ints[RSP_EVENT]) == (0, 1)


def test_resume_gives_again_what_was_not_answered() -> None:
    xen, ring = attach()
    for rip in (1, 2, 3):
        xen.put(rip=rip)
    ring.take()
    ring.push()
    ring.take()
    heir = Ring(xen.page)
    heir.resume()
    assert heir.unconsumed() == 2
    assert HIT.unpack_from(heir.data, heir.take())[HIT_FIELDS.index("rip")] == 2


@settings(max_examples=60, deadline=None)
@given(
    start=st.sampled_from([0, 5, 2**32 - 3]),
    batches=st.lists(st.lists(U64, min_size=1, max_size=layout.SLOTS), max_size=8),
)
def test_every_request_is_answered_once_and_in_order(start: int, batches: list[list[int]]) -> None:
    xen = Xen(start)
    ring = Ring(xen.page)
    ring.ints[REQ_PROD] = ring.ints[RSP_PROD] = ring.taken = start
    for batch in batches:
        for number, rip in enumerate(batch):
            xen.put(reason=Reason.SOFTWARE_BREAKPOINT, vcpu_id=number, rip=rip)
        assert ring.unconsumed() == len(batch)
        for rip in batch:
            slot = ring.take()
            assert HIT.unpack_from(ring.data, slot)[HIT_FIELDS.index("rip")] == rip
            ring.skip(slot, rip + 5 & 2**64 - 1)
        assert ring.unanswered() == len(batch)
        assert xen.responses() == 0
        ring.push()
        for number, rip in enumerate(batch):
            assert xen.get("vcpu_id", "rip", "flags") == [
                number,
                rip + 5 & 2**64 - 1,
                Flag.VCPU_PAUSED | Flag.SET_REGISTERS,
            ]


@given(st.fixed_dictionaries(dict.fromkeys(("rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "rip", "cr3"), U64)))
def test_readers_give_what_xen_put(values: dict[str, int]) -> None:
    xen, ring = attach()
    xen.put(reason=6, vcpu_id=3, altp2m_idx=2, gfn=77, gs_base=88, rsp=99, **values)
    slot = ring.take()
    everything = {"reason": 6, "vcpu_id": 3, "altp2m_idx": 2, "gfn": 77, "gs_base": 88, "rsp": 99, **values}
    for made, names in ((HIT, HIT_FIELDS), (HIT_ARGS, HIT_ARGS_FIELDS), (HIT_RETURN, HIT_RETURN_FIELDS)):
        assert made.unpack_from(ring.data, slot) == tuple(everything[name] for name in names)
    registers = event_at(ring, slot).registers
    assert {name: getattr(registers, name) for name in values} == values


def test_answers_say_what_they_are_named_for() -> None:
    xen, ring = attach()
    paused = Flag.VCPU_PAUSED | Flag.ALTERNATE_P2M

    def put() -> int:
        xen.put(flags=paused, reason=6, altp2m_idx=2, rip=100, rdi=5)
        return ring.take()

    slots = [put()]  # untouched
    ring.proceed(put())
    ring.switch_view(put(), 4)
    ring.step_fast(put(), back=2)
    ring.step_toggle(put(), 0)
    ring.set_registers(put(), {"rip": 7, "rax": 8})
    ring.answer(put(), Flag.VCPU_PAUSED | Flag.DENY)
    ring.emulate(put(), b"\x0f\x1f\x44\x00\x00")
    ring.push()
    assert slots
    assert xen.get("flags", "altp2m_idx", "rip") == [paused, 2, 100]
    assert xen.get("flags") == [Flag.VCPU_PAUSED]
    assert xen.get("flags", "altp2m_idx") == [paused, 4]
    # p2midx of a fast single-step lies where the frame number was
    flags, view, back = xen.get("flags", "altp2m_idx", "gfn")
    assert (flags, view, back & 0xFFFF) == (paused | Flag.FAST_SINGLESTEP, 0, 2)
    assert xen.get("flags", "altp2m_idx") == [paused | Flag.TOGGLE_SINGLESTEP, 0]
    assert xen.get("flags", "rip", "rax", "rdi") == [Flag.VCPU_PAUSED | Flag.SET_REGISTERS, 7, 8, 5]
    assert xen.get("flags") == [Flag.VCPU_PAUSED | Flag.DENY]
    flags, first, second = xen.get("flags", "rax", "rcx")
    assert flags == Flag.VCPU_PAUSED | Flag.EMULATE | Flag.SET_EMUL_INSN_DATA
    assert first.to_bytes(8, "little") + second.to_bytes(8, "little") == b"\x0f\x1f\x44\x00\x00" + b"\x90" * 11


def test_events_are_of_the_class_of_their_reason() -> None:
    xen, ring = attach()
    xen.put(reason=Reason.MEM_ACCESS, gfn=10, part1=0x123, part2=0xFFFF888000000123, part3=4 | 8)
    xen.put(reason=Reason.SOFTWARE_BREAKPOINT, gfn=11, part2=1 | 6 << 32, rip=0x55)
    xen.put(reason=Reason.WRITE_CTRLREG, gfn=1, part1=0xAA, part2=0xBB)
    xen.put(reason=999)
    access, breakpoint_, control, unknown = (event_at(ring, ring.take()) for _ in range(4))
    assert isinstance(access, MemAccess)
    assert (access.gfn, access.offset, access.gla) == (10, 0x123, 0xFFFF888000000123)
    assert access.access == AccessFlag.X | AccessFlag.GLA_VALID
    assert isinstance(breakpoint_, SoftwareBreakpoint)
    assert (breakpoint_.gfn, breakpoint_.insn_length, breakpoint_.type) == (11, 1, 6)
    assert "rip=0x55" in repr(breakpoint_)
    assert isinstance(control, WriteControlRegister)
    assert (control.register, control.new_value, control.old_value) == (1, 0xAA, 0xBB)
    assert type(unknown) is Event
    assert unknown.reason is Reason.UNKNOWN
    ring.push()
    for _ in range(4):
        xen.get()
    xen.put(reason=Reason.MEM_ACCESS, gfn=1, part2=5)
    ring.take()
    assert access.gfn == 10  # a copy, not the slot


@given(st.randoms(use_true_random=True))
def test_no_page_content_makes_events_fail(random: Random) -> None:
    ring = Ring(bytearray(random.randbytes(layout.PAGE_SIZE)))
    for _ in range(layout.SLOTS):
        event = event_at(ring, ring.take())
        assert event.registers.rip >= 0
        assert repr(event)


@pytest.mark.parametrize("page", [bytearray(100), bytes(layout.PAGE_SIZE)])
def test_a_ring_wants_one_writable_page(page: bytes) -> None:
    with pytest.raises(ValueError, match="one writable page"):
        Ring(page)
