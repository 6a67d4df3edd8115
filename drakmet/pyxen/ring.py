# SPDX-License-Identifier: GPL-2.0-or-later
"""The ring page that a guest's events come through: made for a loop that must be quick.

Xen is the front end (it writes requests), we are the back end. A response overwrites its request in the same slot, so
the answer to an event is what the slot holds when `Ring.push` is called: left as it is, it lets the vCPU go on with
nothing changed, in the view it is in. Events are answered in the order they came.

The cheapest loop, with everything it touches in local variables::

    ints, take, data, read = ring.ints, ring.take, ring.data, HIT.unpack_from
    while channel.wait_for(ring, seconds):
        while ints[REQ_PROD] != ring.taken:
            slot = take()
            reason, vcpu, view, gfn, rip, cr3, gs = read(data, slot)
            ...
            ring.skip(slot, rip + 5)
        ring.push()
        channel.hand_over()

x86 keeps stores in order and loads in order, and each index is one aligned store of four bytes here; Xen looks at
responses only when it is notified and notifies us of every request, so no full barrier is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from drakmet.errors import XenError
from drakmet.pyxen.layout import EVENT, PAGE_SIZE, PART_LAYOUTS, RING_HEADER, SLOT_SIZE, SLOTS, UNION, Flag

if TYPE_CHECKING:
    import struct
    from collections.abc import Iterable, Mapping

    from drakmet.pyxen.layout import Buffer

REQ_PROD, REQ_EVENT, RSP_PROD, RSP_EVENT = range(4)
"""Where the ring's indices are in `Ring.ints`."""

_M32 = 0xFFFFFFFF
_SLOTS_MASK = SLOTS - 1
_PAUSED = int(Flag.VCPU_PAUSED)
_SKIP = int(Flag.VCPU_PAUSED | Flag.SET_REGISTERS)
_VIEW = int(Flag.VCPU_PAUSED | Flag.ALTERNATE_P2M)
_FAST = int(Flag.VCPU_PAUSED | Flag.ALTERNATE_P2M | Flag.FAST_SINGLESTEP)
_STEP = int(Flag.VCPU_PAUSED | Flag.ALTERNATE_P2M | Flag.TOGGLE_SINGLESTEP)
_EMULATE = int(Flag.VCPU_PAUSED | Flag.EMULATE | Flag.SET_EMUL_INSN_DATA)
_INSN_DATA = 16  # struct vm_event_emul_insn_data

FLAGS_I = EVENT.offsets["flags"] >> 2
"""Add to ``slot >> 2`` for the index of the flags in `Ring.ints`; the others likewise."""
RIP_Q = EVENT.offsets["rip"] >> 3
"""Add to ``slot >> 3`` for the index of rip in `Ring.words`."""
VIEW_H = EVENT.offsets["altp2m_idx"] >> 1
"""Add to ``slot >> 1`` for the index of the view in `Ring.shorts`."""
_SLOTS_AT = range(RING_HEADER, RING_HEADER + SLOTS * SLOT_SIZE, SLOT_SIZE)
SLOT_PLACES = tuple((slot, (slot >> 2) + FLAGS_I, (slot >> 3) + RIP_Q) for slot in _SLOTS_AT)
"""Of each slot: itself, where its flags are in `Ring.ints`, its rip in `words`; an index's low bits say which slot."""
FAST_H = PART_LAYOUTS["fast_singlestep"].offsets["p2midx"] >> 1
_REGS_AT = EVENT.offsets["rax"]


def reader(names: Iterable[str]) -> tuple[struct.Struct, list[str]]:
    """Return a struct that reads just ``names`` of a slot (``unpack_from(ring.data, slot)``) and their order.

    Names are those of the header: ``flags reason vcpu_id altp2m_idx``, registers, and ``gfn part1 part2 part3``
    for the four fields that depend on the reason.
    """
    return EVENT.reader(names)


HIT, HIT_FIELDS = reader(["reason", "vcpu_id", "altp2m_idx", "gfn", "rip", "cr3", "gs_base"])
"""The least that tells what happened where."""
HIT_ARGS, HIT_ARGS_FIELDS = reader(
    ["reason", "vcpu_id", "altp2m_idx", "gfn", "rcx", "rdx", "rsp", "rsi", "rdi", "r8", "r9", "rip", "cr3", "gs_base"]
)
"""The same with a function's six arguments and the stack."""
HIT_RETURN, HIT_RETURN_FIELDS = reader(
    ["reason", "vcpu_id", "altp2m_idx", "gfn", "rax", "rsp", "rip", "cr3", "gs_base"]
)
"""The same with a function's result and the stack."""


class RingError(XenError):
    """The ring's indices are not what Xen and one monitor can have made."""


