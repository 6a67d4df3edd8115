# SPDX-License-Identifier: GPL-2.0-or-later
"""When the channel sleeps, yields, masks and unmasks; a socket pair stands for the device."""

from __future__ import annotations

import socket
import struct
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from drakmet.pyxen import Channel, Ring, XenCallError, evtchn, layout
from drakmet.pyxen._lib import libraries
from drakmet.pyxen.ring import REQ_PROD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PORT = struct.pack("=I", 3)


class Device:
    """The event channel device and the hypercalls, with what was done to them."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.far.setblocking(False)
        self.done: list[str] = []
        self.on_yield: Callable[[], None] = lambda: None
        self.refuses = False

    def hand_over(self) -> None:
        if self.refuses:
            raise OSError
        self.done.append("send and yield")
        self.on_yield()

    def send(self) -> None:
        self.done.append("send")

    def give_way(self) -> None:
        self.done.append("yield")
        self.on_yield()

    def close(self) -> None:
        self.done.append("close")

    def unmasked(self) -> int:
        try:
            return len(self.far.recv(400)) // 4
        except BlockingIOError:
            return 0


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    made = Device()
    ffi = libraries().ffi
    library = SimpleNamespace(
        xenevtchn_open=lambda *_: ffi.cast("xenevtchn_handle *", 1),
        xenevtchn_bind_interdomain=lambda *_: 3,
        xenevtchn_fd=lambda _: made.near.fileno(),
        xenevtchn_unbind=lambda *_: made.done.append("unbind"),
        xenevtchn_close=lambda _: made.done.append("closed"),
    )
    monkeypatch.setattr(evtchn, "libraries", lambda: SimpleNamespace(ffi=ffi, evtchn=library, quiet=ffi.NULL))
    monkeypatch.setattr(evtchn, "Yielder", lambda port: made)

    def ioctl(fd: int, code: int, argument: bytes) -> None:
        assert (code, argument) == (evtchn._IOCTL_NOTIFY, PORT)
        made.done.append("notify")

    monkeypatch.setattr(evtchn.fcntl, "ioctl", ioctl)
    yield made
    made.near.close()
    made.far.close()


def empty_ring() -> Ring:
    ring = Ring(bytearray(layout.PAGE_SIZE))
    ring.initialise()
    return ring


def put(ring: Ring) -> None:
    ring.ints[REQ_PROD] += 1


def test_while_events_come_it_never_sleeps_nor_unmasks(device: Device) -> None:
    ring = empty_ring()
    with Channel(1, 7) as channel:
        device.far.send(PORT)
        put(ring)
        assert channel.wait_for(ring, 1)
        ring.take()
        channel.hand_over()  # the channel was never masked: the first event was seen before the kernel told of it
        assert device.done == ["notify"]
        assert not channel.wait_for(ring, 1)  # told now, for nothing
        device.on_yield = lambda: put(ring)
        for _ in range(3):
            channel.hand_over()
            assert channel.wait_for(ring, 0)
            ring.take()
        assert device.done[1:] == ["send and yield"] * 3
        assert device.unmasked() == 0


def test_where_the_guest_has_its_own_cpu_it_looks_again_and_yields_nothing(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = empty_ring()
    with Channel(1, 7, yields=1, poll=1e-3) as channel:
        device.far.send(PORT)
        assert not channel.wait_for(ring, 1)

        def late(_: object, rounds: int) -> Iterator[None]:
            for number in range(rounds):
                if number == 5:
                    put(ring)
                yield

        monkeypatch.setattr(evtchn, "repeat", late)
        for _ in range(3):
            channel.hand_over()
            assert channel.wait_for(ring, 0)
            ring.take()
        assert device.done == ["send"] * 3
        monkeypatch.undo()
        assert not channel.wait_for(ring, 0.001)  # nothing any more: looked, yielded, unmasked, slept
        assert device.done[3:] == ["yield"]
        assert device.unmasked() == 1


def test_when_none_comes_it_yields_a_few_times_then_unmasks_and_sleeps(device: Device) -> None:
    ring = empty_ring()
    with Channel(1, 7, yields=4) as channel:
        device.far.send(PORT)
        assert not channel.wait_for(ring, 1)
        assert not channel.wait_for(ring, 0.001)
        assert device.done == ["yield"] * 4
        assert device.unmasked() == 1
        assert not channel.wait_for(ring, 0.001)  # open already
        assert device.unmasked() == 0
        assert device.done == ["yield"] * 4


def test_an_event_between_the_last_look_and_the_unmasking_is_not_slept_on(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = empty_ring()
    with Channel(1, 7, yields=1) as channel:
        device.far.send(PORT)
        assert not channel.wait_for(ring, 1)

        def write(fd: int, data: bytes) -> int:
            put(ring)
            return len(data)

        monkeypatch.setattr(evtchn.os, "write", write)
        assert channel.wait_for(ring, None)  # would sleep for ever


def test_without_hypercalls_it_does_the_plain_thing(device: Device) -> None:
    ring = empty_ring()
    with Channel(1, 7) as channel:
        device.far.send(PORT)
        assert not channel.wait_for(ring, 1)
        device.refuses = True
        channel.hand_over()
        channel.hand_over()
        assert device.done == ["close", "notify", "notify"]
    with Channel(1, 7, yields=0) as channel:
        channel.hand_over()
    assert device.done[-3:] == ["notify", "unbind", "closed"]


def test_a_refused_bind_says_so(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        libraries().ffi.errno = 22
        return -1

    library = evtchn.libraries().evtchn
    library.xenevtchn_bind_interdomain = refuse
    shared = SimpleNamespace(ffi=libraries().ffi, evtchn=library, quiet=None)
    monkeypatch.setattr(evtchn, "libraries", lambda: shared)
    with pytest.raises(XenCallError, match="EINVAL") as caught:
        Channel(9, 7)
    assert caught.value.domain == 9
    assert "other end is gone" in str(caught.value)
    assert device.done == ["closed"]


def test_closing_twice_unbinds_once(device: Device) -> None:
    channel = Channel(1, 7)
    channel.close()
    channel.close()
    assert device.done == ["close", "unbind", "closed"]
