# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that another drakmet watches: who comes second is told so before the long look for the kernel."""

from __future__ import annotations

import functools
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from drakmet.pyxen import claim
from drakmet.sources import xen

if TYPE_CHECKING:
    from pathlib import Path


def test_a_second_drakmet_is_refused_at_once_and_a_later_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "FOLDER", tmp_path)
    monkeypatch.setattr(xen, "Claim", functools.partial(claim.Claim, seconds=0.0))
    source = xen.XenSource.__new__(xen.XenSource)
    source.uri, source.domid = "xen:web1", 7
    source.control = SimpleNamespace(hvm_param=lambda *_: 2)  # type: ignore[assignment]
    with claim.Claim(7), pytest.raises(claim.ClaimedError, match=rf"another drakmet \(process {os.getpid()}\) watches"):
        source.check_traps()
    source.check_traps()
    with claim.Claim(7, 0.0):
        pass  # the question itself keeps nothing
