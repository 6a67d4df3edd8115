# SPDX-License-Identifier: GPL-2.0-or-later
"""Rights on frames in one view, for many frames at once and for frames that may not be there."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from drakmet.pyxen.failures import XenCallError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from drakmet.pyxen import Access, Altp2m

_AT_ONCE: Final = 512


class ViewRights:
    """The rights in one view. A frame that is no plain RAM of the guest is refused, which no call here raises."""

    def __init__(self, altp2m: Altp2m, view: int) -> None:
        self._altp2m = altp2m
        self.view = view

    def set(self, gfn: int, access: Access) -> bool:
        """Set the rights on one frame; return whether it could be done. Every vCPU has them when this returns."""
        try:
            self._altp2m.set_access(self.view, gfn, access)
        except XenCallError as error:
            if error.errno != errno.ESRCH:
                raise
            return False
        return True

    def get(self, gfn: int) -> Access | None:
        """Return the rights on a frame; None if it is not there, or was not touched in the view yet."""
        try:
            return self._altp2m.get_access(self.view, gfn)
        except XenCallError as error:
            if error.errno != errno.ESRCH:
                raise
            return None

    def set_many(self, gfns: Sequence[int], access: Access, between: Callable[[], object] | None = None) -> list[int]:
        """Set the same rights on many frames; return those that were refused. ``between`` is called now and then.

        Xen stops at the first that it refuses and does not say which that was: so what fails is tried in halves.
        """
        refused: list[int] = []
        parts = [list(gfns[start : start + _AT_ONCE]) for start in range(0, len(gfns), _AT_ONCE)]
        parts.reverse()
        while parts:
            part = parts.pop()
            try:
                self._altp2m.set_access_many(self.view, part, access)
            except XenCallError as error:
                if error.errno != errno.ESRCH:
                    raise
                if len(part) == 1:
                    refused += part
                else:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
            if between is not None:
                between()
        return refused