class Ring:
    """The events of one domain, in a page shared with Xen; no calls into any library are made here."""

    __slots__ = ("data", "ints", "shorts", "taken", "words")

    data: memoryview
    """The page's bytes; a slot is an offset into it."""
    ints: memoryview
    words: memoryview
    shorts: memoryview
    taken: int
    """Requests taken so far, modulo 2**32: the index of the next one."""

    def __init__(self, page: Buffer) -> None:
        data = memoryview(page).cast("B")
        if len(data) != PAGE_SIZE or data.readonly:
            raise ValueError("a ring is one writable page")
        self.data = data
        self.ints = data.cast("I")
        self.words = data.cast("Q")
        self.shorts = data.cast("H")
        self.taken = 0

    def initialise(self) -> None:
        """Make the page an empty ring, before the first event.

        Xen gives the ring a page without clearing it, and for a second session it is mostly the page of the first:
        without this, old requests are seen as new ones and Xen takes old answers.
        """
        self.data[:RING_HEADER] = bytes(RING_HEADER)
        self.ints[REQ_EVENT] = 1
        self.ints[RSP_EVENT] = 1
        self.taken = 0

    def resume(self) -> None:
        """Go on where another user of the same page ended: what it took but did not answer comes again."""
        self.taken = self.ints[RSP_PROD]
        self.unconsumed()

    def unconsumed(self) -> int:
        """Return how many requests wait to be taken."""
        count = self.ints[REQ_PROD] - self.taken & _M32
        if count > SLOTS:
            raise RingError(f"the event ring claims {count} requests, but has {SLOTS} slots")
        return count

    def unanswered(self) -> int:
        """Return how many requests were taken and not pushed."""
        return self.taken - self.ints[RSP_PROD] & _M32

    def take(self) -> int:
        """Take the next request and return its slot; only when there is one."""
        index = self.taken
        self.taken = index + 1 & _M32
        return RING_HEADER + (index & _SLOTS_MASK) * SLOT_SIZE

    def push(self) -> None:
        """Hand every taken slot to Xen as an answer; Xen looks when it is notified."""
        self.ints[RSP_PROD] = self.taken

    # answers

    def proceed(self, slot: int) -> None:
        """Let the vCPU go on, nothing changed. On a breakpoint it meets the same instruction again."""
        self.ints[(slot >> 2) + FLAGS_I] &= _PAUSED

    def skip(self, slot: int, rip: int) -> None:
        """Let the vCPU go on at ``rip``."""
        self.ints[(slot >> 2) + FLAGS_I] = _SKIP
        self.words[(slot >> 3) + RIP_Q] = rip

    def switch_view(self, slot: int, view: int) -> None:
        """Let the vCPU go on in another view."""
        self.ints[(slot >> 2) + FLAGS_I] = _VIEW
        self.shorts[(slot >> 1) + VIEW_H] = view

    def step_fast(self, slot: int, back: int, view: int = 0) -> None:
        """Have the vCPU execute one instruction in ``view``, then go on in ``back``, without a second event.

        The monitor's single-step events must be on (`Monitor.singlestep`): without them Xen 4.17 steps on and on.
        """
        self.ints[(slot >> 2) + FLAGS_I] = _FAST
        shorts, at = self.shorts, slot >> 1
        shorts[at + VIEW_H] = view
        shorts[at + FAST_H] = back

    def step_toggle(self, slot: int, view: int) -> None:
        """Go on in ``view`` with single-stepping turned on if it was off, off if it was on."""
        self.ints[(slot >> 2) + FLAGS_I] = _STEP
        self.shorts[(slot >> 1) + VIEW_H] = view

    def emulate(self, slot: int, instruction: bytes) -> None:
        """Answer a breakpoint: have Xen emulate these bytes (up to 16) in the place of what is in memory."""
        self.ints[(slot >> 2) + FLAGS_I] = _EMULATE
        at = slot + _REGS_AT
        self.data[at : at + _INSN_DATA] = instruction[:_INSN_DATA].ljust(_INSN_DATA, b"\x90")

    def set_registers(self, slot: int, values: Mapping[str, int]) -> None:
        """Let the vCPU go on with these general registers, rip and rflags; the others are ignored by Xen."""
        self.ints[(slot >> 2) + FLAGS_I] = _SKIP
        for name, value in values.items():
            self.words[slot + EVENT.offsets[name] >> 3] = value

    def answer(self, slot: int, flags: int, *, view: int | None = None) -> None:
        """Answer with any flags: VCPU_PAUSED must be among them for the vCPU to go on."""
        self.ints[(slot >> 2) + FLAGS_I] = int(flags)
        if view is not None:
            self.shorts[(slot >> 1) + VIEW_H] = view

    def copy(self, slot: int) -> bytes:
        """Return the slot's bytes."""
        return bytes(self.data[slot : slot + SLOT_SIZE])

    def part(self, slot: int) -> int:
        """Return the 64-bit word that the part for the reason starts with (a frame number, mostly)."""
        return self.words[slot + UNION >> 3]
