# SPDX-License-Identifier: GPL-2.0-or-later
"""Container ids out of cgroup paths."""

from __future__ import annotations

import pytest

from drakmet.guest.tasks import container_of

ID = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("cgroup", "wanted"),
    [
        (f"/system.slice/docker-{ID}.scope", ID),
        (f"/docker/{ID}", ID),
        (f"/machine.slice/libpod-{ID}.scope/container", ID),
        (f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope", ID),
        (f"/kubepods/burstable/pod1/{ID}", ID),
        ("/lxc.payload.web1/init.scope", "web1"),
        ("/lxc/web1", "web1"),
        ("/machine.slice/machine-deb12.scope/payload", "deb12"),
        ("/", None),
        ("/user.slice/user-1000.slice/session-1.scope", None),
        (f"/x{ID}y", None),
        (None, None),
    ],
)
def test_containers_are_named_by_their_cgroup(cgroup: str | None, wanted: str | None) -> None:
    assert container_of(cgroup) == wanted
