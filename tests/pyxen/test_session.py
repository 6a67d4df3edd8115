# SPDX-License-Identifier: GPL-2.0-or-later
"""The order of attaching and leaving, over a stand-in for Xen's libraries that knows what Xen insists on."""

from __future__ import annotations

import errno
import json
import mmap
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from drakmet.pyxen import (
    Control,
    Session,
    XenCallError,
    _memory,
    altp2m,
    control,
    evtchn,
    foreign,
    layout,
    monitor,
    owner,
    recover,
    recovery,
    xenstore,
)
from drakmet.pyxen._lib import libraries

if TYPE_CHECKING:
    from collections.abc import Callable

DOMAIN = 5
PAGES, LIMIT = 1000, 1001
RING_GFN = 900


class Xen:
    """One guest of two vCPUs; refuses what the real one refuses, and crashes it where the real one would hang it."""

    def __init__(self) -> None:
        self.ffi = libraries().ffi
        self.page = mmap.mmap(-1, layout.PAGE_SIZE)
        self.page[:12] = b"\x3d\x00\x00\x00\x01\x00\x00\x00\x3d\x00\x00\x00"  # what a session before this left
        self.calls: list[str] = []
        self.pauses = 0
        self.frames = set(range(RING_GFN + 1))
        self.limit = LIMIT
        self.memory = 1 << 20
        self.highest = 0
        self.enabled = self.altp2m = False
        self.views: set[int] = set()
        self.view = 0
        self.kinds: set[str] = set()
        self.stepping = {0: False, 1: False}
        self.waiting = {0: False, 1: False}
        self.store: dict[str, bytes] = {}
        self.fail: str | None = None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not name.startswith(("xc_", "xenevtchn_", "xenforeignmemory_", "xs_")):
            raise AttributeError(name)

        def call(*args: Any) -> Any:
            self.calls.append(name)
            if name == self.fail:
                self.ffi.errno = errno.EIO
                return -1
            return getattr(self, "_" + name, lambda *_: 0)(*args)

        return call

    def refuse(self, number: int) -> int:
        self.ffi.errno = number
        return -1

    # libxenctrl

    def _xc_interface_open(self, *_: Any) -> Any:
        return self.ffi.cast("xc_interface *", 1)

    def _xc_get_last_error(self, *_: Any) -> Any:
        return self.ffi.NULL

    def _xc_vm_event_get_version(self, *_: Any) -> int:
        return layout.INTERFACE_VERSION

    def _xc_domain_getinfolist(self, _: Any, first: int, count: int, info: Any) -> int:
        if first > DOMAIN:
            return 0
        info.domain, info.tot_pages, info.max_pages, info.max_vcpu_id = DOMAIN, len(self.frames), self.limit, 1
        return 1

    def _xc_evtchn_status(self, *_: Any) -> int:
        return self.refuse(errno.EINVAL)

    def _xc_domain_pause(self, *_: Any) -> int:
        self.pauses += 1
        return 0

    def _xc_domain_unpause(self, *_: Any) -> int:
        assert self.pauses > 0
        self.pauses -= 1
        return 0

    def _xc_hvm_param_get(self, _: Any, domid: int, param: int, value: Any) -> int:
        value[0] = RING_GFN
        return 0

    def _xc_monitor_enable(self, _: Any, domid: int, port: Any) -> Any:
        if self.enabled:
            self.frames.add(RING_GFN)  # as libxenctrl does, before it asks
            self.refuse(errno.EBUSY)
            return self.ffi.NULL
        self.enabled = True
        self.frames.discard(RING_GFN)
        port[0] = 7
        return self.ffi.cast("void *", self.ffi.from_buffer(self.page))

    def _xc_monitor_disable(self, *_: Any) -> int:
        if not self.enabled:
            return self.refuse(errno.EINVAL)
        assert not any(self.stepping.values()), "the guest would step for ever"
        assert not self.views or self.view == 0
        self.enabled = False
        self.kinds.clear()
        return 0

    def _xc_monitor_resume(self, *_: Any) -> int:
        view = memoryview(self.page)
        for index in range(int.from_bytes(view[8:12], "little")):
            at = layout.RING_HEADER + index * layout.SLOT_SIZE
            if view[at + 4] & layout.Flag.VCPU_PAUSED:
                self.waiting[int.from_bytes(view[at + 12 : at + 16], "little")] = False
        return 0

    def _kind(self, name: str, on: bool) -> int:
        if (name in self.kinds) == on:
            return self.refuse(errno.EEXIST)
        (self.kinds.add if on else self.kinds.discard)(name)
        return 0

    def _xc_monitor_software_breakpoint(self, _: Any, domid: int, on: bool) -> int:
        return self._kind("breakpoint", on)

    def _xc_monitor_singlestep(self, _: Any, domid: int, on: bool) -> int:
        return self._kind("step", on)

    def _xc_domain_debug_control(self, _: Any, domid: int, op: int, vcpu: int) -> int:
        self.stepping[vcpu] = False
        return 0

    def _xc_altp2m_get_domain_state(self, _: Any, domid: int, state: Any) -> int:
        state[0] = self.altp2m
        return 0

    def _xc_altp2m_set_domain_state(self, _: Any, domid: int, state: bool) -> int:
        self.altp2m, self.view = state, 0
        self.views.clear()
        return 0

    def _xc_altp2m_create_view(self, _: Any, domid: int, access: int, view: Any) -> int:
        view[0] = len(self.views) + 1
        self.views.add(view[0])
        return 0

    def _xc_altp2m_destroy_view(self, _: Any, domid: int, view: int) -> int:
        if self.view == view:
            return self.refuse(errno.EBUSY)
        self.views.discard(view)
        return 0

    def _xc_altp2m_switch_to_view(self, _: Any, domid: int, view: int) -> int:
        self.view = view
        return 0

    def _xc_domain_maximum_gpfn(self, _: Any, domid: int, found: Any) -> int:
        self.highest = max(self.frames | {self.highest})
        found[0] = self.highest
        return 0

    def _xc_domain_setmaxmem(self, _: Any, domid: int, kib: int) -> int:
        self.limit = kib // 4
        return 0

    def _xc_domain_populate_physmap_exact(self, _: Any, domid: int, count: int, o: int, f: int, gfns: Any) -> int:
        wanted = {int(gfns[index]) for index in range(count)}
        assert not wanted & self.frames, "a frame of the guest would be lost"
        room = min(self.limit - len(self.frames), self.memory)
        self.frames |= set(sorted(wanted)[: max(room, 0)])
        if room < count:
            return self.refuse(errno.ENOMEM)
        return 0

    def _xc_domain_decrease_reservation_exact(self, _: Any, domid: int, count: int, order: int, gfns: Any) -> int:
        wanted = {int(gfns[index]) for index in range(count)}
        assert not self.views or max(wanted) <= RING_GFN, "Xen would reset the views under the guest"
        if wanted <= self.frames:
            self.frames -= wanted
            return 0
        return self.refuse(errno.EINVAL)

    # the other libraries

    def _xenevtchn_open(self, *_: Any) -> Any:
        return self.ffi.cast("xenevtchn_handle *", 1)

    def _xenevtchn_bind_interdomain(self, *_: Any) -> int:
        return 3

    def _xenforeignmemory_open(self, *_: Any) -> Any:
        return self.ffi.cast("xenforeignmemory_handle *", 1)

    def _xenforeignmemory_map2(
        self, f: Any, d: int, at: Any, p: int, fl: int, count: int, gfns: Any, errors: Any
    ) -> Any:
        for index in range(count):
            errors[index] = 0 if int(gfns[index]) in self.frames else -errno.EINVAL
        return at

    def _xs_open(self, *_: Any) -> Any:
        return self.ffi.cast("xs_handle *", 1)

    def _xs_write(self, _: Any, t: int, path: bytes, value: bytes, length: int) -> bool:
        self.store[path.decode()] = value
        return True

    def _xs_rm(self, _: Any, t: int, path: bytes) -> bool:
        return self.store.pop(path.decode(), None) is not None or self.refuse(errno.ENOENT) == 0

    def _xs_read(self, _: Any, t: int, path: bytes, length: Any) -> Any:
        value = self.store.get(path.decode())
        if value is None:
            self.refuse(errno.ENOENT)
            return self.ffi.NULL
        length[0] = len(value)
        self.kept = self.ffi.new("char[]", value)
        return self.ffi.cast("void *", self.kept)


