# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain that is not there: it keeps what Xen would keep, and can fail at any of its calls."""

from __future__ import annotations

import contextlib
import errno
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from drakmet.pyxen import Access, Ring
from drakmet.pyxen.failures import XenCallError
from drakmet.pyxen.layout import EVENT, PAGE_SIZE, RING_HEADER, SLOT_SIZE, SLOTS
from drakmet.pyxen.ring import FLAGS_I, REQ_PROD, RSP_PROD

if TYPE_CHECKING:
    from collections.abc import Iterator


class Broken(Exception):  # noqa: N818  # it stands for any error
    """What the call that was chosen to fail raises."""


class FakeDomain:
    """Counts its calls; the one whose number is ``fail_at`` raises `Broken`.

    ``state`` is what a detach has to put back; ``log`` every call by name.
    """

    domid = 7

    def __init__(self, memory: Any, fail_at: int = -1, vcpus: int = 2) -> None:
        self.memory = memory
        self.fail_at = fail_at
        self.calls = 0
        self.log: list[str] = []
        self.vcpus = vcpus
        self.views: dict[int, dict[int, int]] = {}
        self.rights: dict[tuple[int, int], int] = {}
        self.frames_given: list[int] = []
        self.on: set[str] = set()
        self.current_view = 0
        self.pool = 1 << 20
        self.limit = 100_000
        self.pauses = 0
        self.gone = False
        self.injected: list[tuple[int, int]] = []
        self.window = bytearray()
        self.ring = Ring(bytearray(PAGE_SIZE))
        self.ring.initialise()
        self.notified = 0
        self.control = self
        self.guardian = None

    def released(self) -> None:
        self.log.append("released")

    @property
    def state(self) -> Any:
        return lambda: None if self.gone else SimpleNamespace(tot_pages=1000)

    def left(self) -> dict[str, Any]:
        """Return what is not as it was."""
        return {
            key: value
            for key, value in {
                "views": self.views,
                "frames": self.frames_given,
                "on": self.on,
                "view": self.current_view,
                "pool": self.pool - (1 << 20),
                "limit": self.limit - 100_000,
                "pauses": self.pauses,
            }.items()
            if value
        }

    def step(self, name: str) -> None:
        self.log.append(name)
        self.calls += 1
        if self.calls - 1 == self.fail_at or self.gone:
            raise Broken(name)

    # control

    def domain(self, _domid: int) -> Any:
        self.step("domain")
        return SimpleNamespace(tot_pages=1000, max_memkb=self.limit, vcpus=self.vcpus)

    def paging_pool(self, _domid: int) -> int:
        self.step("paging_pool")
        return self.pool

    def set_paging_pool(self, _domid: int, size: int) -> None:
        self.step("set_paging_pool")
        self.pool = size

    @contextlib.contextmanager
    def paused(self, _domid: int) -> Iterator[None]:
        self.step("pause")
        self.pauses += 1
        try:
            yield
        finally:
            self.pauses -= 1

    def single_step_off(self, _domid: int, _vcpu: int) -> None:
        self.step("single_step_off")

    def inject_trap(self, _domid: int, vcpu: int, vector: int, _kind: int, *, length: int, cr2: int) -> None:
        self.step("inject_trap")
        self.injected.append((vcpu, vector))

    # what a source makes

    def frames(self) -> Any:
        def add(count: int) -> list[int]:
            self.step("frames.add")
            self.limit += 4 * count
            self.frames_given = list(range(1 << 20, (1 << 20) + count))
            return list(self.frames_given)

        def close() -> None:
            self.step("frames.close")
            assert not self.views, "frames went while a view was there"
            self.frames_given = []
            self.limit = 100_000

        return SimpleNamespace(add=add, close=close)

    def map(self, gfns: list[int]) -> Any:
        self.step("map")
        self.window = bytearray(len(gfns) * PAGE_SIZE)
        return SimpleNamespace(buffer=memoryview(self.window), errors={}, close=lambda: self.step("unmap"))

    def monitor(self) -> Any:
        self.step("monitor")
        self.on.add("ring")

        def kind(name: str) -> Any:
            def turn_on() -> None:
                self.step(name)
                self.on.add(name)

            return turn_on

        def events_off() -> None:
            self.step("events_off")
            self.on -= {"software_breakpoint", "singlestep"}

        def close() -> None:
            self.on -= {"software_breakpoint", "singlestep", "ring"}
            self.step("monitor.close")

        return SimpleNamespace(
            capabilities=0x1F7F, port=3, ring=self.ring, close=close, events_off=events_off, forget=close,
            software_breakpoint=kind("software_breakpoint"), singlestep=kind("singlestep"),
        )  # fmt: skip

    def channel(self, _port: int) -> Any:
        self.step("channel")
        self.on.add("channel")

        def close() -> None:
            self.on.discard("channel")
            self.step("channel.close")

        def notify() -> None:
            self.notified += 1

        return SimpleNamespace(fd=-1, port=4, hand_over=notify, close=close)

    def altp2m(self) -> Any:
        self.step("altp2m")

        def turn_on() -> None:
            self.step("turn_on")
            self.on.add("altp2m")

        def create_view(_access: int) -> int:
            self.step("create_view")
            self.views[1] = {}
            return 1

        def change_gfn(view: int, old: int, new: int) -> None:
            self.step("change_gfn")
            self.views[view][old] = new

        def set_access(view: int, gfn: int, access: int) -> None:
            self.step("set_access")
            self.rights[view, gfn] = int(access)

        def set_access_many(view: int, gfns: list[int], access: int) -> None:
            self.step("set_access_many")
            for gfn in gfns:
                self.rights[view, gfn] = int(access)

        def get_access(view: int, gfn: int) -> Access:
            self.step("get_access")
            if (view, gfn) not in self.rights:
                raise XenCallError("xc_altp2m_get_mem_access", errno.ESRCH)
            return Access(self.rights[view, gfn])

        def switch(view: int) -> None:
            self.step("switch")
            if view:
                assert self.pauses, "the view was switched under a running guest"
            self.current_view = view

        def close() -> None:
            self.current_view = 0
            self.views.clear()
            self.rights.clear()
            self.on.discard("altp2m")
            self.step("altp2m.close")

        return SimpleNamespace(
            turn_on=turn_on, create_view=create_view, change_gfn=change_gfn, set_access=set_access, switch=switch,
            close=close, set_access_many=set_access_many, get_access=get_access,
        )  # fmt: skip

    # the guest's side of the ring

    def ask(self, reason: int, vcpu: int = 0, flags: int = 1, **values: int) -> int:
        """Put a request into the ring; return its slot."""
        ring = self.ring
        index = ring.ints[REQ_PROD]
        slot = RING_HEADER + index % SLOTS * SLOT_SIZE
        ring.data[slot : slot + SLOT_SIZE] = bytes(SLOT_SIZE)
        for name, value in {"flags": flags, "reason": reason, "vcpu_id": vcpu, "altp2m_idx": 1, **values}.items():
            width = {"I": 4, "Q": 8, "H": 2}[EVENT.formats[name]]
            at = slot + EVENT.offsets[name]
            ring.data[at : at + width] = value.to_bytes(width, "little")
        ring.ints[REQ_PROD] = index + 1
        return slot

    def answer(self, slot: int, name: str) -> int:
        """Return a field of an answer."""
        width = {"I": 4, "Q": 8, "H": 2}[EVENT.formats[name]]
        at = slot + EVENT.offsets[name]
        return int.from_bytes(self.ring.data[at : at + width], "little")

    def flags(self, slot: int) -> int:
        """Return the flags of an answer."""
        return self.ring.ints[(slot >> 2) + FLAGS_I]

    @property
    def answered(self) -> int:
        """How many answers were given."""
        return self.ring.ints[RSP_PROD]
