# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest memory over a stand-in for libxenforeignmemory: a file's pages are the guest's frames."""

from __future__ import annotations

import errno
import mmap
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from drakmet.errors import GuestError
from drakmet.pyxen import ForeignMemory, GuestMemory, XenCallError, _memory, foreign
from drakmet.pyxen._lib import libraries
from drakmet.pyxen.layout import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

HOLES = {2, 3, 7}
FRAMES = 10


class FakeXen:
    """Maps a file's pages as libxenforeignmemory maps frames; frames in ``holes`` fail one by one."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.holes = set(HOLES)
        self.refuse = 0

    def xenforeignmemory_open(self, logger: Any, flags: int) -> Any:
        return libraries().ffi.cast("xenforeignmemory_handle *", 1)

    def xenforeignmemory_close(self, handle: Any) -> int:
        return 0

    def xenforeignmemory_map2(
        self, handle: Any, domid: int, where: Any, prot: int, flags: int, count: int, gfns: Any, errors: Any
    ) -> Any:
        shared = libraries()
        address = int(shared.ffi.cast("uintptr_t", where))
        if self.refuse:
            shared.ffi.errno = self.refuse
            return shared.ffi.NULL
        for index in range(count):
            if gfns[index] in self.holes or gfns[index] >= FRAMES:
                errors[index] = -errno.EINVAL
                continue
            page = shared.ffi.cast("void *", address + index * PAGE_SIZE)
            shared.libc.mmap(page, PAGE_SIZE, prot, mmap.MAP_SHARED | flags, self.fd, gfns[index] * PAGE_SIZE)
        return where


@pytest.fixture
def xen(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeXen]:
    path = tmp_path / "guest"
    path.write_bytes(b"".join(bytes([gfn]) * PAGE_SIZE for gfn in range(FRAMES)))
    fd = os.open(path, os.O_RDWR)
    fake = FakeXen(fd)
    real = libraries()
    stand_in = SimpleNamespace(ffi=real.ffi, libc=real.libc, foreignmemory=fake, quiet=real.ffi.NULL)
    monkeypatch.setattr(foreign, "libraries", lambda: stand_in)
    monkeypatch.setattr(_memory, "libraries", lambda: stand_in)
    yield fake
    os.close(fd)


def test_guest_memory_reads_frames_and_refuses_holes(xen: FakeXen) -> None:
    with ForeignMemory() as handle, GuestMemory(handle, 1, FRAMES) as memory:
        assert memory.size == FRAMES * PAGE_SIZE
        assert memory.read(PAGE_SIZE - 1, 2) == b"\x00\x01"
        assert memory.read_u64(5 * PAGE_SIZE) == 0x0505050505050505
        assert memory.words[4 * PAGE_SIZE >> 3] == 0x0404040404040404
        assert list(memory.extents()) == [
            (0, 2 * PAGE_SIZE),
            (4 * PAGE_SIZE, 3 * PAGE_SIZE),
            (8 * PAGE_SIZE, 2 * PAGE_SIZE),
        ]
        assert bytes(memory.buffer[2 * PAGE_SIZE : 4 * PAGE_SIZE]) == bytes(2 * PAGE_SIZE)  # no fault
        for gpa, length in (
            (2 * PAGE_SIZE, 1),
            (2 * PAGE_SIZE - 1, 2),
            (memory.size - 1, 2),
            (-1, 1),
            (0, -1),
            (1 << 60, 8),
        ):
            with pytest.raises(GuestError, match="no guest memory"):
                memory.read(gpa, length)
        for gpa in (7 * PAGE_SIZE, 7 * PAGE_SIZE - 4, memory.size - 4, -8):
            with pytest.raises(GuestError, match="no guest memory"):
                memory.read_u64(gpa)
        with pytest.raises(TypeError):
            memory.buffer[0] = 1


def test_refresh_sees_what_the_guest_gave_up_and_got(xen: FakeXen) -> None:
    with ForeignMemory() as handle, GuestMemory(handle, 1, FRAMES) as memory:
        xen.holes = {5}
        memory.refresh([2, 5, 99999, -1])
        assert memory.read(2 * PAGE_SIZE, 1) == b"\x02"
        assert memory.present[5] == 0
        assert memory.buffer[5 * PAGE_SIZE] == 0


def test_closing_twice_is_safe_and_old_views_read_zeros(xen: FakeXen) -> None:
    with ForeignMemory() as handle:
        memory = GuestMemory(handle, 1, FRAMES)
        view = memory.buffer
        assert view[PAGE_SIZE] == 1
        memory.close()
        memory.close()
        assert view[PAGE_SIZE] == 0
        with pytest.raises(GuestError):
            memory.read(0, 1)
    handle.close()
    with pytest.raises(XenCallError, match="EBADF"):
        _ = handle.handle


def test_a_caller_chooses_the_error_for_missing_memory(xen: FakeXen) -> None:
    with (
        ForeignMemory() as handle,
        GuestMemory(handle, 1, FRAMES, missing=KeyError) as memory,
        pytest.raises(KeyError),
    ):
        memory.read(2 * PAGE_SIZE, 8)


def test_frames_anywhere_are_mapped_writable(xen: FakeXen) -> None:
    with ForeignMemory() as handle, handle.map(1, [9, 7, 1], writable=True) as frames:
        assert frames.errors == {1: errno.EINVAL}
        assert frames.buffer[0] == 9
        frames.buffer[0] = 0xCC
        with handle.map(1, [9]) as again:
            assert again.buffer[0] == 0xCC
            assert again.buffer.readonly


def test_a_refused_map_says_so_and_leaves_no_hole(xen: FakeXen) -> None:
    with ForeignMemory() as handle:
        xen.refuse = errno.EPERM
        with pytest.raises(XenCallError, match="EPERM") as caught:
            GuestMemory(handle, 3, FRAMES)
        assert caught.value.domain == 3
        assert "as root" in str(caught.value)