@pytest.fixture
def xen(monkeypatch: pytest.MonkeyPatch) -> Xen:
    made = Xen()
    real = libraries()
    libc = SimpleNamespace(mmap=real.libc.mmap, free=lambda _: None)
    stand_in = SimpleNamespace(
        ffi=real.ffi, libc=libc, ctrl=made, evtchn=made, foreignmemory=made, store=made, quiet=real.ffi.NULL
    )
    for module in (control, altp2m, monitor, evtchn, foreign, xenstore, _memory):
        monkeypatch.setattr(module, "libraries", lambda: stand_in)
    monkeypatch.setattr(Session, "drain", lambda self: made.calls.append("drain") or 0)
    monkeypatch.setattr(evtchn, "Yielder", lambda port: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(evtchn.Channel, "poll", lambda self, seconds: False)
    monkeypatch.setattr(evtchn.Channel, "unmask", lambda self: None)
    monkeypatch.setattr(evtchn.select, "poll", lambda: SimpleNamespace(register=lambda *_: None))
    # a fixed mapping over the page would be one over a part of Python's heap
    monkeypatch.setattr(monitor._memory, "blank", lambda *_, **__: None)
    return made


def untouched(xen: Xen) -> None:
    """Check that the guest is as it was."""
    assert xen.frames == set(range(RING_GFN + 1))
    assert xen.limit == LIMIT
    assert not (xen.enabled or xen.altp2m or xen.views or xen.kinds or xen.pauses)
    assert not xen.store


@pytest.mark.parametrize("extra", [0, 1, 300])
def test_a_session_leaves_no_trace_and_may_be_closed_twice(xen: Xen, extra: int) -> None:
    with Control() as handle:
        session = Session(handle, DOMAIN)
        assert session.ring.unconsumed() == 0  # the page was full of another session's
        assert xen.kinds == {"breakpoint", "step"}
        xen.view = session.altp2m.create_view()
        gfns = session.frames.add(extra)
        assert len(gfns) == extra
        assert xen.pauses == 0
        xen.stepping[1] = True  # one is under way
        session.close()
        session.close()
    untouched(xen)
    assert xen.calls.index("drain") < xen.calls.index("xc_monitor_disable")


def test_a_host_out_of_memory_gets_back_the_part_it_gave(xen: Xen) -> None:
    xen.memory = 10
    with Control() as handle, Session(handle, DOMAIN) as session:
        with pytest.raises(XenCallError, match="ENOMEM"):
            session.frames.add(50)
        assert len(xen.frames) > RING_GFN + 5
    untouched(xen)


@pytest.mark.parametrize(
    "call", ["xc_altp2m_get_domain_state", "xc_monitor_software_breakpoint", "xenevtchn_bind_interdomain"]
)
def test_an_attach_that_fails_half_way_is_undone(xen: Xen, call: str) -> None:
    xen.fail = call
    with Control() as handle, pytest.raises(XenCallError, match=call):
        Session(handle, DOMAIN)
    untouched(xen)


def test_a_second_monitor_is_refused_and_leaves_nothing(xen: Xen) -> None:
    with Control() as handle:
        with Session(handle, DOMAIN):
            with pytest.raises(XenCallError, match="EBUSY"):
                Session(handle, DOMAIN)
            assert RING_GFN not in xen.frames
        untouched(xen)


def test_every_session_takes_the_same_frames(xen: Xen) -> None:
    taken = []
    with Control() as handle:
        for _ in range(3):
            with Session(handle, DOMAIN) as session:
                taken.append([*session.frames.add(40), *session.frames.add(70)])
    assert taken[0] == taken[1] == taken[2]
    assert taken[0] == list(range(RING_GFN + 1, RING_GFN + 111))


def test_closing_a_control_unpauses_what_it_paused(xen: Xen) -> None:
    handle = Control()
    handle.pause(DOMAIN)
    handle.pause(DOMAIN)
    handle.unpause(DOMAIN)
    handle.close()
    handle.close()
    assert xen.pauses == 0
    with pytest.raises(XenCallError, match="EBADF"):
        handle.pause(DOMAIN)


def test_a_dead_monitors_guest_is_recovered(xen: Xen, monkeypatch: pytest.MonkeyPatch) -> None:
    with Control() as dying:
        session = Session(dying, DOMAIN)
        xen.view = session.altp2m.create_view()
        session.frames.add(120)
        xen.stepping[0] = xen.waiting[1] = True
        with Control() as handle:
            assert owner(handle, DOMAIN) is not None
            monkeypatch.setattr(recovery.os, "kill", lambda *_: (_ for _ in ()).throw(ProcessLookupError))
            assert owner(handle, DOMAIN) is None
            with pytest.raises(XenCallError, match="EBUSY"):
                Session(handle, DOMAIN)
            recover(handle, DOMAIN)
        assert not any(xen.waiting.values())
        untouched(xen)
        session._closed = True


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b'{"pid": 1}',
        json.dumps({"pid": 1, "guest": "other", "gfns": [[1000, 2]], "max_memkb": 1}).encode(),
        json.dumps({"pid": 1, "guest": str(control.uuid.UUID(int=0)), "gfns": [[0, 2]], "max_memkb": 1}).encode(),
        json.dumps({"pid": 1, "guest": str(control.uuid.UUID(int=0)), "gfns": [[9, 1 << 40]], "max_memkb": 1}).encode(),
    ],
)
def test_a_journal_that_is_not_ours_takes_nothing_from_the_guest(xen: Xen, text: bytes) -> None:
    xen.store[recovery._path(DOMAIN)] = text
    with Control() as handle:
        assert owner(handle, DOMAIN) is None
        recover(handle, DOMAIN)
    untouched(xen)
