# SPDX-License-Identifier: GPL-2.0-or-later
"""Execute traps on a domain that is not there: what is granted, what is told, and that nothing runs unhashed."""

from __future__ import annotations

from typing import Any

import pytest

from drakmet import ExecuteTrap, Execution
from drakmet.executions import ExecutionKind
from drakmet.monitor import executing, pagecheck
from drakmet.monitor.engine import Engine
from drakmet.monitor.pageevents import ArmedExecute, Executed, PageEvents
from drakmet.pages import page_hash
from drakmet.pyxen import Access, AccessFlag, Flag, Reason
from drakmet.traps import Trap
from monitor.fake import FakeDomain
from monitor.scene import FUNCTION, Opened, Way

ENTRY = Trap(function=FUNCTION, fetch={"requested": "pathname->name"}, record=Opened)
CODE = 0x55D0_0000_1000
USER = 0x33


class Rig:
    """An engine with a breakpoint and execute traps on a domain that remembers rights and reads."""

    def __init__(self, vcpus: int = 2, *, known: bool = True) -> None:
        self.way = Way(ENTRY)
        self.domain = FakeDomain(self.way.memory, vcpus=vcpus)
        self.seen: list[Execution] = []
        trap = ArmedExecute("test", ExecuteTrap(handler=self.seen.append))
        guest = self.way.guest if known else None
        processes = self.way.processes if known else None
        pages = PageEvents([trap], self.way.hits, processes, guest, None)
        self.engine = Engine(self.domain, guest)  # type: ignore[arg-type]
        prepared = self.way.prepared
        places = prepared.places if known else {}
        self.engine.attach(places, self.way.hits, prepared.registers | {"rsi", "rdi"}, pages=pages)
        self.data = next(gfn for gfn in sorted(self.way.memory.pages) if gfn != self.gfn)

    @property
    def gfn(self) -> int:
        """The frame with the breakpoint."""
        return self.way.guest.kernel.gpa(self.way.address) >> 12

    def right(self, gfn: int) -> Access:
        return Access(self.domain.rights[1, gfn])

    def write(self, gfn: int, data: bytes) -> None:
        """Write as a vCPU does, with what Xen does then to a frame that may run."""
        if self.right(gfn) is Access.RX2RW:
            self.domain.rights[1, gfn] = int(Access.RW)
        assert self.right(gfn) in (Access.RW, Access.RWX), "the write would have trapped"
        self.poke(gfn, data)

    def poke(self, gfn: int, data: bytes) -> None:
        """Write past all rights."""
        self.way.memory.pages[gfn] = data.ljust(4096, b"\0")

    def fault(
        self, gfn: int, flag: AccessFlag = AccessFlag.X, vcpu: int = 0, gla: int = CODE, cr3: int = 0x7000
    ) -> int:
        """Have a vCPU run into missing rights; return the slot."""
        return self.domain.ask(
            Reason.MEM_ACCESS, vcpu, gfn=gfn, part2=gla, part3=int(flag | AccessFlag.GLA_VALID), rip=gla, cr3=cr3,
            cs_sel=USER,
        )  # fmt: skip

    def execute(self, gfn: int, **more: Any) -> int:
        """Have a vCPU execute a frame that may not run, and be answered."""
        assert self.right(gfn) in (Access.RW, Access.N), "it would not have trapped"
        slot = self.fault(gfn, **more)
        self.engine.batch()
        return slot


def test_every_frame_is_barred_before_the_guest_is_in_the_view_and_nothing_is_done_while_it_stands() -> None:
    rig = Rig()
    for gfn in rig.way.memory.pages:
        assert rig.right(gfn) is (Access.N if gfn == rig.gfn else Access.RW)
    log = rig.domain.log
    assert log.count("pause") == 1
    assert log[log.index("pause") + 1 :][:3] == ["software_breakpoint", "singlestep", "switch"]


@pytest.mark.parametrize("vcpus", [1, 2])
def test_the_first_execution_is_hashed_and_granted_without_write(vcpus: int) -> None:
    rig = Rig(vcpus)
    slot = rig.execute(rig.data)
    assert rig.right(rig.data) is Access.RX2RW
    assert rig.domain.flags(slot) == Flag.VCPU_PAUSED
    (seen,) = rig.seen
    expected = page_hash(rig.way.memory.pages[rig.data]).hex()
    assert (seen.kind, seen.gfn, seen.hash, seen.address, seen.kernel) == ("first", rig.data, expected, CODE, False)


