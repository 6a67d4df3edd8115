# SPDX-License-Identifier: GPL-2.0-or-later
"""Freeing a guest that a monitor left hanging, by hand: whatever monitor it was, and whatever it told nobody."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from drakmet.errors import XenError
from drakmet.guardian.survey import Survey, survey
from drakmet.pyxen.claim import Claim, ClaimedError
from drakmet.pyxen.failures import XenCallError
from drakmet.pyxen.recovery import recover

if TYPE_CHECKING:
    from drakmet.pyxen.control import Control

_MOST_PAUSES: Final = 64


def rescue(
    control: Control, domid: int, *, dry_run: bool = False, force: bool = False, keep_paused: bool = False
) -> tuple[Survey, Survey | None]:
    """Return what was found on the guest, and what is left after it was freed; None where nothing was to be done.

    ``dry_run`` changes nothing. `XenError` if a monitor that lives has the guest, unless it is taken by ``force``. A
    guest that something was left on is unpaused, unless ``keep_paused``: a monitor that died while it had it paused
    cannot be told from a person who paused it.
    """
    with contextlib.ExitStack() as stack:
        claimed = None
        try:
            stack.enter_context(Claim(domid, 0))
        except ClaimedError as error:
            claimed = error
        found = survey(control, domid)
        if claimed is not None and found.listener is None:
            found.listener = claimed.what
        if dry_run or not (found.stale or found.listener):
            return found, None
        if found.listener is not None and not force:
            raise XenError(
                f"the guest is watched: {found.listener}",
                where=found.name,
                hint="end that monitor first; --force takes the guest from it, and it may fail in any way then",
            )
        _free(control, found, force=force, keep_paused=keep_paused)
        return found, survey(control, domid)


def _free(control: Control, found: Survey, *, force: bool, keep_paused: bool) -> None:
    domid = found.domid
    recover(control, domid, from_the_living=force)
    for gfn in found.frames:
        with contextlib.suppress(XenCallError):  # it went with what the monitor had noted
            control.depopulate(domid, [gfn])
    if found.right_limit is not None:
        control.set_max_memkb(domid, found.right_limit)
    if not keep_paused:
        for _ in range(_MOST_PAUSES):
            if not control.domain(domid).paused:
                break
            control.unpause(domid)
