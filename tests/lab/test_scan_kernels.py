# SPDX-License-Identifier: GPL-2.0-or-later
"""Scans of memory images of Debian's kernels, each against what the guest's own /proc said before it was stopped.

The guests are plain ones under QEMU: no Xen is needed to stop one and take its memory. tests/guest/acts.c is their
init, so that nothing goes on between what it tells and the stop.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from guest.scan_truth import compare
from make_guest_images import Rows, run_to_census

from drakmet.lab.images import Builder
from drakmet.lab.kernels import kernel_of
from drakmet.lab.places import find_places
from drakmet.lab.progress import Progress
from drakmet.lab.recipes import GUEST_KERNELS
from drakmet.plugins import load_plugins
from drakmet.scan import scan
from drakmet.sources.images import ImageSource

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.lab

# QEMU's CPU "max" has page tables of 5 levels; Debian's 5.10 stays with 4 there.
KERNELS = (
    ("5.10", "amd64", "max", 4),
    ("5.10", "cloud-amd64", "Haswell", 4),
    ("6.1", "amd64", "Haswell", 4),
    ("6.1", "cloud-amd64", "max", 5),
    ("6.12", "amd64", "max", 5),
    ("6.12", "cloud-amd64", "Haswell", 4),
)
LEAST = {"process": 40, "open_file": 150, "open_socket": 20, "kernel_module": 4, "mount_point": 10, "mapped_file": 20}


@pytest.mark.parametrize(("version", "flavour", "cpu", "levels"), KERNELS)
def test_a_scan_is_what_the_guest_said(
    version: str, flavour: str, cpu: str, levels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = Builder(find_places().cache, Progress(quiet=True), guest_kernel=version)
    root = builder._kernel_root(GUEST_KERNELS[version], flavour)
    qemu = builder.qemu()
    share = qemu.path / "usr/share"
    monkeypatch.setenv("QEMU_MODULE_DIR", f"{qemu.path}/usr/lib/x86_64-linux-gnu/qemu")
    command = [*qemu.argv("usr/bin/qemu-system-x86_64"), "-L", f"{share}/qemu", "-L", f"{share}/seabios"]
    path, told = run_to_census(version, kernel_of(root.path).image, tmp_path, cpu, command)
    source = ImageSource(str(path))
    with closing(source):
        kernel, rows = source.kernel(), Rows()
        result = scan(source, load_plugins(only=["execution"]).plugins, [rows], kernel=kernel)
    assert (kernel.levels, result.gaps) == (levels, [])
    assert flavour.startswith("cloud") == ("cloud" in kernel.profile.release)
    problems, compared = compare(rows.rows, told)
    assert problems == []
    assert {table: compared[table] >= least for table, least in LEAST.items()} == dict.fromkeys(LEAST, True), compared
