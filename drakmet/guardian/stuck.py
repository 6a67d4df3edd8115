# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a guest waits for a monitor that does nothing: a stopped monitor looks like a slow one for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drakmet.pyxen.failures import XenCallError

if TYPE_CHECKING:
    from drakmet.pyxen.control import Control
    from drakmet.pyxen.ledger import Ledger


def held_vcpus(control: Control, domid: int) -> dict[int, int]:
    """Return the CPU time of each vCPU that does not run although it neither sleeps nor is stopped with its domain.

    One whose time stands still for as long as it should have had its turn waits for a monitor's answer.
    """
    info = control.domain(domid)
    if info.paused or info.dying or info.shutdown:
        return {}
    found = {}
    for number in range(info.vcpus):
        try:
            vcpu = control.vcpu_info(domid, number)
        except XenCallError:  # no such vCPU
            continue
        if vcpu.online and not vcpu.blocked and not vcpu.running:
            found[number] = vcpu.cpu_time
    return found


class Stillness:
    """Says when the monitor has given no sign of life for ``patience`` seconds and the guest waits for it."""

    def __init__(self, control: Control, ledger: Ledger, patience: float) -> None:
        self._control = control
        self._ledger = ledger
        self._patience = patience
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._beats = -1
        self._since = self._looked = 0.0
        self._held: dict[int, int] = {}

    def look(self, now: float) -> bool:
        """Take a look at ``now`` seconds; return whether the guest is to be taken away."""
        slept = now - self._looked > self._patience
        self._looked = now
        beats = self._ledger.beats
        if beats != self._beats or slept:  # we may have been stopped as well
            self._beats, self._since, self._held = beats, now, {}
            return False
        try:
            waits = self._guest_waits()
        except XenCallError:  # the guest is gone: there is nobody to free
            return False
        return waits and now - self._since >= self._patience

    def _guest_waits(self) -> bool:
        """Tell whether a vCPU has not moved since the last look, or the guest is paused by the monitor."""
        ledger, before = self._ledger, self._held
        self._held = held_vcpus(self._control, ledger.domid)
        if any(before.get(vcpu) == time for vcpu, time in self._held.items()):
            return True
        return bool(ledger.pauses or ledger.pausing) and self._control.domain(ledger.domid).paused
