# SPDX-License-Identifier: GPL-2.0-or-later
"""What a monitor has left on a guest, read without changing anything: any monitor, not only drakmet."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from drakmet.guardian.stuck import held_vcpus
from drakmet.pyxen.altp2m import HOST_VIEW, Altp2m
from drakmet.pyxen.failures import XenCallError
from drakmet.pyxen.foreign import ForeignMemory
from drakmet.pyxen.ports import listened, ports_of
from drakmet.pyxen.recovery import Journal, owner
from drakmet.pyxen.xenstore import Xenstore

if TYPE_CHECKING:
    from drakmet.pyxen.control import Control, DomainInfo

_LOOK: Final = 0.5
"""Seconds that a vCPU which could run is watched for whether it does."""
_LIBXL_SLACK: Final = 1024
"""KiB that libxl lets a guest have beyond what its configuration says (LIBXL_MAXMEM_CONSTANT)."""
_AFTER_SPECIAL: Final = 0xFF000
"""Frames of the toolstack's end here (tools/libs/guest/xg_dom_x86.c): no guest starts with RAM right behind them."""
_FOUR_GIB: Final = 1 << 20
_SMALLEST_BELOW: Final = 0xC0000
_MOST: Final = 4096
_NOT_MONITORS: Final = ("xenstored", "oxenstored", "xenconsoled", "qemu-system-", "qemu-dm", "xl")


@dataclass
class Survey:
    """What was found on one guest; frames by number, memory in KiB."""

    domid: int
    name: str
    ring: bool = False
    """An event ring is enabled."""
    listener: str | None = None
    """The monitor that lives and has it."""
    altp2m: bool = False
    views: dict[int, int] = field(default_factory=dict)
    """vCPUs that are in another view than the guest's own memory."""
    held: list[int] = field(default_factory=list)
    """vCPUs that could run and do not: they wait for an answer."""
    paused: bool = False
    noted_by: int | None = None
    """The drakmet that is dead and noted what it did to this guest."""
    frames: list[int] = field(default_factory=list)
    """Frames beyond the guest's own."""
    unsure_frames: int = 0
    """Frames there that may be the guest's."""
    limit: int | None = None
    """The memory limit it has, if that was raised."""
    right_limit: int | None = None
    """The one it should have."""

    @property
    def stale(self) -> bool:
        """Whether anything was left on the guest that is to be taken back."""
        left = self.ring or self.altp2m or self.held or self.noted_by is not None or self.frames
        return bool(left) or self.limit is not None

    def facts(self) -> dict[str, Any]:
        """Return all of it, for JSON."""
        return {**asdict(self), "stale": self.stale}

    def lines(self) -> list[str]:
        """Return what was found, a sentence each."""
        found = []
        if self.noted_by is not None:
            found.append(f"a drakmet (process {self.noted_by}) had it and is dead")
        if self.listener is not None:
            found.append(f"a monitor that lives listens to its events: {self.listener}")
        elif self.ring:
            found.append("an event ring that nobody listens to is enabled")
        if self.altp2m:
            found.append("altp2m is on")
        found += [f"vCPU {vcpu} is in view {view}" for vcpu, view in self.views.items()]
        found += [f"vCPU {vcpu} waits for an answer" for vcpu in self.held]
        if self.frames:
            found.append(f"{len(self.frames)} frames were added, {self.frames[0]:#x} to {self.frames[-1]:#x}")
        if self.unsure_frames:
            found.append(f"{self.unsure_frames} frames behind its own may be the guest's: they stay")
        if self.limit is not None:
            found.append(f"its memory limit was raised from {self.right_limit} to {self.limit} KiB")
        if self.paused:
            found.append("it is paused")
        return found


def survey(control: Control, domid: int) -> Survey:
    """Look at a guest for half a second."""
    info = control.domain(domid)
    with Xenstore() as store:
        found = Survey(domid, store.name_of(domid) or str(domid), paused=info.paused)
        expected = _expected(store, domid)
    found.ring = bool(ports_of(control, domid).xen)
    if listened(control, domid):
        found.listener = ", ".join(_monitors()) or "a process that cannot be seen from here"
    views = Altp2m(control, domid)
    with contextlib.suppress(XenCallError):
        found.altp2m = views.active
    if found.altp2m:
        for vcpu in range(info.vcpus):
            with contextlib.suppress(XenCallError):
                if (view := views.view_of(vcpu)) != HOST_VIEW:
                    found.views[vcpu] = view
    before = held_vcpus(control, domid)
    time.sleep(_LOOK)
    found.held = [vcpu for vcpu, spent in held_vcpus(control, domid).items() if before.get(vcpu) == spent]
    journal = Journal(domid, info.handle)
    if journal.load() and owner(control, domid) is None:
        found.noted_by, found.frames = journal.pid, journal.gfns
        if journal.max_memkb is not None and journal.max_memkb != info.max_memkb:
            found.limit, found.right_limit = info.max_memkb, journal.max_memkb
    elif found.listener is None and expected is not None:
        _without_note(control, info, expected, found)
    return found


def _expected(store: Xenstore, domid: int) -> tuple[int, int] | None:
    """Return how much memory the toolstack means the guest to have now and at most, in KiB."""
    values = [store.read_text(f"/local/domain/{domid}/memory/{name}") for name in ("target", "static-max", "videoram")]
    if any(value is None or not value.lstrip("-").isdecimal() for value in values):
        return None
    target, most, video = (max(int(value or 0), 0) for value in values)
    return target + video, most + video


def _without_note(control: Control, info: DomainInfo, expected: tuple[int, int], found: Survey) -> None:
    """Find what no journal tells of, by what the toolstack gave the guest."""
    now, most = expected
    right = most + _LIBXL_SLACK
    if info.max_memkb > right:
        found.limit, found.right_limit = info.max_memkb, right
    # How large the hole below 4 GiB is differs: of a guest that may reach beyond it only what is surely not RAM.
    first = _AFTER_SPECIAL if most // 4 < _SMALLEST_BELOW else _FOUR_GIB + most // 4
    last = control.max_gpfn(info.domid)
    looked_at = range(max(first, last - _MOST), last + 1)
    if not looked_at:
        return
    with ForeignMemory() as foreign, foreign.map(info.domid, looked_at) as frames:
        there = [gfn for index, gfn in enumerate(looked_at) if index not in frames.errors]
    # What a guest maps there of others' or of Xen's (grants) is not counted as its own.
    if there and len(there) <= info.tot_pages - now // 4 and found.stale:
        found.frames = there
    else:
        found.unsure_frames = len(there)


def _monitors() -> list[str]:
    """Return the processes here that may be monitors: they have event channels and map a guest's memory."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            name = (entry / "comm").read_text().strip()
            if name.startswith(_NOT_MONITORS):
                continue
            files = {str(fd.readlink()) for fd in (entry / "fd").iterdir()}
            if not any(file.endswith("xen/evtchn") for file in files):
                continue
            if "xen/privcmd" in (entry / "maps").read_text():
                found.append(f"{name} (process {entry.name})")
    return sorted(found)
