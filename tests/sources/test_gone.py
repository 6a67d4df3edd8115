# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that goes away while its kernel is looked for: Xen calls that busy."""

from __future__ import annotations

import errno
import uuid
from types import SimpleNamespace
from typing import Any

import pytest

from drakmet.errors import XenError
from drakmet.pyxen.failures import XenCallError
from drakmet.sources import xen


@pytest.mark.parametrize(
    ("dying", "says"), [(True, "the guest went away before it could be watched"), (False, "xc_monitor_enable failed")]
)
def test_a_guest_that_is_gone_is_not_said_to_be_another_monitors(
    dying: bool, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[str] = []

    def refused(_control: Any, domid: int) -> None:
        raise XenCallError("xc_monitor_enable", errno.EBUSY, domain=domid)

    monkeypatch.setattr(xen, "Monitor", refused)
    monkeypatch.setattr(xen, "abandoned", lambda *_: False)
    monkeypatch.setattr(xen, "Claim", lambda _: SimpleNamespace(close=lambda: left.append("claim")))
    monkeypatch.setattr(
        xen, "Journal", lambda *_: SimpleNamespace(save=lambda: None, clear=lambda: left.append("journal"))
    )
    info = SimpleNamespace(handle=uuid.UUID(int=1), dying=dying, shutdown=False)
    source = xen.XenSource.__new__(xen.XenSource)
    source.uri, source.domid, source.guardian = "xen:web1", 7, None
    source.control = SimpleNamespace(domain=lambda _: info, paging_pool=lambda _: 0)  # type: ignore[assignment]
    with pytest.raises(XenError, match=says):
        source.monitor()
    assert left == ["journal", "claim"]
