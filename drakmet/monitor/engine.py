# SPDX-License-Identifier: GPL-2.0-or-later
"""Puts traps into a running domain and takes them out again.

Everything that can be made while the guest runs is made then: frames, copies, the view, the ring. The guest is stopped
only to turn events on, to compare the copies with what it wrote meanwhile, and to switch the view.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from drakmet.errors import DrakmetError, GuestError, XenError
from drakmet.guest.paging import AddressSpace
from drakmet.monitor import unnoticed
from drakmet.monitor.answers import Answers
from drakmet.monitor.armed import Place
from drakmet.monitor.executing import Executing
from drakmet.monitor.loop import make_batch
from drakmet.monitor.pagecheck import PageCheck
from drakmet.monitor.pageevents import EXECUTE, REGISTERS
from drakmet.monitor.shadow import Shadows
from drakmet.monitor.undo import Undo
from drakmet.monitor.viewrights import ViewRights
from drakmet.pyxen import HOST_VIEW, Access
from drakmet.pyxen.layout import SLOTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from drakmet.guardian.handle import Guardian
    from drakmet.guest.linux import LinuxGuest
    from drakmet.guest.memory import PhysicalMemory
    from drakmet.monitor.dispatch import Hits
    from drakmet.monitor.pagecheck import Gap
    from drakmet.monitor.pageevents import Executed, PageEvents
    from drakmet.monitor.unnoticed import Change
    from drakmet.pyxen import Altp2m, Channel, Control, DomainInfo, ExtraFrames, ForeignMap, Monitor, Ring

_SPARE: Final = 48
"""Shadow frames beyond those of the functions, for the places that calls of them return to."""
_SINGLESTEP: Final = 1 << 2  # xen/domctl.h, XEN_DOMCTL_MONITOR_EVENT_SINGLESTEP
_DRAINS: Final = 64
_NOWHERE: Final = -1
_UNKNOWN: Final = -2
"""In the place of the guest-physical address of a place without breakpoint: nothing is mapped there, or it was not."""


class Domain(Protocol):
    """What the engine needs of a running domain (`drakmet.sources.xen.XenSource`)."""

    control: Control
    domid: int
    guardian: Guardian | None

    @property
    def memory(self) -> PhysicalMemory:
        """Its memory as it is."""

    def state(self) -> DomainInfo | None:
        """What Xen says of it, None if it is gone."""

    def altp2m(self) -> Altp2m:
        """Its views."""

    def monitor(self) -> Monitor:
        """Its event ring, enabled."""

    def channel(self, port: int) -> Channel:
        """The event channel to the ring."""

    def frames(self) -> ExtraFrames:
        """Room for frames past its own."""

    def map(self, gfns: Sequence[int]) -> ForeignMap:
        """Frames of it, for writing."""

    def released(self) -> None:
        """Be told that all was taken back."""


class Engine:
    """The traps of one domain. After `attach` the guest runs and `channel.fd` tells of events; `batch` handles them."""

    def __init__(self, domain: Domain, guest: LinuxGuest | None) -> None:
        self.domain = domain
        self._guest = guest
        self._control = domain.control
        self._domid = domain.domid
        # Two lists: what must go while the guest is stopped and before any of its frames do, and the rest.
        self._undo = Undo()
        self._later = Undo()
        self.places: dict[int, Place] = {}
        self.paused_attach: int | None = None
        self.paused_detach: int | None = None
        self.pauses: list[tuple[int, int]] = []
        """When the guest was stopped by us, from and to in ns since 1970; whoever has told of them empties it."""
        self.events: dict[str, int] = {}
        self.batch: Callable[[], int] = lambda: 0
        self.channel: Channel | None = None
        self.ring: Ring | None = None
        self._shadows: Shadows | None = None
        self._answers: Answers | None = None
        self._altp2m: Altp2m | None = None
        self._gpas: dict[int, int] = {}
        self._window: ForeignMap | None = None
        self._forget: Callable[[], object] | None = None
        self._space: AddressSpace | None = None
        if guest is not None:
            # Not the guest view's own: what is read here is nothing that a recording has to tell a replay.
            self._space = AddressSpace(domain.memory, guest.kernel.cr3, guest.kernel.levels)
        self._check: PageCheck | None = None

    @property
    def shadow_frames(self) -> int:
        """How many frames are shadowed."""
        return len(self._shadows) if self._shadows is not None else 0

    @property
    def undo_steps(self) -> list[str]:
        """What a detach would take back, in that order: what a guardian has to know."""
        return self._undo.names + self._later.names

    def attach(
        self,
        places: dict[int, Place],
        hits: Hits,
        registers: set[str],
        note: Callable[..., None] | None = None,
        pages: PageEvents | None = None,
    ) -> None:
        """Arm ``places`` and let the guest run into them; if anything fails, the guest is as it was.

        With ``pages``, these are told of every page that is executed.
        """
        try:
            self._attach(places, hits, registers, note, pages)
        except BaseException:
            self.detach()
            raise

    def _attach(
        self,
        places: dict[int, Place],
        hits: Hits,
        registers: set[str],
        note: Callable[..., None] | None,
        pages: PageEvents | None,
    ) -> None:
        control, domid, undo = self._control, self._domid, self._undo
        gpas = {address: self.where(address) for address in places}
        # The ring first: it is what tells that another monitor has the guest.
        monitor = self.domain.monitor()
        undo.add("event ring", monitor.close)
        self._forget = monitor.forget
        self.ring = monitor.ring
        if not monitor.capabilities & _SINGLESTEP:
            raise XenError(
                "this CPU cannot single-step a guest unnoticed (no monitor trap flag)",
                where=f"domain {domid}",
                hint="an Intel CPU with VT-x is needed",
            )
        channel = self.channel = self.domain.channel(monitor.port)
        undo.add("event channel", channel.close)
        altp2m = self._altp2m = self.domain.altp2m()
        undo.add("views", altp2m.close)
        altp2m.turn_on()
        window, spare = self._make_frames(len({gpa >> 12 for gpa in gpas.values()}) + _SPARE if places else 0)
        view = altp2m.create_view(Access.RWX)
        shadows = self._shadows = Shadows(altp2m, view, self.domain.memory, spare, window.buffer)
        memory = self._guest.memory if self._guest is not None else self.domain.memory
        answers = self._answers = Answers(monitor.ring, control, domid, shadows, memory, self.events, self._on_changed)
        if pages is not None:
            registers = registers | set(REGISTERS)
            self._bar(ViewRights(altp2m, view), spare, pages, note)
        for address, place in places.items():
            shadows.arm(gpas[address])
            self._gpas[address] = gpas[address]
            self.places[address] = place
            answers.choose(place, gpas[address])
        full = self._ring_full if control.domain(domid).vcpus > SLOTS else None
        self.batch = make_batch(
            monitor.ring, channel.hand_over, self.places, hits, registers, answers.other, note, full
        )
        undo.add("guest in the view", lambda: self._leave_view(monitor))
        begun = time.monotonic_ns()
        with self._paused():
            monitor.software_breakpoint()
            monitor.singlestep()
            self._on_changed(shadows.refresh_all())
            altp2m.switch(view)
        self.paused_attach = time.monotonic_ns() - begun
        if self._check is not None:
            self._check.begin(time.time_ns())

    def _bar(self, rights: ViewRights, spare: list[int], pages: PageEvents, note: Callable[..., None] | None) -> None:
        """Take execution from every frame in the view, while the guest runs in its own memory."""
        assert self._shadows is not None  # noqa: S101  # made before
        assert self._answers is not None  # noqa: S101  # made before
        assert self.ring is not None  # noqa: S101  # made before
        many = self._control.domain(self._domid).vcpus > 1
        executing = Executing(rights, self._shadows, self.domain.memory, self.ring, pages, self.events, many=many)
        executing.changed = self._on_changed
        if note is not None:

            def tell(executed: Executed, registers: Any, moment: int) -> None:
                note(EXECUTE, moment, registers.vcpu_id, executed.gfn, registers, executed.text())

            executing.note = tell
        executing.bar(spare)
        self._answers.executing = executing
        self._check = PageCheck(executing, self._pages, lambda: self.batch())  # noqa: PLW0108  # it is made later

    def _pages(self) -> int | None:
        """Return how many frames the guest has, None if it is gone."""
        state = self.domain.state()
        return None if state is None else state.tot_pages

    def gaps(self, *, ending: bool = False) -> list[Gap]:
        """Return what execute traps did not see since this was asked before."""
        return [] if self._check is None else self._check.gaps(time.time_ns(), ending=ending)

    @contextlib.contextmanager
    def _paused(self) -> Iterator[None]:
        """Stop the guest for the time of the ``with`` block, and note when that was."""
        begun, wall = time.monotonic_ns(), time.time_ns()
        try:
            with self._control.paused(self._domid):
                yield
        finally:
            self.pauses.append((wall, wall + time.monotonic_ns() - begun))

    def _make_frames(self, count: int) -> tuple[ForeignMap, list[int]]:
        """Give the guest ``count`` frames past its last, mapped for us."""
        control, domid = self._control, self._domid
        info = control.domain(domid)
        pool = control.paging_pool(domid)
        # A view needs page tables of its own for what the guest touches. Xen crashes a guest whose pool runs dry.
        tables = info.tot_pages // 512 + count + 64
        self._later.add("page-table pool", lambda: self._restore_pool(pool))
        control.set_paging_pool(domid, pool + tables * 4096)
        frames = self.domain.frames()
        self._later.add("shadow frames", frames.close)
        spare = frames.add(count)
        window = self._window = self.domain.map(spare)
        self._later.add("their mapping", window.close)
        if window.errors:
            raise XenError(f"{len(window.errors)} of {count} shadow frames cannot be mapped", where=f"domain {domid}")
        return window, spare

    def _restore_pool(self, size: int) -> None:
        with contextlib.suppress(XenError):  # Xen may keep some of it in use: a larger pool harms nobody
            self._control.set_paging_pool(self._domid, size)

    def _leave_view(self, monitor: Monitor) -> None:
        """With the guest stopped: answer all it asked, end its steps, put it into its own memory, take it all down.

        It is the last step that was added, so that what else goes while the guest is stopped is taken back from here.
        """
        begun = time.monotonic_ns()
        with self._paused():
            try:
                self._drain()
                monitor.events_off()
                self._drain()
                assert self._altp2m is not None  # noqa: S101  # it was made before this step was added
                for vcpu in range(self._control.domain(self._domid).vcpus):
                    self._control.single_step_off(self._domid, vcpu)
                self._altp2m.switch(HOST_VIEW)
                self._drain()
            finally:
                self.places.clear()
                failed = self._undo.unwind()
        self.paused_detach = time.monotonic_ns() - begun
        if failed:
            raise failed[0][1]

    def _drain(self) -> None:
        """Handle what is in the ring until nothing comes any more."""
        for _ in range(_DRAINS):
            if not self.batch():
                return

    def detach(self) -> list[tuple[str, Exception]]:
        """Take everything back; return what failed. A guest that is gone fails nothing."""
        if self.domain.guardian is not None and self.domain.guardian.freed:
            self.abandon()
            return []
        failed = self._undo.unwind() + self._later.unwind()
        self.places.clear()
        self.batch = lambda: 0
        gone = bool(failed) and self.domain.state() is None
        if gone or not failed:
            self.domain.released()
        return [] if gone else failed

    def abandon(self) -> None:
        """Let go of a guest that was taken from us: ask nothing of Xen, another monitor may have it by now."""
        self._undo, self._later = Undo(), Undo()
        self.places.clear()
        self.batch = lambda: 0
        for end in (self.channel and self.channel.close, self._window and self._window.close, self._forget):
            if end:
                with contextlib.suppress(XenError, OSError):
                    end()

    def learn(self, address: int) -> bool:
        """Arm the place that calls return to at ``address``, while a vCPU waits; tell whether that worked."""
        place = self.places.get(address)
        if place is not None:
            place.site, place.read = True, None
            return True
        try:
            gpa = self.where(address)
            self._arm(gpa)
        except DrakmetError:
            return False
        place = Place(address, "", site=True)
        self._gpas[address] = gpa
        self._choose(place, gpa)
        self.places[address] = place
        return True

    def add(self, place: Place) -> None:
        """Arm a function's entry again."""
        if place.address not in self.places:
            self.places[place.address] = place
            self._gpas[place.address] = _UNKNOWN
            self._put(place, self._where(place.address))

    def remove(self, place: Place) -> None:
        """Take a function's entry out; it stays if calls return there."""
        if not place.site and self.places.pop(place.address, None) is not None:
            self._disarm(self._gpas.pop(place.address))

    def _put(self, place: Place, gpa: int) -> bool:
        """Give a place that has none its breakpoint, if something is mapped there; tell whether it has it."""
        if gpa < 0:
            return False
        try:
            self._arm(gpa)
        except XenError:
            return False
        self._gpas[place.address] = gpa
        self._choose(place, gpa)
        return True

    def _arm(self, gpa: int) -> None:
        assert self._shadows is not None  # noqa: S101  # traps are added while attached
        if gpa >> 12 in self._shadows:
            self._shadows.arm(gpa)
            return
        # Between the new frame and its rights other vCPUs could read the breakpoints.
        with self._paused():
            self._shadows.arm(gpa)

    def _disarm(self, gpa: int) -> None:
        if gpa >= 0 and self._shadows is not None:
            self._shadows.disarm(gpa)

    def _choose(self, place: Place, gpa: int) -> None:
        assert self._answers is not None  # noqa: S101  # traps are added while attached
        self._answers.choose(place, gpa)

    def _on_changed(self, gpas: list[int]) -> None:
        """The guest rewrote instructions that have breakpoints: go on another way from now on."""
        if self._answers is not None:
            for place, gpa in self._at(gpas):
                self._answers.choose(place, gpa)

    def _at(self, gpas: list[int]) -> list[tuple[Place, int]]:
        changed = set(gpas)
        return [
            (self.places[address], gpa)
            for address, gpa in self._gpas.items()
            if gpa in changed and address in self.places
        ]

    def where(self, address: int) -> int:
        """Return the guest-physical address of a kernel address; `GuestError` if nothing is mapped there."""
        if self._space is None:
            raise GuestError("the guest's kernel is not known")
        return self._space.translate(address)

    def _where(self, address: int) -> int:
        try:
            return self.where(address)
        except GuestError:
            return _NOWHERE

    def look(self) -> list[Change]:
        """See that each breakpoint is where its place is, and that each copy has what the guest has; put it right.

        Return the places of which that was not so, each with what has happened. It costs a walk through the page
        tables a place, and a comparison a frame.
        """
        if self._shadows is None or self._answers is None or self._answers.writing:
            return []
        if self._check is not None:
            self._check.look(time.time_ns())
        changed = self._shadows.refresh_all()
        self._on_changed(changed)
        found = [(place, unnoticed.WRITTEN) for place, _ in self._at(changed)]
        for address, place in list(self.places.items()):
            before, now = self._gpas[address], self._where(address)
            if now == before:
                continue
            self._disarm(before)
            self._gpas[address] = _NOWHERE
            if self._put(place, now):
                found.append((place, unnoticed.BACK if before < 0 else unnoticed.MOVED))
            elif before != _NOWHERE:
                found.append((place, unnoticed.GONE))
        return found

    def _ring_full(self) -> None:
        self.events[unnoticed.RING_FULL] = self.events.get(unnoticed.RING_FULL, 0) + 1

    def alive(self) -> bool:
        """Tell whether the guest is still there."""
        return self.domain.state() is not None