def test_a_frame_with_a_breakpoint_is_hashed_as_the_guest_has_it_and_never_readable() -> None:
    rig = Rig()
    rig.execute(rig.gfn)
    assert rig.right(rig.gfn) is Access.X
    assert rig.seen[0].hash == page_hash(rig.way.memory.pages[rig.gfn]).hex()


def test_each_version_that_runs_is_told_of() -> None:
    rig = Rig()
    for number in range(4):
        rig.write(rig.data, bytes([number]))
        rig.execute(rig.data)
    assert [one.kind for one in rig.seen] == ["first", "rewritten", "rewritten", "rewritten"]
    assert [one.hash for one in rig.seen] == [page_hash(bytes([n]).ljust(4096, b"\0")).hex() for n in range(4)]
    assert [one.times for one in rig.seen] == [1, 2, 3, 4]


def test_a_frame_that_serves_another_page_is_no_rewritten_one() -> None:
    rig = Rig()
    rig.execute(rig.data)
    rig.write(rig.data, b"other")
    rig.execute(rig.data, gla=CODE + 0x10_0000)
    rig.write(rig.data, b"third")
    rig.execute(rig.data, gla=CODE + 0x10_0000, cr3=0x9000)
    assert [one.kind for one in rig.seen] == ["first", "reused", "reused"]


def test_two_vcpus_that_come_to_a_frame_at_once_are_one_execution() -> None:
    rig = Rig()
    rig.fault(rig.data, vcpu=0)
    rig.fault(rig.data, vcpu=1)
    rig.engine.batch()
    assert len(rig.seen) == 1
    assert rig.engine.events["executed already"] == 1
    assert rig.domain.answered == 2


def test_a_write_between_hash_and_grant_cannot_be() -> None:
    """Another vCPU tries to write at each call that is made to grant a frame: what is hashed is what may run."""
    for at in range(6):
        rig = Rig()
        tried = bytes([at + 1])
        calls = 0
        inner, outer = rig.domain.step, rig.domain

        def step(name: str, rig: Rig = rig, at: int = at, tried: bytes = tried, inner: Any = inner) -> None:
            nonlocal calls
            inner(name)
            if name not in ("set_access", "read"):
                return
            calls += 1
            if calls - 1 == at and rig.right(rig.data) in (Access.RW, Access.RWX, Access.RX2RW):
                rig.write(rig.data, tried)

        read = rig.domain.memory.read

        def reading(gpa: int, length: int, read: Any = read, step: Any = step) -> bytes:
            step("read")
            found: bytes = read(gpa, length)
            step("read")
            return found

        outer.step = step  # type: ignore[method-assign]
        rig.domain.memory.read = reading
        try:
            rig.execute(rig.data)
        finally:
            rig.domain.memory.read = read
        if rig.right(rig.data) in (Access.RX2RW, Access.RX, Access.RWX):
            assert rig.seen[-1].hash == page_hash(rig.way.memory.pages[rig.data]).hex(), at


def test_a_write_that_waited_behind_the_hash_takes_execution_away_again() -> None:
    rig = Rig()
    rig.fault(rig.data, vcpu=0)
    slot = rig.fault(rig.data, AccessFlag.W, vcpu=1)
    rig.engine.batch()
    assert rig.domain.flags(slot) == Flag.VCPU_PAUSED
    assert rig.right(rig.data) is Access.RW
    rig.poke(rig.data, b"new")
    rig.execute(rig.data)
    assert [one.kind for one in rig.seen] == ["first", "rewritten"]


def test_a_write_to_a_frame_with_a_breakpoint_bars_it_before_its_copy_has_that() -> None:
    rig = Rig()
    rig.execute(rig.gfn)
    before = rig.way.memory.pages[rig.gfn]
    rig.fault(rig.gfn, AccessFlag.W)
    rig.engine.batch()
    rig.poke(rig.gfn, before[:-1] + b"\x90")
    rig.domain.ask(Reason.SINGLESTEP)
    rig.engine.batch()
    assert rig.right(rig.gfn) is Access.N
    rig.execute(rig.gfn)
    assert rig.seen[-1].hash == page_hash(rig.way.memory.pages[rig.gfn]).hex()
    assert rig.right(rig.gfn) is Access.X


def test_a_page_that_is_written_and_executed_in_turn_is_let_run_and_that_is_told() -> None:
    rig = Rig()
    for number in range(executing.MOST + 5):
        if number and rig.right(rig.data) is Access.RWX:
            break
        rig.write(rig.data, bytes([number]))
        rig.execute(rig.data)
    assert rig.seen[-1].kind is ExecutionKind.JIT
    assert len(rig.seen) == executing.MOST + 2
    assert rig.right(rig.data) is Access.RWX
    (gap,) = rig.engine.gaps(ending=True)
    assert gap.kind == "unverifiable"
    assert "JIT" in gap.reason


def test_a_page_that_was_let_run_is_barred_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pagecheck, "REST", -1)
    monkeypatch.setattr(executing, "MOST", 0)
    rig = Rig()
    rig.execute(rig.data)
    rig.write(rig.data, b"1")
    rig.execute(rig.data)
    assert rig.right(rig.data) is Access.RWX
    rig.engine.look()
    assert rig.right(rig.data) is Access.RW
    assert [gap.kind for gap in rig.engine.gaps()] == ["unverifiable"]


def test_many_pages_in_turn_have_fewer_turns_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executing, "BUSY", 0)
    rig = Rig()
    for number in range(6):
        if rig.right(rig.data) is Access.RWX:
            break
        rig.write(rig.data, bytes([number]))
        rig.execute(rig.data)
    assert len(rig.seen) == executing.FEW + 2


def test_what_dom0_writes_is_found_barred_and_told() -> None:
    rig = Rig()
    rig.execute(rig.data)
    rig.poke(rig.data, b"from outside")
    for _ in range(3):
        rig.engine.look()
    assert rig.right(rig.data) is Access.RW
    assert [gap.kind for gap in rig.engine.gaps()] == ["changed meanwhile"]
    rig.execute(rig.data)
    assert rig.seen[-1].kind is ExecutionKind.CHANGED


def test_what_dom0_writes_to_a_frame_with_a_breakpoint_does_not_run_unhashed() -> None:
    rig = Rig()
    rig.execute(rig.gfn)
    rig.poke(rig.gfn, rig.way.memory.pages[rig.gfn][:-1] + b"\x90")
    rig.engine.look()
    assert rig.right(rig.gfn) is Access.N
    rig.execute(rig.gfn)
    assert rig.seen[-1].hash == page_hash(rig.way.memory.pages[rig.gfn]).hex()


def test_what_a_vcpu_wrote_is_not_taken_for_doms() -> None:
    rig = Rig()
    rig.execute(rig.data)
    rig.write(rig.data, b"by the guest")
    rig.engine.look()
    assert rig.engine.gaps() == []


def test_frames_that_come_later_are_barred_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pagecheck, "_LEAST", 1 << 20)
    rig = Rig()
    rig.domain.rights[1, rig.data] = int(Access.RWX)  # exchanged: the rights of the guest's own memory
    rig.engine.look()
    assert rig.right(rig.data) is Access.RW
    (gap,) = rig.engine.gaps()
    assert gap.kind == "changed meanwhile"
    rig.engine.look()
    assert rig.engine.gaps() == []


def test_a_kernel_that_is_not_known_is_watched_all_the_same() -> None:
    rig = Rig(known=False)
    rig.execute(rig.data)
    (seen,) = rig.seen
    assert (seen.process, seen.origin) == (None, None)
    assert seen.hash == page_hash(rig.way.memory.pages[rig.data]).hex()
    assert rig.engine.detach() == []
    assert rig.domain.left() == {}


def test_detach_leaves_nothing_behind() -> None:
    rig = Rig()
    rig.fault(rig.data)
    assert rig.engine.detach() == []
    assert rig.domain.left() == {}
    assert rig.domain.rights == {}
    assert rig.domain.answered == 1


@pytest.mark.parametrize("digest", [None, bytes(range(16))])
@pytest.mark.parametrize("gla", [None, CODE])
def test_a_recording_keeps_all_of_it(digest: bytes | None, gla: int | None) -> None:
    one = Executed(ExecutionKind.REUSED, 77, digest, gla, 3)
    assert Executed.parse(77, one.text()) == one
